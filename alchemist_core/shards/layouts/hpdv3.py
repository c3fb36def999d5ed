"""HPDv3: pairs of images of one prompt, of which people preferred the first. Both are kept, with the preference as metadata."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from alchemist_core.errors import DataError
from alchemist_core.shards.layouts.records import LayoutRecord, read_file_below

_CHUNK = 1 << 20
_SPACE = " \t\r\n,"


def read_hpdv3(source: Path) -> Iterator[LayoutRecord]:
    """Yield both images of every pair in a JSON file such as `train.json`. Paths of images are relative to its folder.

    Raises:
        DataError: The file is not a list of pairs.
    """
    if not source.is_file():
        raise DataError(f"{source} is not a file. Give one of HPDv3's lists of pairs, such as train.json.")
    with source.open(encoding="utf-8") as file:
        for number, pair in enumerate(read_array(file, source)):
            for side, other in ((1, 2), (2, 1)):
                yield _make_record(pair, side, other, number=number, root=source.parent)


def read_array(file: TextIO, source: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list one by one. Only a chunk of the text is in memory.

    Raises:
        DataError: It is not a list of objects, or it is truncated.
    """
    decoder, text, at = json.JSONDecoder(), file.read(_CHUNK).lstrip(), 1
    if not text.startswith("["):
        raise DataError(f"{source} is not a JSON list: it begins with {text[:20]!r}.")
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            value, at = _decode_next(decoder, text, at, source)
        except json.JSONDecodeError as error:
            more = file.read(_CHUNK)
            if not more:
                raise DataError(f"{source} is truncated or not valid JSON: {error}.") from error
            text, at = text[at:] + more, 0
            continue
        if not isinstance(value, dict):
            raise DataError(f"{source} contains {value!r} in place of a pair.")
        yield value


def _decode_next(decoder: json.JSONDecoder, text: str, at: int, source: Path) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except RecursionError as error:
        raise DataError(f"{source} is nested too deeply ({error}). Download it again.") from error


def _make_record(pair: dict[str, Any], side: int, other: int, *, number: int, root: Path) -> LayoutRecord:
    path = str(pair.get(f"path{side}", ""))
    metadata = {
        "pair": number, "is_preferred": side == 1, "path": path, "other_path": pair.get(f"path{other}"),
        "model": pair.get(f"model{side}"), "other_model": pair.get(f"model{other}"),
        "choice_dist": pair.get("choice_dist"), "confidence": pair.get("confidence"),
    }  # fmt: skip
    return LayoutRecord(partial(read_file_below, root, path), str(pair.get("prompt") or ""), metadata)
