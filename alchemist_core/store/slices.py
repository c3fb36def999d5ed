"""What a user's own suite of expectations looks at: one view of the store, limited to a night or to the members of a subset.

The limits are bound values of the session, never text of a query, so that no name of a dataset can be read as SQL. The session
is read-only: a suite is an operator's own, but a slip in it must not change the store.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.errors import DataError
from alchemist_core.store.pairs import list_wanted

NIGHT_COLUMNS, MEMBER_COLUMNS = ("dataset", "crawl_date"), ("sample_id",)
PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
ROW_NAMES = ("sample_id", "shard_id", "uri", "key")
"""Columns that tell a person which row is meant."""
COLUMNS = text("""
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = to_regclass(format('alchemist.%I', CAST(:view AS text))) AND attnum > 0 AND NOT attisdropped
""")
VIEWS = text("SELECT viewname::text FROM pg_views WHERE schemaname = 'alchemist' ORDER BY viewname")
# For this session; an empty crawl date means any.
SET_UP = text("""
    SELECT set_config('alchemist.checked_dataset', :dataset, false), set_config('alchemist.checked_date', :crawl_date, false),
        set_config('statement_timeout', :timeout_ms, false), set_config('default_transaction_read_only', 'on', false)
""")
OF_NIGHT = "dataset = current_setting('alchemist.checked_dataset')"
OF_DATE = "crawl_date = CAST(current_setting('alchemist.checked_date') AS date)"
OF_SUBSET = "sample_id IN (SELECT checked_members.sample_id FROM pg_temp.checked_members)"
MEMBERS = text("""
    CREATE TEMPORARY TABLE checked_members AS
    SELECT samples.sample_id FROM wanted INNER JOIN alchemist.samples ON wanted.pair_hash = samples.pair_hash
""")


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows of a view: a night's, or those of a subset's members. Letters: K members."""

    engine: Engine
    timeout_s: float
    dataset: str = ""
    crawl_date: date | None = None
    pair_hash_K32: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Slice:
    """Rows of a view as a query, and how to reach them."""

    rows: Rows
    query: str
    row_names: list[str]
    opened: list[Any] = field(default_factory=list)

    def connect(self) -> Any:
        """Open a read-only psycopg2 session in which the query means these rows."""
        rows = self.rows
        connection = rows.engine.connect()
        if rows.pair_hash_K32 is not None:
            list_wanted(connection, rows.pair_hash_K32)
            connection.execute(MEMBERS)
            connection.commit()
        connection.execute(SET_UP, {
            "dataset": rows.dataset, "crawl_date": rows.crawl_date.isoformat() if rows.crawl_date else "",
            "timeout_ms": str(round(rows.timeout_s * 1000)),
        })  # fmt: skip
        connection.commit()
        session = connection.connection.driver_connection
        connection.detach()
        self.opened.append(session)
        return session

    def has_rows(self) -> bool:
        """Tell whether there is anything to check."""
        with self.connect().cursor() as cursor:
            cursor.execute(f"SELECT EXISTS ({self.query})")
            return bool(cursor.fetchone()[0])


@contextmanager
def open_slice(view: str, rows: Rows) -> Iterator[Slice]:
    """Give a view's rows as a query; every session that was opened for it is closed at the end.

    Raises:
        DataError: There is no such view, or it cannot be limited to these rows, or the store refused the query.
    """
    with rows.engine.connect() as connection:
        columns = _columns(connection, view, MEMBER_COLUMNS if rows.pair_hash_K32 is not None else NIGHT_COLUMNS)
    limits = [OF_SUBSET] if rows.pair_hash_K32 is not None else [OF_NIGHT, *([OF_DATE] if rows.crawl_date else [])]
    query = f"SELECT * FROM alchemist.{view} WHERE {' AND '.join(limits)}"  # noqa: S608  a plain name that was found in the store
    found = Slice(rows, query, [name for name in ROW_NAMES if name in columns])
    try:
        yield found
    except DBAPIError as error:
        raise DataError(f"The store refused to read view {view!r}: {str(error.orig).partition(chr(10))[0]}.") from None
    finally:
        for session in found.opened:
            session.close()


def _columns(connection: Connection, view: str, needed: tuple[str, ...]) -> list[str]:
    columns = list(connection.execute(COLUMNS, {"view": view}).scalars()) if PLAIN_NAME.fullmatch(view) else []
    if not columns:
        views = list(connection.execute(VIEWS).scalars())
        near = get_close_matches(view, views, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Views: {', '.join(views)}."
        raise DataError(f"There is no view {view!r} in the store. {hint}")
    if missing := [name for name in needed if name not in columns]:
        raise DataError(
            f"View {view!r} has no column {' and no column '.join(missing)}: it cannot be limited to what is checked."
        )
    return columns
