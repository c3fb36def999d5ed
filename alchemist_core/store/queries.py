"""Loads queries from `sql/queries/`, where every query with a window function, three joins or a lock hint is a file."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import CursorResult, Row, TextClause, text

from alchemist_core.resources import resource

FIRST_ROWS, MOST_ROWS, CHARS_A_FETCH = 200, 2_000, 32 << 20


@cache
def load_query(name: str) -> TextClause:
    """Return the statement of `sql/queries/NAME.sql`; its parameters are bound by name."""
    return text(resource("sql", "queries", f"{name}.sql").read_text(encoding="utf-8"))


def fetch_bounded(result: CursorResult[Any]) -> Iterator[tuple[Sequence[Row[Any]], int]]:
    """Yield the rows of a server-side cursor fetch by fetch, each with its number of characters of text.

    The server is waited for once a fetch, so rows are fetched by the thousand where they are short. A row with metadata can be longer
    than a MiB: a fetch has as many rows as `CHARS_A_FETCH` characters allow, if they are as long as those of the last fetch;
    `MOST_ROWS` bounds a fetch whose rows are suddenly longer.
    """
    n_rows = FIRST_ROWS
    while rows := result.fetchmany(n_rows):
        n_chars = sum(len(value) for row in rows for value in row if isinstance(value, str))
        yield rows, n_chars
        n_rows = max(1, min(MOST_ROWS, CHARS_A_FETCH * len(rows) // max(n_chars, 1)))
