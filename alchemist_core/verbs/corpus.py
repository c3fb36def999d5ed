"""Make a corpus: drawn scenes of known worth, real pictures from ordinary packages, or a published dataset brought into tars."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.layouts.records import LayoutRecord, write_shards
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.scenes import ScenesConfig, draw_scenes
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class ScenesCorpusConfig(Config):
    """How many scenes, and where."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/scenes under the home")
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="What is drawn")


class EmojiConfig(Config):
    """Which pictures."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/emoji under the home")
    permissive_only: bool = Field(
        True, description="Only licences that allow any use (public domain, CC0, CC-BY, MIT, Apache-2.0)"
    )
    side: int = Field(96, ge=16, le=512, description="Side of a picture in pixels")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the split by concept")


class ImportConfig(Config):
    """Which dataset, and where to."""

    layout: Literal["parquet", "hpdv3", "mjhq", "huggingface"] = Field(
        ...,
        description="parquet: FLUX-Reason-6M and any Parquet with pictures; hpdv3, mjhq; huggingface: what datasets opens",
    )
    source: str = Field(..., description="Folder, file (hpdv3: its JSON), or ORG/NAME on the hub")
    out: Path = Field(..., description="Folder of the tar shards, which alchemist ingest then reads")
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


def emoji(config: EmojiConfig) -> CorpusReport:
    """Build a corpus of real pictures from ordinary package installs; each keeps its licence."""
    from alchemist_core.local.emoji import build_emoji_corpus  # noqa: PLC0415  as above

    folder = config.out or load_settings().home / "corpora" / "emoji"
    counts = build_emoji_corpus(folder, permissive_only=config.permissive_only, side=config.side, seed=config.seed)
    return CorpusReport(folder=str(folder.resolve()), counts=counts)


def import_layout(config: ImportConfig) -> CorpusReport:
    """Bring a published dataset into tar shards, streaming; img2dataset's and webdataset's tars need no import."""
    parameters = {name: str(value) for name, value in config.model_dump(exclude={"out"}).items()}
    marker = CorpusMarker(config.out, "import", parameters)
    if marker.is_finished():
        say(f"{config.out} holds this import already: reused.")
        return CorpusReport(folder=str(config.out.resolve()), counts={})
    marker.start()
    n_records = write_shards(_read_layout(config), config.out, shard_size=config.shard_size)
    marker.finish()
    return CorpusReport(folder=str(config.out.resolve()), counts={"records": n_records})


def _read_layout(config: ImportConfig) -> Iterator[LayoutRecord]:
    from alchemist_core.data.layouts import hpdv3, huggingface, mjhq, parquet_images  # noqa: PLC0415  pyarrow only where it is read

    if config.layout == "huggingface":
        return huggingface.read_huggingface(config.source, config.split)
    readers = {"parquet": parquet_images.read_parquet, "hpdv3": hpdv3.read_hpdv3, "mjhq": mjhq.read_mjhq}
    return readers[config.layout](Path(config.source))


def _next(_config: Config, report: CorpusReport) -> str:
    folder = Path(report.folder)
    if not (folder / "train").is_dir():
        return f"alchemist ingest --dataset NAME --root {folder}"
    rest = "then its validation and test folders with --role validation and --role evaluation, each under a name of its own"
    return f"alchemist ingest --dataset {folder.name} --root {folder / 'train'}\n      {rest}"


COMMANDS = {
    "scenes": Command(ScenesCorpusConfig, scenes, _next),
    "emoji": Command(EmojiConfig, emoji, _next),
    "import": Command(ImportConfig, import_layout, _next),
}
