"""Files of scores that were computed elsewhere: Parquet, CSV or JSON lines, read in chunks of columns.

Letters: R rows of a chunk that have a key and a finite score.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alchemist_core.errors import ConfigError, DataError, UnreachableRootError
from alchemist_core.shards import s3
from alchemist_core.shards.storage import has_files, is_s3, list_files, open_shard
from alchemist_core.store.manifests import HASH_BYTES

CHUNK_ROWS, BLOCK_BYTES = 250_000, 1 << 24
SUFFIXES = (".parquet", ".csv", ".jsonl")
SCORE = "score"
NUMBER, HASH, TEXT = "number", "hash", "text"
_TYPES = {NUMBER: pa.int64(), HASH: pa.string(), TEXT: pa.string(), SCORE: pa.float64()}
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[list(b"0123456789abcdef")] = np.arange(16)
_NIBBLES[list(b"ABCDEF")] = np.arange(10, 16)


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column that says which sample a score belongs to."""

    kind: str
    """number, hash (sha256: 64 hex digits, or 32 bytes) or text."""
    names: tuple[str, ...]
    """Its names in files; the first that a file has is read."""
    is_file_name: bool = False
    """Whether the name of the file, without its ending, is the value where a file has no such column."""


@dataclass(frozen=True, slots=True)
class ScoreChunk:
    """Some rows of a file, by column: those that have a key and a finite score."""

    columns: dict[str, Any]
    """Numbers and hashes as numpy arrays, texts as Arrow arrays; scores as float32 under `score`."""
    n_rows: int
    """Rows read, with those that are left out."""
    n_non_finite: int


def find_files(address: str) -> list[str]:
    """Return the files of scores at an address, in the order of their names.

    Args:
        address: A file, or a folder or s3:// prefix of files.

    Raises:
        ConfigError: There is none.
        DataError: The object store cannot be reached.
    """
    if address.lower().endswith(SUFFIXES) and not _is_folder(address):
        return [address]
    # Files such as _SUCCESS and .part are no data.
    found = [
        uri for uri in list_files(address)
        if uri.lower().endswith(SUFFIXES) and not uri.rpartition("/")[2].startswith((".", "_"))
    ]  # fmt: skip
    if not found:
        raise ConfigError(
            f"--from {address}: there are no scores. Give a file that ends in {', '.join(SUFFIXES)}, or a folder or s3:// prefix of such "
            "files."
        )
    return found


def _is_folder(address: str) -> bool:
    if not is_s3(address):
        return has_files(address)
    try:
        return s3.has_objects(address)
    except UnreachableRootError:
        raise
    except DataError:
        # Credentials may allow reading an object, but not listing its bucket.
        return False


def read_scores(uri: str, keys: Mapping[str, KeyColumn], score: str) -> Iterator[ScoreChunk]:
    """Yield the rows of a file in chunks; one chunk is in memory at a time.

    Args:
        uri: The file.
        keys: Its key columns, by the names that the chunks give them.
        score: Its column of scores.

    Raises:
        ConfigError: The file or a column is missing, or a column has values of another kind.
        DataError: The file is damaged or cannot be read.
    """
    with _open(uri) as file:
        try:
            present = _column_names(uri, file)
            chosen = {name: _choose(uri, key, present) for name, key in keys.items()}
            if score not in present:
                raise ConfigError(f"{uri} has no column {score!r} (columns: {', '.join(present)}). Give --column NAME.")
            kinds = {column: keys[name].kind for name, column in chosen.items() if column is not None} | {score: SCORE}
            for batch in _read_batches(uri, file, kinds):
                yield _chunk(uri, batch, keys, chosen, score)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, OSError) as error:
            line = str(error).strip().partition("\n")[0].rstrip(".")
            raise DataError(f"{uri} cannot be read: {line}. Write the file again.") from error


def _open(uri: str) -> BinaryIO:
    if is_s3(uri):
        return open_shard(uri)
    try:
        return Path(uri.removeprefix("file://")).open("rb")
    except OSError as error:
        raise ConfigError(f"--from {uri} cannot be opened: {error.strerror}. Correct the path.") from error


def _column_names(uri: str, file: BinaryIO) -> list[str]:
    if _is_parquet(uri):
        return list(pq.read_schema(file).names)
    names = _open_csv(file).schema.names if _is_csv(uri) else _open_json(file).schema.names
    file.seek(0)
    return list(names)


def _open_csv(file: BinaryIO, options: pyarrow.csv.ConvertOptions | None = None) -> Any:
    read = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES)
    # A URL can contain a line break.
    return pyarrow.csv.open_csv(file, read, pyarrow.csv.ParseOptions(newlines_in_values=True), options)


def _open_json(file: BinaryIO, options: pyarrow.json.ParseOptions | None = None) -> Any:
    return pyarrow.json.open_json(file, pyarrow.json.ReadOptions(block_size=BLOCK_BYTES), options)


def _is_csv(uri: str) -> bool:
    return uri.lower().endswith(".csv")


def _is_parquet(uri: str) -> bool:
    return uri.lower().endswith(".parquet")


def _choose(uri: str, key: KeyColumn, present: Sequence[str]) -> str | None:
    for name in key.names:
        if name in present:
            return name
    if key.is_file_name:
        return None
    raise ConfigError(
        f"{uri} has no column {' or '.join(map(repr, key.names))} (columns: {', '.join(present)}). Give --key-column NAME, or another "
        "--key."
    )


def _read_batches(uri: str, file: BinaryIO, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    names = list(kinds)
    # Without given types, a key such as 000012 would be read as the number 12.
    types = {name: _TYPES[kind] for name, kind in kinds.items()}
    if _is_parquet(uri):
        yield from pq.ParquetFile(file).iter_batches(CHUNK_ROWS, columns=names)
    elif _is_csv(uri):
        yield from _open_csv(file, pyarrow.csv.ConvertOptions(include_columns=names, column_types=types))
    else:
        schema = pa.schema(types)
        yield from _open_json(
            file, pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        )


def _chunk(
    uri: str, batch: pa.RecordBatch, keys: Mapping[str, KeyColumn], chosen: Mapping[str, str | None], score: str
) -> ScoreChunk:
    """Convert a batch: rows without a finite score or without a key are counted and left out."""
    with np.errstate(over="ignore"):
        score_B = _cast(uri, score, batch.column(score), pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
    is_finite_B = np.isfinite(score_B)
    columns = {name: _plain(batch.column(column)) for name, column in chosen.items() if column is not None}
    has_key_B = np.ones(len(batch), np.bool_)
    for column in columns.values():
        has_key_B &= column.is_valid().to_numpy(zero_copy_only=False)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column.validate(full=True)
            # Postgres cannot store a NUL, so such a key belongs to no sample.
            has_nul = pc.coalesce(pc.match_substring(column, "\0"), pa.scalar(value=False))
            has_key_B &= ~has_nul.to_numpy(zero_copy_only=False)
    kept_B = is_finite_B & has_key_B
    kept = pa.array(kept_B)
    found: dict[str, Any] = {
        name: _convert(uri, str(chosen[name]), column.filter(kept), keys[name].kind) for name, column in columns.items()
    }
    for name in chosen.keys() - found.keys():
        stem = uri.rpartition("/")[2].rpartition(".")[0]
        found[name] = pa.repeat(stem, int(kept_B.sum()))
    return ScoreChunk(
        {name: found[name] for name in chosen} | {SCORE: score_B[kept_B]},
        n_rows=len(batch), n_non_finite=int((~is_finite_B).sum()),
    )  # fmt: skip


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _convert(uri: str, name: str, column: pa.Array, kind: str) -> Any:
    if kind == NUMBER:
        return _cast(uri, name, column, pa.int64()).to_numpy(zero_copy_only=False)
    if kind == HASH:
        return _hashes(uri, name, column)
    if not pa.types.is_integer(column.type):
        return _cast(uri, name, column, pa.string())
    raise ConfigError(f"{uri}: the column {name!r} has numbers; the keys of records are texts, such as '000012'.")


def _cast(uri: str, name: str, column: pa.Array, wanted: pa.DataType) -> pa.Array:
    try:
        # A large whole number loses digits as a float; as an id it must not.
        return pc.cast(column, wanted, safe=wanted == pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        line = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"{uri}: the column {name!r} ({column.type}) is not {wanted}: {line}.") from error


def _hashes(uri: str, name: str, column: pa.Array) -> NDArray[np.void]:
    """Return hashes as values of 32 bytes, from bytes or from hex digits."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    n_bytes = HASH_BYTES * (2 if is_text else 1)
    values = _cast(uri, name, column, pa.large_binary())
    is_odd = pc.not_equal(pc.binary_length(values), n_bytes).to_numpy(zero_copy_only=False)
    if is_odd.any():
        _refuse_hash(uri, name, values[int(is_odd.argmax())].as_py())
    # After `filter` an array begins at the start of its buffer.
    data = values.buffers()[2]
    byte_RN = np.frombuffer(data or b"", np.uint8, n_bytes * len(values)).reshape(len(values), n_bytes)
    if is_text:
        nibble_RN = _NIBBLES[byte_RN]
        if (is_odd_R := (nibble_RN > 15).any(axis=1)).any():
            _refuse_hash(uri, name, values[int(is_odd_R.argmax())].as_py())
        byte_RN = np.asarray(nibble_RN[:, ::2] * 16 + nibble_RN[:, 1::2], np.uint8)
    return np.ascontiguousarray(byte_RN).view(f"V{HASH_BYTES}").ravel()


def _refuse_hash(uri: str, name: str, value: bytes) -> None:
    raise ConfigError(
        f"{uri}: the column {name!r} has {value[:80]!r}, which is no sha256. Allowed: 64 hex digits as text, or 32 bytes. Give "
        "--key-column NAME, or another --key."
    )
