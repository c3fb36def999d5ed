"""Rows of the store as Arrow tables, for notebooks and files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, text
from sqlalchemy.exc import StatementError

from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.store.refusals import explain_refusal

ARROW_TYPES = {
    int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary(), date: pa.date32(), bool: pa.bool_()
}  # fmt: skip
# By Postgres's type numbers (pg_type.oid). A numeric becomes a float: our views use it only for rounded numbers.
_POSTGRES_TYPES = {
    16: pa.bool_(), 17: pa.binary(), 20: pa.int64(), 21: pa.int64(), 23: pa.int64(), 25: pa.string(), 700: pa.float64(),
    701: pa.float64(), 1042: pa.string(), 1043: pa.string(), 1082: pa.date32(), 1114: pa.timestamp("us"),
    1184: pa.timestamp("us", tz="UTC"), 1700: pa.float64(),
}  # fmt: skip
# json and jsonb become text, as in exports: a column of Arrow has one type, and JSON has another one in each row.
_JSON_TYPES = {114, 3802}
_JSON_ARRAY_TYPES = {199, 3807}


def table_of(kinds: Mapping[str, type[Any]], batches: Iterable[Sequence[Sequence[Any]]]) -> pa.Table:
    """Collect batches of rows into one table.

    Args:
        kinds: Columns and their Python types, in the order of the rows' values.
        batches: Rows, as `store.export.stream_rows` yields them.
    """
    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in kinds.items()])
    return pa.Table.from_batches([record_batch(schema, batch) for batch in batches], schema=schema)


def record_batch(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Turn rows into columns."""
    columns = [pa.array([_plain(row[i]) for row in rows], type=field.type) for i, field in enumerate(schema)]
    return pa.record_batch(columns, schema=schema)


def read_table(engine: Engine, query: str, parameters: Mapping[str, Any]) -> pa.Table:
    """Run one query in a transaction that cannot write, and return all its rows; JSON is text.

    Args:
        engine: The store.
        query: SQL; its values are bound parameters, written `:name`.
        parameters: Their values.

    Raises:
        ConfigError: The query is not valid SQL, lacks a value, or would write.
        StoreError: Postgres is unreachable or ended the query.
    """
    try:
        with engine.connect() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            found = connection.execute(text(query), parameters)
            description: Any = found.cursor.description if found.cursor is not None else ()
            rows = found.fetchall() if found.returns_rows else []
    except StatementError as error:
        raise _refusal(error) from error
    columns = [_column([row[i] for row in rows], column.type_code) for i, column in enumerate(description)]
    return pa.table(columns, names=[column.name for column in description])


def _refusal(error: StatementError) -> AlchemistError:
    message = str(error.orig).strip().splitlines()[0]
    if getattr(error.orig, "pgcode", None) == "25006":
        return ConfigError(f"This query would write: {message}. Use the commands to change a store.")
    known = explain_refusal(error)
    # A missing table or column is a mistake in the query here. Elsewhere it would mean an outdated schema.
    return (
        known
        if known is not None and " lacks " not in str(known)
        else ConfigError(f"Postgres refused the query: {message}.")
    )


def _column(values: list[Any], type_code: int) -> pa.Array:
    if type_code in _JSON_TYPES:
        return pa.array([_json_text(value) for value in values], type=pa.string())
    if type_code in _JSON_ARRAY_TYPES:
        lists = [None if value is None else [_json_text(one) for one in value] for value in values]
        return pa.array(lists, type=pa.list_(pa.string()))
    kind = _POSTGRES_TYPES.get(type_code)
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    return pa.array([_plain(value) for value in values], type=kind)


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
