"""The base class of all tables, and how a table declares its columns."""

import inspect
from datetime import UTC, date, datetime
from types import NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, get_args

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnClause,
    Date,
    DateTime,
    Double,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

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

# Annotates a column with its type in Python. `Column` cannot: SQLAlchemy types an attribute of a class with it as `Never`.
Typed = ColumnClause

SqlType = TypeEngine[Any] | type[TypeEngine[Any]]
_SQL_TYPES: dict[Any, SqlType] = {
    bool: Boolean,
    bytes: LargeBinary,
    date: Date,
    datetime: DateTime(timezone=True),
    dict[str, Any]: JSONB,
    float: Double,
    int: Integer,
    str: String,
}


class _Declared(NamedTuple):
    """Arguments of a column that `column` was given."""

    items: tuple[SchemaItem | SqlType, ...]
    options: dict[str, Any]

    def make(self, name: str, annotation: Any) -> Column[Any]:
        (kind,) = get_args(annotation)
        parts = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        has_type = any(not isinstance(item, SchemaItem) for item in self.items)
        items: tuple[Any, ...] = self.items if has_type else (_SQL_TYPES[parts[0]], *self.items)
        options: dict[str, Any] = {"name": name, "nullable": NoneType in parts} | self.options
        return Column(*items, **options)


def column(*items: SchemaItem | SqlType, **options: Any) -> Any:
    """Declare a column of a table: its annotation gives its SQL type, unless `items` has one, and whether it may be null.

    Args:
        items: SQL type, foreign key, and what else SQLAlchemy's `Column` takes by position.
        options: Keyword arguments of `Column`.
    """
    return _Declared(items, options)


def identity(**options: Any) -> Any:
    """Declare a primary key that the database counts up."""
    return column(Integer, Identity(always=True), primary_key=True, **options)


def big_identity(**options: Any) -> Any:
    """Declare a primary key of 64 bits that the database counts up."""
    return column(BigInteger, Identity(always=True), primary_key=True, **options)


def created(**options: Any) -> Any:
    """Declare a time at which the database inserts a row."""
    return column(server_default=func.now(), **options)


class Table:
    """Base of the tables in schema `alchemist`: the attributes of a subclass are its columns, and statements take the class as the table.

    The tables are those of SQLAlchemy Core. Its ORM would declare them the same, but nothing here makes objects of rows, and loading
    the ORM and mapping classes took a fifth of a second of processor time in every command.
    """

    metadata: ClassVar[MetaData] = MetaData(schema=SCHEMA, naming_convention=NAMING)
    __tablename__: ClassVar[str]
    __table_args__: ClassVar[tuple[SchemaItem, ...]] = ()
    __table__: ClassVar[sqlalchemy.Table]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        annotations = inspect.get_annotations(cls)
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, _Declared)}
        columns = {name: value.make(name, annotations[name]) for name, value in declared.items()}
        # The comment of a table in Postgres is the first paragraph of its docstring.
        comment = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
        items = (*columns.values(), *cls.__table_args__)
        cls.__table__ = sqlalchemy.Table(cls.__tablename__, cls.metadata, *items, comment=comment, **options)
        for name, made in columns.items():
            setattr(cls, name, made)

    @classmethod
    def __clause_element__(cls) -> sqlalchemy.Table:
        """Return the table where SQLAlchemy is given the class."""
        return cls.__table__

    @classmethod
    def add_column(cls, added: Column[Any]) -> None:
        """Add a column that the class does not declare."""
        cls.__table__.append_column(added)
        setattr(cls, added.name, added)


def utc_now() -> datetime:
    """Return the current time with its time zone.

    >>> utc_now().utcoffset().total_seconds()
    0.0
    """
    return datetime.now(UTC)
