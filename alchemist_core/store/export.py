"""Exported rows: a query file with a condition, streamed by a server-side cursor.

A condition can name the columns of the query only; its values are bound parameters.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    Double,
    Engine,
    Integer,
    LargeBinary,
    String,
    bindparam,
    cast,
    column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import SAMPLE_COLUMNS

ROWS_A_BATCH = 20_000
Kinds = Mapping[str, type[Any]]
CRAWLED: Kinds = {attribute.name: str for attribute in CRAWL_ATTRIBUTES}
HEURISTICS: Kinds = dict.fromkeys(("aesthetic", "clarity", "frequency", "edge_density"), float)
LOCATION: Kinds = {"dataset": str, "crawl_date": date, "shard": str, "key": str}
SCORE_COLUMNS: Kinds = {
    "sample_id": int, "pair_hash": bytes, "score": float, "rank": float, "caption": str, "width": int, "height": int, **CRAWLED,
    **LOCATION,
}  # fmt: skip
EXPORTED_COLUMNS: Kinds = {
    "sample_id": int, **{column.name: column.kind for column in SAMPLE_COLUMNS}, **HEURISTICS, **LOCATION, "is_taken_down": bool,
}  # fmt: skip
FILTER_COLUMNS: Kinds = {
    "sample_id": int,
    **{column.name: column.kind for column in SAMPLE_COLUMNS if not column.name.endswith("_hash")},
    **HEURISTICS,
}
"""Columns that the condition of a selection can name."""
MEMBER_COLUMNS: Kinds = {"sample_id": int, **CRAWLED, **LOCATION}
_JSON_COLUMNS = {column.name for column in SAMPLE_COLUMNS if column.sql_type == "jsonb"}
TYPES = {int: BigInteger, float: Double, str: String, bytes: LargeBinary, date: Date, bool: Boolean}


def stream_rows(
    engine: Engine, query: str, kinds: Kinds, where: str | None, parameters: Mapping[str, Any]
) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield batches of rows in the order of sample_id, all of one snapshot of the store.

    Args:
        engine: The store.
        query: Name of the query file.
        kinds: Columns and their types, in the order of the result.
        where: A condition, or None.
        parameters: The query's own parameters.

    Raises:
        ConfigError: The condition is not valid; raised before anything is read.
    """
    statement = filter_rows(query, kinds, where, parameters, names=tuple(kinds))
    return _batches(engine, statement, parameters)


def filter_rows(
    query: str,
    kinds: Kinds,
    where: str | None,
    parameters: Mapping[str, Any],
    *,
    names: Sequence[str] = ("sample_id",),
    order_by: str = "sample_id",
) -> Any:
    """Return the statement for the rows of a query that satisfy a condition, in order.

    Args:
        query: Name of the query file.
        kinds: Columns and their types, which the condition can name.
        where: A condition, or None.
        parameters: The query's own parameters.
        names: Columns of the result.
        order_by: Column to order by.

    Raises:
        ConfigError: The condition is not valid.
    """
    typed: list[Any] = [column(name, JSONB if name in _JSON_COLUMNS else TYPES[kind]) for name, kind in kinds.items()]
    rows = load_query(query).bindparams(*(bindparam(name, type_=Integer) for name in parameters)).columns(*typed)
    found = rows.subquery("found")
    elements = {
        name: cast(found.c[name], String).label(name) if name in _JSON_COLUMNS else found.c[name] for name in kinds
    }
    statement = select(*(elements[name] for name in names)).order_by(found.c[order_by])
    if where is not None:
        # sqlglot takes most of a second to import, so it is imported only for a condition.
        from alchemist_core.store.conditions import compile_condition  # noqa: PLC0415

        statement = statement.where(compile_condition(where, kinds, elements))
    return statement


def _batches(engine: Engine, statement: Any, parameters: Mapping[str, Any]) -> Iterator[Sequence[Sequence[Any]]]:
    with engine.connect().execution_options(yield_per=ROWS_A_BATCH) as connection:
        yield from connection.execute(statement, parameters).partitions()
