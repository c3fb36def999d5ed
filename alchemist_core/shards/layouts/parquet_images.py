"""Parquet files that contain images: FLUX-Reason-6M, and those that Hugging Face writes for any image-text dataset.

An image is a struct of `bytes` and `path`, or plain bytes; every other column is kept as metadata, without its bytes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alchemist_core.errors import DataError, MissingShardError
from alchemist_core.shards.layouts.records import (
    MAX_READ_BYTES,
    LayoutRecord,
    read_caption,
    read_file_below,
    read_named_image,
)
from alchemist_core.shards.storage import is_s3, join_uri, list_files, open_shard

CAPTION_COLUMNS = ("caption", "caption_detail", "text", "TEXT", "prompt")
"""In order of preference. `caption_detail` is the only caption of FLUX-Reason that is never null."""
_IMAGE_NAMES = {"image", "img", "jpg", "jpeg", "png", "webp"}
_BATCH = 32


def read_parquet(source: Path | str, start: int = 0) -> Iterator[LayoutRecord]:
    """Yield every row of the Parquet files under a folder or s3:// prefix, in the order of their paths. Only a few rows are in memory.

    Args:
        source: A folder, a file, or an s3:// address.
        start: Number of rows to skip; row groups before it are not read.

    Raises:
        DataError: There is no file, or a file has no image or caption column.
    """
    uris = [uri for uri in list_files(str(source)) if uri.endswith(".parquet") or uri == str(source)]
    if not uris and is_s3(str(source)) and str(source).endswith(".parquet"):
        # A store lists what is below an address, not the object itself.
        uris = [str(source)]
    if not uris:
        raise DataError(
            f"{source} contains no .parquet file. Give a folder, a file or an s3:// address with Parquet files."
        )
    for uri in uris:
        # Without read-ahead: its buffers would keep every row in memory until the file is closed.
        with open_shard(uri) as raw, pq.ParquetFile(raw, pre_buffer=False) as file:
            n_rows = file.metadata.num_rows
            if start < n_rows:
                image, caption = find_columns(file.schema_arrow, uri)
                read = partial(_read_beside, uri.rpartition("/")[0])
                yield from (_make_record(row, image, caption, read) for row in _rows(file, start))
            start = max(0, start - n_rows)


def _rows(file: pq.ParquetFile, start: int) -> Iterator[dict[str, Any]]:
    groups = list(range(file.num_row_groups))
    while groups and start >= (n_rows := file.metadata.row_group(groups[0]).num_rows):
        start -= n_rows
        groups.pop(0)
    batches = file.iter_batches(batch_size=_BATCH, row_groups=groups)
    return islice((row for batch in batches for row in batch.to_pylist()), start, None)


def _read_beside(folder: str, name: str) -> bytes:
    if not is_s3(folder):
        return read_file_below(Path(folder), name)
    if name.startswith("/") or ".." in name.split("/"):
        return b""
    try:
        with open_shard(join_uri(folder, name)) as file:
            return file.read(MAX_READ_BYTES)
    except MissingShardError:
        return b""


def find_columns(schema: pa.Schema, path: Path | str) -> tuple[str, str]:
    """Return the names of the image column and the caption column.

    Plain bytes may be a hash: unless their name says that they are an image, a struct with bytes comes before them.

    Raises:
        DataError: One of them is missing.
    """
    plain = [field.name for field in schema if _is_binary(field.type)]
    named = [name for name in plain if name.lower() in _IMAGE_NAMES]
    images = [field.name for field in schema if _has_bytes(field.type) or field.name in named] + plain
    captions = [name for name in CAPTION_COLUMNS if name in schema.names]
    if not images:
        raise DataError(
            f"{path} has no image column (found: {', '.join(schema.names)}). Images of which only the URLs are published, as in LAION, "
            "can be downloaded by img2dataset, whose tars alchemist ingest reads directly."
        )
    if not captions:
        raise DataError(
            f"{path} has no caption column (found: {', '.join(schema.names)}). Rename one to {', '.join(CAPTION_COLUMNS)}."
        )
    return images[0], captions[0]


def _has_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _make_record(row: dict[str, Any], image: str, caption: str, read_beside: Callable[[str], bytes]) -> LayoutRecord:
    found = row.pop(image)
    if isinstance(found, dict) and found.get("bytes") is None:
        read, note = read_named_image(found.get("path"), read_beside)
    else:
        data = found.get("bytes") if isinstance(found, dict) else found
        read, note = partial(bytes, data or b""), {}
    text, captions = read_caption(row.pop(caption))
    return LayoutRecord(read, text, row | note | captions)
