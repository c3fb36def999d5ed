"""The declarative base of all tables, and their common column types."""

import inspect
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import sqlalchemy
from sqlalchemy import BigInteger, DateTime, Identity, Integer, LargeBinary, MetaData, Row, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

SCHEMA = "alchemist"

# A row whose columns the caller reads by name.
AnyRow = Row[*tuple[Any, ...]]

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of the tables in schema `alchemist`."""

    metadata = MetaData(schema=SCHEMA, naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        bytes: LargeBinary,
        str: String,
    }

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.__table__, sqlalchemy.Table):
            # The comment of a table in Postgres is the first paragraph of its docstring.
            cls.__table__.comment = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


Key = Annotated[int, mapped_column(Integer, Identity(always=True), primary_key=True)]
BigKey = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
Created = Annotated[datetime, mapped_column(server_default=func.now())]


def utc_now() -> datetime:
    """Return the current time with its time zone.

    >>> utc_now().utcoffset().total_seconds()
    0.0
    """
    return datetime.now(UTC)
