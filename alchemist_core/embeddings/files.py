"""One file of embeddings: the samples of a shard in the order of their ids, as Arrow IPC without compression.

A reader maps the file into memory and copies nothing. README.md has the comparison with Parquet.

Letters: N samples · D numbers of an embedding.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path, atomic_write, file_sha256
from alchemist_core.store.embeddings import EmbeddingFile

FOLDER = "embeddings"
"""Folder of the artifacts."""


class MappedFile(NamedTuple):
    """The columns of a file, as views of the mapped file."""

    sample_id_N: NDArray[np.int64]
    embedding_ND: NDArray[np.float16]


def file_uri(rater_id: int, name: str) -> str:
    """Return the address of a file, relative to the artifacts."""
    return f"{FOLDER}/{rater_id}/{name}.arrow"


def own_path(uri: str, rater_id: int) -> Path:
    """Return the path of a file that may be deleted.

    Raises:
        DataError: It is not in the folder of its rater: a person who may change rows could name any file of the artifacts.
    """
    path, folder = artifact_path(uri), artifact_path(f"{FOLDER}/{rater_id}")
    if path.parent != folder:
        raise DataError(
            f"{uri!r} is not a file in {folder}, so it is not removed. Find out who changed this row of the store."
        )
    return path


def write_embeddings(uri: str, sample_id_N: NDArray[np.int64], embedding_ND: NDArray[np.float16]) -> EmbeddingFile:
    """Write a file as a whole, and return what its row says.

    Args:
        uri: Its address; only this process writes it.
        sample_id_N: Distinct samples, at least one.
        embedding_ND: Their embeddings, all finite.
    """
    path = artifact_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    order_N = np.argsort(sample_id_N)
    ids, dim = sample_id_N[order_N], embedding_ND.shape[1]
    batch = as_record_batch(ids, embedding_ND[order_N])
    with atomic_write(path, is_sole_writer=True) as partial, pa.ipc.new_file(str(partial), batch.schema) as writer:
        writer.write_batch(batch)
    return EmbeddingFile(uri, file_sha256(path), len(ids), dim, int(ids[0]), int(ids[-1]))


def embedding_schema(dim: int) -> pa.Schema:
    """Return the columns of a file, or of an export."""
    return pa.schema([("sample_id", pa.int64()), ("embedding", pa.list_(pa.float16(), dim))])


def as_record_batch(sample_id_N: NDArray[np.int64], embedding_ND: NDArray[np.float16]) -> pa.RecordBatch:
    """Return samples and their embeddings as one batch of Arrow."""
    flat = pa.array(np.ascontiguousarray(embedding_ND).ravel(), pa.float16())
    dim = embedding_ND.shape[1]
    arrays = [pa.array(sample_id_N, pa.int64()), pa.FixedSizeListArray.from_arrays(flat, dim)]
    return pa.RecordBatch.from_arrays(arrays, schema=embedding_schema(dim))


def map_embeddings(uri: str) -> MappedFile:
    """Map a file into memory.

    Raises:
        DataError: It is missing or damaged.
    """
    path = artifact_path(uri)
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"The embeddings {path} cannot be read ({error}). Restore the file from a backup of the artifacts."
        ) from error
    ids, embeddings = batch.column("sample_id"), batch.column("embedding")
    flat = embeddings.flatten().to_numpy(zero_copy_only=True)
    return MappedFile(ids.to_numpy(zero_copy_only=True), flat.reshape(len(ids), embeddings.type.list_size))


def require_unchanged(uri: str, sha256: bytes) -> None:
    """Compare a file with its registered hash.

    Raises:
        DataError: It is missing, or its bytes were changed.
    """
    path = artifact_path(uri)
    found = file_sha256(path) if path.is_file() else None
    if found != sha256:
        state = "is missing" if found is None else f"has sha256 {found.hex()}, but {sha256.hex()} is registered"
        raise DataError(f"The embeddings {path}: the file {state}. Restore it from a backup of the artifacts.")


def list_on_disk() -> list[Path]:
    """Return the files of embeddings in the artifacts, partly written ones included."""
    return sorted(path for path in artifact_path(FOLDER).glob("*/*") if path.is_file())
