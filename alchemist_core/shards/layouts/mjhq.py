"""MJHQ-30K: ten folders of images, and a JSON with the prompt and the category of each."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from alchemist_core.errors import DataError
from alchemist_core.shards.layouts.records import LayoutRecord, read_file_below


def read_mjhq(source: Path) -> Iterator[LayoutRecord]:
    """Yield every image that `meta_data.json` names, in the order of its keys.

    Raises:
        DataError: The folder does not have this layout.
    """
    listing = source / "meta_data.json"
    if not listing.is_file():
        raise DataError(f"{listing} is missing. Give the folder with meta_data.json and the ten unpacked folders.")
    try:
        described = json.loads(listing.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{listing} is not valid JSON, or nested too deeply ({error}). Download it again.") from error
    _require_entries(described, listing)
    # The archive is unpacked beside the listing, or in a folder of its own.
    root = next((path.parent.parent for path in sorted(source.glob("**/*.jpg"))), source)
    for key in sorted(described):
        about = described[key]
        read = partial(read_file_below, root, f"{about['category']}/{key}.jpg")
        yield LayoutRecord(
            read, about["prompt"], {"key": key} | {name: about[name] for name in about if name != "prompt"}
        )


def _require_entries(described: Any, listing: Path) -> None:
    """Refuse a listing of another form before anything is written."""
    if not isinstance(described, dict):
        raise DataError(f"{listing} is not a JSON object. Give the meta_data.json of MJHQ-30K.")
    for key, about in described.items():
        if not isinstance(about, dict) or not all(isinstance(about.get(name), str) for name in ("category", "prompt")):
            raise DataError(
                f"{listing}: entry {key[:100]!r} is not an object with the texts category and prompt. Give the meta_data.json of MJHQ-30K."
            )
