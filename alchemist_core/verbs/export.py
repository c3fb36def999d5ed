"""Export scores or samples as a Parquet file, by a condition: for notebooks, other tools and other teams."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import SAMPLE_COLUMNS, SCORE_COLUMNS, stream_rows
from alchemist_core.store.raters import find_rater
from alchemist_core.telemetry import ProgressLine

WHERE = "Condition, for example \"score > 1.5 and dataset = 'web' and not caption like '%logo%'\"; none: all"


class ExportSamplesConfig(Config):
    """Which pairs, and where to."""

    out: Path = Field(
        ..., description="File to write, FILE.parquet; it appears when it is complete, in place of an earlier one"
    )
    where: str | None = Field(None, min_length=1, description=WHERE)


class ExportScoresConfig(ExportSamplesConfig):
    """Which scores, and where to."""

    rater: str = Field("production", description="Rater by name, or production, or newest")


class ExportReport(Report):
    """What was written."""

    file: str
    n_rows: int
    size_bytes: int


def scores(config: ExportScoresConfig) -> ExportReport:
    """Write a rater's scores and ranks with the pairs that they belong to."""
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise AlchemistError("There is no rater in production, so there are no scores. Name one: --rater NAME.")
    return _export(config, "export_scores", SCORE_COLUMNS, {"rater_id": rater.rater_id})


def samples(config: ExportSamplesConfig) -> ExportReport:
    """Write pairs with their hashes, sizes, heuristics and places."""
    return _export(config, "export_samples", SAMPLE_COLUMNS, {})


def _export(
    config: ExportSamplesConfig, query: str, kinds: Mapping[str, type[Any]], parameters: Mapping[str, Any]
) -> ExportReport:
    from alchemist_core.data.parquet_export import write_rows  # noqa: PLC0415  pyarrow is loaded only where it writes

    path = config.out.absolute()
    if path.suffix != ".parquet" or not path.parent.is_dir():
        raise ConfigError(f"--out {config.out}: a name that ends in .parquet, in a folder that exists, is needed.")
    batches = stream_rows(open_store(), query, kinds, config.where, parameters)
    with ProgressLine("export") as line:
        n_rows = write_rows(path, kinds, _counted(batches, line))
    return ExportReport(file=str(path), n_rows=n_rows, size_bytes=path.stat().st_size)


def _counted(batches: Iterator[Sequence[Sequence[Any]]], line: ProgressLine) -> Iterator[Sequence[Sequence[Any]]]:
    n_rows = 0
    for batch in batches:
        n_rows += len(batch)
        line.show(n_rows, n_rows)
        yield batch


COMMANDS = {"scores": Command(ExportScoresConfig, scores), "samples": Command(ExportSamplesConfig, samples)}
