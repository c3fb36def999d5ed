"""Queries kept as files in `sql/queries/`: anything with a window, a join of three or a lock hint."""

from functools import cache
from pathlib import Path

from sqlalchemy import TextClause, text

SQL_FOLDER = Path(__file__).parents[2] / "sql"


@cache
def load_query(name: str) -> TextClause:
    """Return the statement of `sql/queries/NAME.sql`, its parameters bound by name."""
    return text((SQL_FOLDER / "queries" / f"{name}.sql").read_text(encoding="utf-8"))
