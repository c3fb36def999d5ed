"""Loads queries from `sql/queries/`, where every query with a window function, three joins or a lock hint is a file."""

from functools import cache

from sqlalchemy import TextClause, text

from alchemist_core.resources import resource


@cache
def load_query(name: str) -> TextClause:
    """Return the statement of `sql/queries/NAME.sql`; its parameters are bound by name."""
    return text(resource("sql", "queries", f"{name}.sql").read_text(encoding="utf-8"))
