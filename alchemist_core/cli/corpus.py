"""Make a corpus: a synthetic one of captioned scenes, or a published dataset imported into tar shards."""

import hashlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.scenes import ScenesConfig, draw_scenes
from alchemist_core.settings import load_settings
from alchemist_core.shards.layouts.records import LayoutRecord, find_shards, first_unfinished, write_shards
from alchemist_core.shards.storage import is_s3
from alchemist_core.telemetry import say


class ScenesCorpusConfig(Config):
    """How many scenes, and where."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/scenes under the home")
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="What is drawn")


class ImportConfig(Config):
    """Which dataset, and where to."""

    layout: Literal["parquet", "hpdv3", "mjhq", "huggingface"] = Field(
        ...,
        description="parquet: FLUX-Reason-6M and any Parquet with pictures; hpdv3, mjhq; huggingface: what datasets opens",
    )
    source: str = Field(
        ..., description="Folder, file (hpdv3: its JSON), ORG/NAME on the hub, or s3:// address (parquet alone)"
    )
    out: Annotated[str, BeforeValidator(str)] = Field(
        ..., description="Folder or s3:// address of the tar shards, which alchemist ingest then reads"
    )
    split: str = Field("train", description="Split of a Hugging Face dataset")
    shard_size: int = Field(1_000, ge=1, le=100_000, description="Records a shard")


class CorpusReport(Report):
    """Where the corpus lies."""

    folder: str
    counts: dict[str, int]


def scenes(config: ScenesCorpusConfig) -> CorpusReport:
    """Draw captioned scenes with planted plain, chaotic and wrongly captioned samples; the truth stays in its own file."""
    folder = config.out or load_settings().home / "corpora" / "scenes"
    drawn = draw_scenes(folder, **config.scenes.model_dump())
    if drawn.is_reused:
        say(f"{folder} holds these scenes already: reused.")
    counts = {"train": drawn.n_train, "validation": drawn.n_validation, "test": drawn.n_test}
    return CorpusReport(folder=str(folder.resolve()), counts=counts)


def import_layout(config: ImportConfig) -> CorpusReport:
    """Bring a published dataset into tar shards, streaming; img2dataset's and webdataset's tars need no import."""
    if is_s3(config.source) and config.layout != "parquet":
        raise ConfigError(
            f"--source {config.source}: only --layout parquet reads an object store. Copy the {config.layout} files to a folder."
        )
    out = config.out if is_s3(config.out) else str(Path(config.out).resolve())
    parameters = {name: str(value) for name, value in config.model_dump(exclude={"out"}).items()}
    # Of shards in an object store the marker lies in the home: it is small, and says only what this home has imported.
    place = _marker_folder(out) if is_s3(out) else Path(out)
    marker = CorpusMarker(place, "import", parameters)
    if marker.is_finished():
        say(f"{config.out} holds this import already: reused.")
        return CorpusReport(folder=out, counts={})
    if is_s3(out) and not any(place.glob("*")) and find_shards(out):
        raise DataError(f"{out} is not empty and holds no import of this home; name another address")
    first = first_unfinished(out)
    records = _read_layout(config, start=first * config.shard_size)
    # A source that cannot be read is refused before anything is written.
    head = list(islice(records, 1))
    marker.start()
    n_records = write_shards(chain(head, records), out, shard_size=config.shard_size, first_shard=first)
    marker.finish()
    return CorpusReport(folder=out, counts={"records": n_records})


def _marker_folder(out: str) -> Path:
    return load_settings().home / "corpora" / "imports" / hashlib.sha256(out.rstrip("/").encode()).hexdigest()[:16]


def _read_layout(config: ImportConfig, *, start: int) -> Iterator[LayoutRecord]:
    """Yield a layout's records behind the first `start`; where images lie in the rows, those are not read again."""
    from alchemist_core.shards.layouts import hpdv3, huggingface, mjhq, parquet_images  # noqa: PLC0415  pyarrow only where it is read

    if config.layout == "huggingface":
        return huggingface.read_huggingface(config.source, config.split, start)
    if config.layout == "parquet":
        return parquet_images.read_parquet(config.source, start)
    readers = {"hpdv3": hpdv3.read_hpdv3, "mjhq": mjhq.read_mjhq}
    return islice(readers[config.layout](Path(config.source)), start, None)


def _next(_config: Config, report: CorpusReport) -> str:
    folder = Path(report.folder)
    if is_s3(report.folder) or not (folder / "train").is_dir():
        return f"alchemist ingest --dataset NAME --root {report.folder}"
    rest = "then its validation and test folders with --role validation and --role evaluation, each under a name of its own"
    return f"alchemist ingest --dataset {folder.name} --root {folder / 'train'}\n      {rest}"


COMMANDS = {
    "scenes": Command(ScenesCorpusConfig, scenes, _next),
    "import": Command(ImportConfig, import_layout, _next),
}
