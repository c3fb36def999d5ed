"""Parquet files with pictures in them: FLUX-Reason-6M, and what Hugging Face writes for any image-text set.

A picture is a struct of `bytes` and `path`, or plain bytes; every other column is kept as metadata.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alchemist_core.data.layouts.records import LayoutRecord, read_file_below
from alchemist_core.errors import DataError

CAPTION_COLUMNS = ("caption", "caption_detail", "text", "TEXT", "prompt")
"""In the order in which they are looked for; FLUX-Reason's `caption_detail` is its only one that is never null."""
_BATCH = 32


def read_parquet(source: Path) -> Iterator[LayoutRecord]:
    """Yield every row of the Parquet files under a folder, in the order of their paths; a few rows are in memory at a time.

    Raises:
        DataError: There is no file, or one without a picture or a caption.
    """
    paths = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source} holds no .parquet file")
    for path in paths:
        # Read ahead, every row would stay in memory until the file is closed.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            image, caption = find_columns(file.schema_arrow, path)
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield _make_record(row, image, caption, path.parent)


def find_columns(schema: pa.Schema, path: Path) -> tuple[str, str]:
    """Return the names of the columns with the picture and with the caption.

    Raises:
        DataError: One of them is missing.
    """
    images = [field.name for field in schema if _is_image(field.type)]
    captions = [name for name in CAPTION_COLUMNS if name in schema.names]
    if not images:
        raise DataError(
            f"{path} has no column of pictures (found: {', '.join(schema.names)}). Addresses alone, as LAION publishes them, "
            "are fetched by img2dataset, whose tars alchemist ingest reads as they are."
        )
    if not captions:
        raise DataError(f"{path} has no caption under {', '.join(CAPTION_COLUMNS)} (found: {', '.join(schema.names)}).")
    return images[0], captions[0]


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(index).name for index in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _make_record(row: dict[str, Any], image: str, caption: str, root: Path) -> LayoutRecord:
    found = row.pop(image)
    if isinstance(found, dict) and found.get("bytes") is None and found.get("path"):
        read = partial(read_file_below, root, found["path"])
    else:
        data = found.get("bytes") if isinstance(found, dict) else found
        read = partial(bytes, data or b"")
    return LayoutRecord(read, row.pop(caption) or "", row)
