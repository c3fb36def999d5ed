"""Export scores, samples or a subset's members as Parquet, CSV or JSON lines: for notebooks, other loaders and other teams."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import EXPORTED_COLUMNS, MEMBER_COLUMNS, SCORE_COLUMNS, stream_rows
from alchemist_core.store.raters import find_rater
from alchemist_core.store.samples import stream_members
from alchemist_core.store.subsets import VERSION_TEXT, choose_version
from alchemist_core.store.tables import AnyRow
from alchemist_core.telemetry import ProgressLine

if TYPE_CHECKING:
    from alchemist_core.store.manifests import Manifest

OUT = (
    "File to write, its form by its ending (.parquet, .csv, .jsonl); it appears when it is complete, in place of an earlier one. "
    "In a .csv, text that starts like a formula has an apostrophe before it"
)
_SUBSET_COLUMNS: dict[str, type[Any]] = {"pair_hash": bytes, "rank": float, "score": float, **MEMBER_COLUMNS}
WHERE = (
    "Condition, for example \"score > 1.5 and width * height >= 1e6 and not caption ilike '%logo%'\". Comparisons, and, or, not, between, "
    "in, like, ilike, is null, + - * /, abs, least, greatest, length, lower, upper, coalesce; none: all"
)


class ExportSamplesConfig(Config):
    """Which pairs, and where to."""

    out: Path = Field(..., description=OUT)
    where: str | None = Field(None, min_length=1, description=WHERE)


class ExportScoresConfig(ExportSamplesConfig):
    """Which scores, and where to."""

    rater: str = Field("production", description="Rater by name, or production, or newest")


class ExportSubsetConfig(Config):
    """Which subset version, and where to."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    out: Path = Field(..., description=OUT)


class ExportReport(Report):
    """What was written."""

    file: str
    n_rows: int
    size_bytes: int


def scores(config: ExportScoresConfig) -> ExportReport:
    """Write a rater's scores and ranks with the pairs that they belong to."""
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise ConfigError("There is no rater in production, so there are no scores. Name one: --rater NAME.")
    return _export(config, "export_scores", SCORE_COLUMNS, {"rater_id": rater.rater_id})


def samples(config: ExportSamplesConfig) -> ExportReport:
    """Write pairs with their hashes, sizes, heuristics and places."""
    return _export(config, "export_samples", EXPORTED_COLUMNS, {})


def subset(config: ExportSubsetConfig) -> ExportReport:
    """Write a subset's members with ids, ranks, scores, addresses and places; those taken down since are left out."""
    from alchemist_core.subsets.selected import load_manifest  # noqa: PLC0415  pyarrow is loaded only where it writes

    path, engine = _writable(config.out), open_store()
    manifest = load_manifest(engine, choose_version(engine, config.name, version=config.version))
    located = stream_members(engine, manifest.pair_hash_K32)
    return _write(path, _SUBSET_COLUMNS, ([_member(manifest, row) for row in batch] for batch in located))


def _member(manifest: "Manifest", row: AnyRow) -> tuple[Any, ...]:
    number, *rest = row
    rank, score = manifest.rank_K[number].item(), manifest.score_K[number].item()
    return (manifest.pair_hash_K32[number].tobytes(), rank, score, *rest)


def _export(
    config: ExportSamplesConfig, query: str, kinds: Mapping[str, type[Any]], parameters: Mapping[str, Any]
) -> ExportReport:
    path = _writable(config.out)
    return _write(path, kinds, stream_rows(open_store(), query, kinds, config.where, parameters))


def _writable(out: Path) -> Path:
    from alchemist_core.cli.row_files import FORMS  # noqa: PLC0415  as above

    path = out.absolute()
    if path.suffix not in FORMS or not path.parent.is_dir():
        endings = ", ".join(FORMS)
        raise ConfigError(f"--out {out}: a name that ends in one of {endings}, in a folder that exists, is needed.")
    return path


def _write(path: Path, kinds: Mapping[str, type[Any]], batches: Iterator[Sequence[Sequence[Any]]]) -> ExportReport:
    from alchemist_core.cli.row_files import write_rows  # noqa: PLC0415  as above

    with ProgressLine("export") as line:
        n_rows = write_rows(path, kinds, _counted(batches, line))
    return ExportReport(file=str(path), n_rows=n_rows, size_bytes=path.stat().st_size)


def _counted(batches: Iterator[Sequence[Sequence[Any]]], line: ProgressLine) -> Iterator[Sequence[Sequence[Any]]]:
    n_rows = 0
    for batch in batches:
        n_rows += len(batch)
        line.show(n_rows, n_rows)
        yield batch


COMMANDS = {
    "scores": Command(ExportScoresConfig, scores),
    "samples": Command(ExportSamplesConfig, samples),
    "subset": Command(ExportSubsetConfig, subset),
}
