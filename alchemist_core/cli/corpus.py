"""Make a corpus: a synthetic one of captioned scenes, or pictures or a published dataset imported into tar shards."""

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from alchemist_core.cli.init import name_of
from alchemist_core.config import Command, Config, Result, counted
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.scenes import ScenesConfig, draw_scenes
from alchemist_core.project import load_project
from alchemist_core.settings import find_project_file, load_settings
from alchemist_core.shards.layouts.records import (
    ALL_CAPTIONS,
    LayoutRecord,
    find_shards,
    first_unfinished,
    write_shards,
)
from alchemist_core.shards.storage import is_s3
from alchemist_core.telemetry import say, warn


class ScenesCorpusConfig(Config):
    """Which scenes to generate, and the folder to write."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/scenes under the home")
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="The scenes")


class ImportConfig(Config):
    """Which dataset to import, and the folder to write."""

    layout: Literal["pictures", "parquet", "hpdv3", "mjhq", "huggingface"] = Field(
        ...,
        description="Layout of the source. pictures: a folder of pictures, each with its caption in a .txt of the same name; parquet: "
        "FLUX-Reason-6M and any Parquet with images; hpdv3; mjhq; huggingface: any source of the library datasets",
    )
    source: str = Field(
        ...,
        description="Folder, file (hpdv3: its JSON), ORG/NAME on the Hugging Face Hub, or s3:// address (only parquet)",
    )
    out: Annotated[str, BeforeValidator(str)] = Field(
        ..., description="Folder or s3:// address to write the tar shards to"
    )
    split: str = Field("train", description="Split of a Hugging Face dataset")
    shard_size: int = Field(1_000, ge=1, le=100_000, description="Samples per shard")


class CorpusResult(Result):
    """Folder and size of the corpus."""

    folder: str
    counts: dict[str, int]


def scenes(config: ScenesCorpusConfig) -> CorpusResult:
    """Generate captioned scenes with synthetic defects (plain, chaotic, wrongly captioned); truth.parquet labels them."""
    folder = config.out or load_settings().home / "corpora" / "scenes"
    drawn = draw_scenes(folder, **config.scenes.model_dump())
    if drawn.is_reused:
        say(f"{folder} already contains these scenes; they are reused.")
    counts = {"train": drawn.n_train, "validation": drawn.n_validation, "test": drawn.n_test}
    return CorpusResult(folder=str(folder.resolve()), counts=counts)


def import_layout(config: ImportConfig) -> CorpusResult:
    """Import a folder of pictures or a published dataset into tar shards. Tars of img2dataset and webdataset need no import."""
    if is_s3(config.source) and config.layout != "parquet":
        raise ConfigError(
            f"--source {config.source}: only --layout parquet reads an object store. Copy the {config.layout} files to a folder."
        )
    out = config.out if is_s3(config.out) else str(Path(config.out).resolve())
    parameters = {name: str(value) for name, value in config.model_dump(exclude={"out"}).items()}
    # For shards in an object store, the marker file is in the home.
    place = _marker_folder(out) if is_s3(out) else Path(out)
    marker = CorpusMarker(place, "import", parameters)
    if marker.is_finished():
        say(f"{config.out} already contains this import; it is reused.")
        return CorpusResult(folder=out, counts={})
    if is_s3(out) and not any(place.glob("*")) and find_shards(out):
        raise DataError(
            f"--out {out} is not empty, and its shards were not written by an import with this ALCHEMIST_HOME. Give an empty folder."
        )
    first = first_unfinished(out)
    records = _read_layout(config, start=first * config.shard_size)
    # Read one record first, so that an unreadable source is refused before anything is written.
    head = list(islice(records, 1))
    marker.start()
    seen: Counter[str] = Counter()
    unreadable: list[str] = []
    counted_records = _count(chain(head, records), seen, unreadable)
    n_records = write_shards(counted_records, out, shard_size=config.shard_size, first_shard=first)
    marker.finish()
    if n_lists := seen["caption_lists"]:
        say(
            f"{counted(n_lists, 'record')} had a list of captions: the first one with text is the caption, and all of them are in the "
            f"metadata, as {ALL_CAPTIONS}."
        )
    if unreadable:
        warn(
            f"No permission to read {counted(seen['unreadable_images'], 'image')}, the first at {unreadable[0]}. Each was written without "
            "bytes, so that ingest quarantines it. Correct the access rights, then import again to another --out."
        )
    return CorpusResult(folder=out, counts={"records": n_records, **seen})


def _count(records: Iterable[LayoutRecord], seen: Counter[str], unreadable: list[str]) -> Iterator[LayoutRecord]:
    for record in records:
        if ALL_CAPTIONS in record.metadata:
            seen["caption_lists"] += 1
        yield replace(record, read_image=partial(_read_image, record, seen, unreadable))


def _read_image(record: LayoutRecord, seen: Counter[str], unreadable: list[str]) -> bytes:
    """Read an image; one that may not be read is empty and counted, and the first path of these is kept."""
    try:
        return record.read_image()
    except PermissionError as error:
        seen["unreadable_images"] += 1
        if not unreadable:
            unreadable.append(str(error.filename))
        return b""


def _marker_folder(out: str) -> Path:
    return load_settings().home / "corpora" / "imports" / hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]


def _read_layout(config: ImportConfig, *, start: int) -> Iterator[LayoutRecord]:
    """Yield the records of a layout after the first `start`; images that are stored in the rows are not read again."""
    from alchemist_core.shards.layouts import hpdv3, huggingface, mjhq, parquet_images, pictures  # noqa: PLC0415  imports pyarrow

    if config.layout == "huggingface":
        return huggingface.read_huggingface(config.source, config.split, start)
    if config.layout == "parquet":
        return parquet_images.read_parquet(config.source, start)
    readers = {"hpdv3": hpdv3.read_hpdv3, "mjhq": mjhq.read_mjhq, "pictures": pictures.read_pictures}
    return islice(readers[config.layout](Path(config.source)), start, None)


def _next(_config: Config, result: CorpusResult) -> str:
    """Return the command that ingests the folder; an import without a project file may begin with one."""
    folder = Path(result.folder)
    if is_s3(result.folder) or not (folder / "train").is_dir():
        root = _without_date(result.folder)
        if (declared := _dataset_of(root)) is not None:
            return f"alchemist ingest --dataset {shlex.quote(declared)}"
        ingest = f"alchemist ingest --dataset NAME --root {shlex.quote(root)}"
        is_in_project = find_project_file() is not None
        return ingest if is_in_project else f"alchemist init --data {shlex.quote(root)}, or {ingest}"
    rest = "then the folders validation and test with --role validation and --role evaluation, each as a dataset of its own"
    root = shlex.quote(str(folder / "train"))
    return f"alchemist ingest --dataset {name_of(result.folder)} --root {root}\n      {rest}"


def _without_date(folder: str) -> str:
    """Return the root of a folder of shards: the folder above one that is named by its crawl date."""
    above, _, name = folder.rstrip("/").rpartition("/")
    return above if re.fullmatch(r"\d{4}-\d{2}-\d{2}", name) else folder


def _dataset_of(root: str) -> str | None:
    """Return the dataset of the project file that has this root; None if there is none."""
    project = load_project()
    places = {name: project.locate(own.root) for name, own in project.datasets.items() if own.root}
    return next((name for name, place in places.items() if place.rstrip("/") == root.rstrip("/")), None)


COMMANDS = {
    "scenes": Command(ScenesCorpusConfig, scenes, _next),
    "import": Command(ImportConfig, import_layout, _next),
}
