"""Any image-text dataset that Hugging Face's `datasets` can open: a name on the hub, or a folder of images with metadata."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from alchemist_core.errors import DataError, MissingDependencyError
from alchemist_core.shards.layouts.parquet_images import CAPTION_COLUMNS
from alchemist_core.shards.layouts.records import LayoutRecord, read_caption, read_file_below, read_named_image


def read_huggingface(source: str, split: str = "train", start: int = 0) -> Iterator[LayoutRecord]:
    """Yield every row of a split, streamed; images are not decoded.

    Args:
        source: A folder, or ORG/NAME on the hub.
        split: The split's name.
        start: Number of rows to skip, which were read before.

    Raises:
        DataError: The dataset cannot be opened, or has no image or caption column.
        MissingDependencyError: `datasets` is not installed.
    """
    try:
        import datasets  # noqa: PLC0415  an extra that only this layout needs
    except ImportError as error:
        raise MissingDependencyError("Layout huggingface needs the library datasets: pip install datasets.") from error
    try:
        rows = datasets.load_dataset(source, split=split, streaming=True)
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        raise DataError(f"The library datasets cannot open {source}, split {split}: {error}.") from error
    features = rows.features or {}
    image = next((name for name, kind in features.items() if isinstance(kind, datasets.Image)), None)
    caption = next((name for name in CAPTION_COLUMNS if name in features), None)
    if image is None or caption is None:
        raise DataError(
            f"{source} has columns {', '.join(features)}, but an image and one of {', '.join(CAPTION_COLUMNS)} are needed."
        )
    for row in rows.decode(enable=False).skip(start):
        yield _make_record(row, image, caption, Path(source))


def _make_record(row: dict[str, Any], image: str, caption: str, folder: Path) -> LayoutRecord:
    found = row.pop(image) or {}
    data = found.get("bytes")
    note: dict[str, Any] = {}
    read: Callable[[], bytes] = partial(bytes, data or b"")
    if data is None:
        # Only below the source: the author of a dataset on the hub could name any file of this machine.
        read, note = read_named_image(found.get("path"), partial(read_file_below, folder))
    text, captions = read_caption(row.pop(caption))
    return LayoutRecord(read, text, row | note | captions)
