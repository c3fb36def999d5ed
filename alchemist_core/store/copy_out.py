"""COPY out of the store over psycopg2 into arrays, without a Python object a row: columns of fixed width and without nulls."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ClauseElement, Connection

from alchemist_core.errors import StoreError
from alchemist_core.store.copy_in import BINARY_END, BINARY_HEAD, quiet_driver


def copy_out(
    connection: Connection, statement: ClauseElement, parameters: Mapping[str, Any], fields: Mapping[str, str]
) -> NDArray[Any]:
    """Return the rows of a statement as one structured array, read from COPY's binary format.

    Args:
        connection: In whose transaction it is read.
        statement: A query; COPY takes no parameters, so the driver quotes them into it.
        parameters: Its parameters.
        fields: Its columns, in order, with the numpy type of each: `>i8` bigint, `>f8` double precision, `?` boolean, `(32,)u1` bytea
            of 32 bytes.

    Raises:
        StoreError: If a column is null, or not as wide as its type.
    """
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    cursor = connection.connection.cursor()
    query = cursor.mogrify(str(compiled), compiled.construct_params(dict(parameters)))
    data = io.BytesIO()
    with quiet_driver():
        cursor.copy_expert(b"COPY (" + query + b"\n) TO STDOUT (FORMAT binary)", data)
    return decode_rows(data.getbuffer(), fields)


def decode_rows(data: memoryview, fields: Mapping[str, str]) -> NDArray[Any]:
    r"""Decode COPY's binary format; a view of the data, not a copy.

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
    # A null has size −1 and no bytes, and shifts all that follows.
    sizes = {name: row.fields[name][0].itemsize for name in fields}  # type: ignore[index]  # a structured type has fields
    if n_rest or any((rows[f"size of {name}"] != size).any() for name, size in sizes.items()):
        raise StoreError(f"A COPY of {', '.join(fields)} gave a null, or a value that is not of {sizes} bytes.")
    return rows
