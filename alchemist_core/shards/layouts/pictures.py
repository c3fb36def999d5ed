"""A folder of pictures, each with its caption in a text file of the same name, and facts about it in a JSON file of the same name."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from alchemist_core.errors import DataError
from alchemist_core.shards.captions import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_TEXT_BYTES, walk_values
from alchemist_core.shards.layouts.records import LayoutRecord, read_file_below
from alchemist_core.shards.tars import IMAGE_EXTS


def find_pictures(source: Path) -> Iterator[str]:
    """Yield the paths of all pictures below a folder, relative to it, sorted in each folder; hidden files and folders are left out."""
    for folder, names, files in os.walk(source):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower().removeprefix(".") in IMAGE_EXTS:
                yield Path(folder, name).relative_to(source).as_posix()


def read_pictures(source: Path) -> Iterator[LayoutRecord]:
    """Yield every picture of a folder; one without a text file has no caption, unless its JSON file has one.

    Raises:
        DataError: The folder does not exist, or holds no picture.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. Give the folder of the pictures.")
    name = None
    for name in find_pictures(source):
        stem = Path(name).with_suffix("")
        # One byte above the limits is enough for ingest to refuse a file that is too large.
        caption = read_file_below(source, f"{stem}.txt", MAX_TEXT_BYTES + 1) or None
        facts = _read_facts(read_file_below(source, f"{stem}.json", MAX_JSON_BYTES + 1))
        yield LayoutRecord(partial(read_file_below, source, name), caption, {"path": name} | facts)
    if name is None:
        raise DataError(f"{source} holds no picture ({', '.join(sorted(IMAGE_EXTS))}).")


def _read_facts(document: bytes) -> dict[str, Any]:
    """Return what a picture's JSON file says; text that is no JSON object, or nested more deeply than ingest reads, is kept as it is."""
    if not document:
        return {}
    text = document.decode("utf-8", "replace")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    is_kept = isinstance(facts, dict) and all(depth <= MAX_JSON_DEPTH for _, depth in walk_values(facts))
    return facts if is_kept else {"unread_json": text}
