"""What data checks read and leave behind: one night's slice as columns, and one row an expectation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, insert, text

from alchemist_core.store.copy_in import copy_rows
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import CheckResult

Columns = dict[str, list[Any]]


def read_slice(engine: Engine, name: str, parameters: Mapping[str, Any]) -> Columns:
    """Return the rows of a query in `sql/queries/` as columns."""
    with engine.connect() as connection:
        return _columns(connection, name, parameters)


def read_members(engine: Engine, pair_hash_K: Iterable[bytes], subset_id: int) -> Columns:
    """Return what the store knows of a subset's members, as columns."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE wanted (pair_hash bytea) ON COMMIT DROP"))
        copy_rows(connection, "wanted", ("pair_hash",), ((pair_hash,) for pair_hash in pair_hash_K))
        connection.execute(text("ANALYZE wanted"))
        return _columns(connection, "check_subset", {"subset_id": subset_id})


def store_check_results(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the outcomes of one suite's expectations."""
    with engine.begin() as connection:
        connection.execute(insert(CheckResult), list(rows))


def _columns(connection: Connection, name: str, parameters: Mapping[str, Any]) -> Columns:
    result = connection.execute(load_query(name), parameters)
    names = list(result.keys())
    rows = result.all()
    return {column: [row[i] for row in rows] for i, column in enumerate(names)}
