"""COPY to and from Postgres over psycopg2: rows of any values, or columns of numbers without a loop over rows."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from sqlalchemy import ClauseElement, Connection

from alchemist_core.errors import StoreError
from alchemist_core.lazy import NDArray, np

CHUNK_BYTES = 1 << 20
# The header: signature, flags, and the length of an empty extension. The end: -1 instead of a number of fields.
BINARY_HEAD, BINARY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into a table in the connection's transaction, without holding them all in memory."""
    cursor = connection.connection.cursor()
    names = ", ".join(f'"{column}"' for column in columns)
    with quiet_driver():
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN", RowReader(rows))


def copy_columns(connection: Connection, table: str, columns: Mapping[str, NDArray[Any]]) -> int:
    """COPY columns of numbers into a table in the connection's transaction. Returns the number of rows that the server counted.

    A column's dtype must be its type in the table: int32 for integer, int64 for bigint, float32 for real, float64 for
    double precision.
    """
    cursor = connection.connection.cursor()
    names = ", ".join(f'"{column}"' for column in columns)
    data = io.BytesIO(encode_columns(list(columns.values())))
    with quiet_driver():
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)", data, CHUNK_BYTES)
    return int(cursor.rowcount)


@contextmanager
def quiet_driver() -> Iterator[None]:
    """Suppress the SystemError that psycopg2 prints when the server ends a COPY; it also raises the real error."""
    former = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if kind is not SystemError:
            former(kind, error, trace)

    sys.excepthook = hook
    try:
        yield
    finally:
        sys.excepthook = former


def encode_columns(columns: Sequence[NDArray[Any]]) -> bytes:
    r"""Encode columns in COPY's binary format: a header, then for each row the number of fields, and each field after its length.

    >>> encode_columns([np.array([258], np.int32)])[19:-2]
    b'\x00\x01\x00\x00\x00\x04\x00\x00\x01\x02'
    """
    fields = [("n_fields", ">i2")]
    for number, column in enumerate(columns):
        fields += [(f"size_{number}", ">i4"), (f"value_{number}", column.dtype.newbyteorder(">").str)]
    rows = np.empty(len(columns[0]), fields)
    rows["n_fields"] = len(columns)
    for number, column in enumerate(columns):
        rows[f"size_{number}"], rows[f"value_{number}"] = column.dtype.itemsize, column
    return b"".join((BINARY_HEAD, rows.tobytes(), BINARY_END))


class RowReader:
    """A file for COPY to read: each row is encoded when it is read."""

    def __init__(self, rows: Iterable[Sequence[Any]]) -> None:
        self._lines: Iterator[bytes] = (encode_row(row) for row in rows)
        self._rest = b""

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return up to size bytes; empty at the end."""
        parts, length = [self._rest], len(self._rest)
        while length < size and (line := next(self._lines, None)) is not None:
            parts.append(line)
            length += len(line)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def encode_row(row: Sequence[Any]) -> bytes:
    r"""Encode one row in COPY's text format.

    >>> encode_row((1, None, "a\tb", b"\x01", [1, 2]))
    b'1\t\\N\ta\\tb\t\\\\x01\t{1,2}\n'
    """
    return ("\t".join(map(encode_value, row)) + "\n").encode()


def encode_value(value: Any) -> str:
    """Encode one value in COPY's text format."""
    # The most frequent kinds first.
    match value:
        case str():
            return value.translate(ESCAPES)
        case None:
            return "\\N"
        case bool():
            return "t" if value else "f"
        case float() | int():
            return repr(value)
        case bytes():
            return "\\\\x" + value.hex()
        case dict():
            return json.dumps(value, ensure_ascii=False).translate(ESCAPES)
        case list() | tuple():
            return ("{" + ",".join(_array_item(item) for item in value) + "}").translate(ESCAPES)
        case _:
            return str(value).translate(ESCAPES)


def _array_item(item: Any) -> str:
    if isinstance(item, (int, float)):
        return repr(item)
    quoted = str(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def copy_out(
    connection: Connection, statement: ClauseElement, parameters: Mapping[str, Any], fields: Mapping[str, str]
) -> NDArray[Any]:
    """Return the rows of a statement as one structured array, read from COPY's binary format.

    Args:
        connection: The connection whose transaction reads.
        statement: A query. COPY takes no bound parameters, so the driver quotes them into the text.
        parameters: Parameters of the query.
        fields: Columns in order, with their numpy types: `>i8` bigint, `>f8` double precision, `?` boolean, `(32,)u1` bytea
            of 32 bytes.

    Raises:
        StoreError: A value is null, or has another size than its type.
    """
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    cursor = connection.connection.cursor()
    query = cursor.mogrify(str(compiled), compiled.construct_params(dict(parameters)))
    data = io.BytesIO()
    with quiet_driver():
        cursor.copy_expert(b"COPY (" + query + b"\n) TO STDOUT (FORMAT binary)", data)
    return decode_rows(data.getbuffer(), fields)


def decode_rows(data: memoryview, fields: Mapping[str, str]) -> NDArray[Any]:
    r"""Decode COPY's binary format. The result is a view of the data.

    >>> data = BINARY_HEAD + b"\0\1" + b"\0\0\0\4" + b"\0\0\1\2" + BINARY_END
    >>> decode_rows(memoryview(data), {"n": ">i4"})["n"].tolist()
    [258]
    """
    layout: list[tuple[str, str]] = [("n_fields", ">i2")]
    for name, kind in fields.items():
        layout += [(f"size of {name}", ">i4"), (name, kind)]
    row = np.dtype(layout)
    n_rows, n_rest = divmod(len(data) - len(BINARY_HEAD) - len(BINARY_END), row.itemsize)
    rows = np.frombuffer(data, row, n_rows, len(BINARY_HEAD))
    # A null has size −1 and no bytes, so all following values would be shifted.
    sizes = {name: row.fields[name][0].itemsize for name in fields}  # type: ignore[index]  # a structured type has fields
    if n_rest or any((rows[f"size of {name}"] != size).any() for name, size in sizes.items()):
        raise StoreError(f"COPY of {', '.join(fields)} returned a null, or a value of another size than {sizes} bytes.")
    return rows
