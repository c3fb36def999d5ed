"""Rows of the store for an export: a query file, a condition around it, streamed by a server-side cursor.

A condition's columns are those of the query and no others; its values are bound parameters.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Date,
    Double,
    Engine,
    Integer,
    LargeBinary,
    String,
    and_,
    bindparam,
    column,
    not_,
    or_,
    select,
)

from alchemist_core.data.faults import is_storable
from alchemist_core.store.conditions import Compare, Condition, Not, parse_condition, refuse
from alchemist_core.store.queries import load_query

ROWS_A_BATCH = 20_000
Kinds = Mapping[str, type[Any]]
PLACE: Kinds = {"dataset": str, "crawl_date": date, "shard": str, "key": str}
SCORE_COLUMNS: Kinds = {
    "sample_id": int, "pair_hash": bytes, "score": float, "rank": float, "caption": str, "width": int, "height": int,
    "source_url": str, "licence": str, **PLACE,
}  # fmt: skip
SAMPLE_COLUMNS: Kinds = {
    "sample_id": int, "pair_hash": bytes, "image_hash": bytes, "caption_hash": bytes, "perceptual_hash": int, "caption": str,
    "width": int, "height": int, "format": str, "source_url": str, "licence": str, "metadata": str, "aesthetic": float,
    "clarity": float, "frequency": float, "edge_density": float, **PLACE, "is_taken_down": bool,
}  # fmt: skip
TYPES = {int: BigInteger, float: Double, str: String, bytes: LargeBinary, date: Date, bool: Boolean}
WANTED = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    date: "'YYYY-MM-DD'",
    bytes: "hex digits in quotes",
    bool: "true or false",
}
OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def stream_rows(
    engine: Engine, query: str, kinds: Kinds, where: str | None, parameters: Mapping[str, Any]
) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield batches of rows in the order of sample_id, of one snapshot of the store.

    Args:
        engine: The store.
        query: Name of the query file.
        kinds: Its columns, in the order in which they are wanted.
        where: A condition, or none.
        parameters: The query's own parameters.

    Raises:
        ConfigError: If the condition is none; before anything is read.
    """
    statement = filter_rows(query, kinds, where, parameters, names=tuple(kinds))
    return _batches(engine, statement, parameters)


def filter_rows(
    query: str, kinds: Kinds, where: str | None, parameters: Mapping[str, Any], *, names: Sequence[str] = ("sample_id",)
) -> Any:
    """Return the statement that gives a query's rows where a condition holds, in the order of sample_id.

    Args:
        query: Name of the query file.
        kinds: Its columns, which the condition may name.
        where: A condition, or none.
        parameters: The query's own parameters.
        names: Which columns are wanted.

    Raises:
        ConfigError: If the condition is none.
    """
    typed: list[Any] = [column(name, TYPES[kind]) for name, kind in kinds.items()]
    rows = load_query(query).bindparams(*(bindparam(name, type_=Integer) for name in parameters)).columns(*typed)
    found = rows.subquery("found")
    statement = select(*(found.c[name] for name in names)).order_by(found.c.sample_id)
    if where is not None:
        statement = statement.where(_Compiler(where, kinds, found.c).build(parse_condition(where)))
    return statement


def _batches(engine: Engine, statement: Any, parameters: Mapping[str, Any]) -> Iterator[Sequence[Sequence[Any]]]:
    with engine.connect().execution_options(yield_per=ROWS_A_BATCH) as connection:
        yield from connection.execute(statement, parameters).partitions()


class _Compiler:
    """Turns a condition into an expression over known columns."""

    def __init__(self, text: str, kinds: Kinds, columns: Any) -> None:
        self._text, self._kinds, self._columns = text, kinds, columns

    def build(self, condition: Condition) -> ColumnElement[bool]:
        if isinstance(condition, Not):
            return not_(self.build(condition.part))
        if isinstance(condition, Compare):
            return self._compare(condition)
        parts = [self.build(part) for part in condition.parts]
        return and_(*parts) if condition.word == "and" else or_(*parts)

    def _compare(self, found: Compare) -> ColumnElement[bool]:
        if found.column not in self._kinds:
            refuse(self._text, found.at, f"there is no column {found.column!r} (columns: {', '.join(self._kinds)})")
        kind, place = self._kinds[found.column], self._columns[found.column]
        if found.op == "is null":
            return place.is_(None)  # type: ignore[no-any-return]
        if found.op == "like" and kind is not str:
            refuse(self._text, found.at, f"like is for texts; {found.column} is compared with {WANTED[kind]}")
        values = [self._value(found, kind, value) for value in found.values]
        if found.op == "in":
            return place.in_(values)  # type: ignore[no-any-return]
        if found.op == "like":
            return place.like(values[0])  # type: ignore[no-any-return]
        return OPERATORS[found.op](place, values[0])  # type: ignore[no-any-return]

    def _value(self, found: Compare, kind: type[Any], value: Any) -> Any:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            if kind is float and is_number:
                return float(value)
            if kind is int and is_number and value == int(value):
                return int(value)
            if kind is date and isinstance(value, str):
                return date.fromisoformat(value)
            if kind is bytes and isinstance(value, str):
                return bytes.fromhex(value)
            if kind is bool and isinstance(value, bool):
                return value
            if kind is str and isinstance(value, str) and is_storable(value):
                return value
        except (ValueError, OverflowError):
            pass
        return refuse(self._text, found.at, f"{found.column} is compared with {WANTED[kind]}, not with {value!r}")
