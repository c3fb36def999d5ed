"""Where the bytes of a subset's members lie, in Arrow columns: read without a Python object per member, and their checksums.

Letters: N rows · K samples.
"""

import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv
from sqlalchemy import ARRAY, BigInteger, Connection, Engine, any_, cast, select, text

from alchemist_core.settings import load_settings
from alchemist_core.shards.storage import join_uri
from alchemist_core.store.copy import CHUNK_BYTES, copy_columns, copy_out, quiet_driver
from alchemist_core.store.manifests import HASH_BYTES
from alchemist_core.store.queries import load_query
from alchemist_core.store.samples import list_wanted
from alchemist_core.store.tables import Dataset, Shard

CHECKSUM_BYTES = 16
"""Size of an XXH3-128."""
LOCATION_TYPES = {
    "number": pa.int64(), "shard_id": pa.int64(), "ordinal": pa.int32(), "key": pa.large_string(), "exts": pa.list_(pa.string()),
    "offsets": pa.list_(pa.int64()), "sizes": pa.list_(pa.int64()), "content_hash": pa.binary(HASH_BYTES),
    "content_checksum": pa.binary(CHECKSUM_BYTES), "repair": pa.string(),
}  # fmt: skip
"""Columns of the locations that `read_locations` returns."""
# Arrays and hashes as plain text, which Arrow parses. An extension has no slash, because it is part of a file's name.
_AS_TEXT = """
    SELECT number, shard_id, ordinal, key, array_to_string(file_exts, '/'), array_to_string(file_offsets, ' '),
        array_to_string(file_sizes, ' '), encode(content_hash, 'hex'), encode(content_checksum, 'hex'), repair
    FROM ({query}) AS located
"""
_TEXT_TYPES = {
    name: kind if kind in {pa.int64(), pa.int32()} else pa.large_string() for name, kind in LOCATION_TYPES.items()
}
_CSV_BYTES = 1 << 24
_FILL_CHECKSUMS = text("""
    UPDATE alchemist.sample_locations AS here SET content_checksum = read_again.content_checksum
    FROM read_again
    WHERE here.shard_id = read_again.shard_id AND here.ordinal = read_again.ordinal AND here.content_checksum IS NULL
""")


def read_locations(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> tuple[pa.Table, dict[int, str]]:
    """Return the first readable location of each sample (query `member_locations`), and the address of each shard by its id.

    Args:
        engine: The store.
        pair_hash_K32: The samples; a row's `number` is an index into it. Samples without a readable location are absent.
    """
    query = load_query("member_locations").text
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        parts = list(_copy_text(connection, _AS_TEXT.format(query=query), _TEXT_TYPES))
        empty = pa.table({name: pa.array([], kind) for name, kind in LOCATION_TYPES.items()})
        table = pa.concat_tables([empty, *map(_parse, parts)])
        shard_ids = pc.unique(table.column("shard_id")).to_pylist()
        places = (
            select(Shard.shard_id, Dataset.root_uri, Shard.uri)
            .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
            .where(Shard.shard_id == any_(cast(shard_ids, ARRAY(BigInteger))))
        )
        return table, {row.shard_id: join_uri(row.root_uri, row.uri) for row in connection.execute(places)}


def read_places(engine: Engine, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return each sample's place, from 0, in the order of the first locations that they ever had; takedowns do not change it."""
    with engine.begin() as connection:
        list_wanted(connection, pair_hash_K32)
        found = copy_out(
            connection, load_query("member_places"), {}, {"number": ">i4", "shard_id": ">i8", "ordinal": ">i4"}
        )
    first_K2 = np.full((len(pair_hash_K32), 2), np.iinfo(np.int64).max)
    first_K2[found["number"]] = np.stack([found["shard_id"], found["ordinal"]], axis=1)
    place_K = np.empty(len(first_K2), np.int64)
    place_K[np.lexsort((first_K2[:, 1], first_K2[:, 0]))] = np.arange(len(first_K2))
    return place_K


def fill_checksums(
    engine: Engine, shard_id_K: NDArray[np.int64], ordinal_K: NDArray[np.int32], checksum_K16: NDArray[np.uint8]
) -> None:
    """Store the checksums of records that were compared by their sha256, where the store has none yet."""
    columns: dict[str, NDArray[Any]] = {
        "shard_id": shard_id_K.astype(np.int64), "ordinal": ordinal_K.astype(np.int32),
        "content_checksum": np.ascontiguousarray(checksum_K16).view(f"V{CHECKSUM_BYTES}").ravel(),
    }  # fmt: skip
    made = "CREATE TEMPORARY TABLE read_again (shard_id bigint, ordinal integer, content_checksum bytea) ON COMMIT DROP"
    with engine.begin() as connection:
        connection.execute(text(made))
        copy_columns(connection, "read_again", columns)
        connection.execute(_FILL_CHECKSUMS)


def _parse(batch: pa.Table) -> pa.Table:
    columns = {
        **{name: batch.column(name) for name in ("number", "shard_id", "ordinal", "key", "repair")},
        "exts": pc.split_pattern(batch.column("exts"), "/"),
        **{name: pc.split_pattern(batch.column(name), " ") for name in ("offsets", "sizes")},
        "content_hash": _decode_hex(batch.column("content_hash"), HASH_BYTES),
        "content_checksum": _decode_hex(batch.column("content_checksum"), CHECKSUM_BYTES),
    }
    return pa.table({name: columns[name].cast(kind) for name, kind in LOCATION_TYPES.items()})


def _copy_text(connection: Connection, query: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """Yield the rows of a query in tables of some megabytes.

    The rows lie in a temporary file meanwhile, so that the server does not wait for their parsing.
    """
    home = load_settings().artifacts
    with tempfile.TemporaryFile(dir=home if home.is_dir() else None) as file:
        with quiet_driver():
            _copy_csv(connection, query, file)
        if not file.tell():
            return
        file.seek(0)
        # An unquoted empty value is a null, a quoted one an empty text.
        converting = csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        yield from (
            pa.Table.from_batches([batch])
            for batch in csv.open_csv(
                file,
                read_options=csv.ReadOptions(column_names=list(types), block_size=_CSV_BYTES),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=converting,
            )
        )


def _copy_csv(connection: Connection, query: str, file: IO[bytes]) -> None:
    cursor = connection.connection.cursor()
    cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT csv)", file, CHUNK_BYTES)


def _decode_hex(column: pa.ChunkedArray, n_bytes: int) -> pa.Array:
    r"""Return binary values of one size from their hexadecimal text; a null stays null.

    >>> _decode_hex(pa.chunked_array([pa.array(["00ff", None], pa.large_string())]), 2).to_pylist()
    [b'\x00\xff', None]
    """
    text_N = column.combine_chunks()
    is_null_N = text_N.is_null().to_numpy(zero_copy_only=False)
    _, offsets, data = text_N.buffers()
    starts = np.frombuffer(offsets, np.int64, len(text_N) + 1, 8 * text_N.offset)
    digits = np.frombuffer(data or b"", np.uint8)[starts[0] : starts[-1]]
    # Digits are 48 to 57, letters 97 to 102.
    nibbles = np.where(digits < 58, digits - 48, digits - 87).astype(np.uint8).reshape(-1, 2)
    value_N = np.zeros((len(text_N), n_bytes), np.uint8)
    value_N[~is_null_N] = (nibbles[:, 0] << 4 | nibbles[:, 1]).reshape(-1, n_bytes)
    valid = pa.py_buffer(np.packbits(~is_null_N, bitorder="little"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(n_bytes), len(text_N), [valid, pa.py_buffer(value_N)])
