"""Queries kept as files in `sql/queries/`: anything with a window, a join of three or a lock hint."""

from functools import cache

from sqlalchemy import TextClause, text

from alchemist_core.resources import resource


@cache
def load_query(name: str) -> TextClause:
    """Return the statement of `sql/queries/NAME.sql`, its parameters bound by name."""
    return text(resource("sql", "queries", f"{name}.sql").read_text(encoding="utf-8"))
