"""GenEval's own files: its prompts, its folders of images, and its lines of verdicts, so that its evaluator can be used too."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.files import atomic_folder


class Result(NamedTuple):
    """One image's line of `results.jsonl`."""

    filename: str
    is_correct: bool
    reason: str
    metadata: dict[str, Any]
    kept: dict[str, list[list[float]]]
    """The boxes that counted, by class: four ends and the score."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read `evaluation_metadata.jsonl`; a prompt's number is its line's, from 0.

    Raises:
        DataError: A line is no prompt.
    """
    prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, prompt in enumerate(prompts):
        if missing := {"tag", "prompt", "include"} - prompt.keys():
            raise DataError(f"{path}, line {number + 1} lacks {', '.join(sorted(missing))}")
    return prompts


def write_images(folder: Path, number: int, metadata: dict[str, Any], image_NHW3: Sequence[NDArray[np.uint8]]) -> None:
    """Write one prompt's images and its metadata as the official evaluator reads them, all of them or none.

    Args:
        folder: Folder of all prompts.
        number: The prompt's line number, from 0.
        metadata: The prompt's line.
        image_NHW3: Its images; the published protocol has four.
    """
    place = folder / f"{number:05d}"
    shutil.rmtree(place, ignore_errors=True)
    with atomic_folder(place) as partial:
        (partial / "samples").mkdir()
        (partial / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
        for sample, image in enumerate(image_NHW3):
            Image.fromarray(image).save(partial / "samples" / f"{sample:05d}.png")


def has_images(folder: Path, number: int, n_images: int) -> bool:
    """Tell whether a prompt has all its images."""
    return len(list((folder / f"{number:05d}" / "samples").glob("*.png"))) == n_images


def find_images(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each image's path with its prompt's metadata, in the order of their names; other folders and files are passed over.

    Raises:
        DataError: A prompt's folder has no metadata.
    """
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()):
        listing = place / "metadata.jsonl"
        if not listing.is_file():
            raise DataError(f"{listing} is missing; it holds the one line of the prompt")
        metadata = json.loads(listing.read_text(encoding="utf-8"))
        for path in sorted((place / "samples").glob("*.png")):
            if path.stem.isdigit():
                yield path, metadata


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write verdicts as the official evaluator does: a line an image, metadata and details as JSON in a string."""
    lines = [
        json.dumps({
            "filename": one.filename, "tag": one.metadata["tag"], "prompt": one.metadata["prompt"],
            "correct": one.is_correct, "reason": one.reason, "metadata": json.dumps(one.metadata),
            "details": json.dumps(one.kept),
        })
        for one in results
    ]  # fmt: skip
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """Read verdicts that this or the official evaluator wrote."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Result(row["filename"], row["correct"], row["reason"], json.loads(row["metadata"]), json.loads(row["details"]))
        for row in rows
    ]
