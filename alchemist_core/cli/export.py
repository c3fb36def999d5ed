"""Export scores, samples or subset members as Parquet, CSV or JSON lines; embeddings as Parquet.

In CSV, text that a spreadsheet would execute as a formula gets a leading apostrophe; Parquet and JSON lines keep text unchanged.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import EXPORTED_COLUMNS, MEMBER_COLUMNS, SCORE_COLUMNS, stream_rows
from alchemist_core.store.raters import find_rater
from alchemist_core.store.samples import stream_members
from alchemist_core.store.subsets import VERSION_TEXT, choose_version
from alchemist_core.store.tables import AnyRow
from alchemist_core.telemetry import ProgressLine

if TYPE_CHECKING:
    from alchemist_core.store.manifests import Manifest

Kinds = Mapping[str, type[Any]]
Batches = Iterable[Sequence[Sequence[Any]]]

OUT = (
    "File to write: .parquet, .csv or .jsonl. It replaces an existing file when it is complete. "
    "In CSV, text that looks like a formula gets a leading apostrophe"
)
_SUBSET_COLUMNS: dict[str, type[Any]] = {
    "pair_hash": bytes,
    "rank": float,
    "score": float,
    "weight": float,
    **MEMBER_COLUMNS,
}
WHERE = (
    "SQL condition, for example \"score > 1.5 and width * height >= 1e6 and not caption ilike '%logo%'\". Scorers and imported scores are "
    "columns under their names. Allowed: comparisons, and, or, not, between, in, like, ilike, is null, + - * /, abs, least, greatest, "
    "length, lower, upper, coalesce; none: all"
)


class ExportSamplesConfig(Config):
    """Which samples to export, and the file to write."""

    out: Path = Field(..., description=OUT)
    where: str | None = Field(None, min_length=1, description=WHERE)


class ExportScoresConfig(ExportSamplesConfig):
    """Which scores to export, and the file to write."""

    rater: str = Field("production", description="Rater by name, or production, or newest")


class ExportSubsetConfig(Config):
    """Which subset version to export, and the file to write."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    out: Path = Field(..., description=OUT)


class ExportLocationsConfig(Config):
    """Which subset version to export, and the address of the file to write."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    to: str = Field(
        ...,
        min_length=1,
        description="Path or s3:// address that ends in .parquet. It replaces an existing file when it is complete",
    )


class ExportEmbeddingsConfig(Config):
    """Whose embeddings to export, and the file to write."""

    scorer: str | None = Field(None, description="Scorer by name; none: your only one that has embeddings")
    out: Path = Field(..., description="Parquet file to write. It replaces an existing file when it is complete")


class ExportResult(Result):
    """The file that was written."""

    file: str
    n_rows: int
    size_bytes: int


def scores(config: ExportScoresConfig) -> ExportResult:
    """Export the scores and ranks of a rater, with their samples, without those taken down since."""
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise ConfigError("There is no rater in production, so there are no scores. Give a rater: --rater NAME.")
    return _export(config, "export_scores", SCORE_COLUMNS, {"rater_id": rater.rater_id})


def samples(config: ExportSamplesConfig) -> ExportResult:
    """Export samples with their hashes, sizes, heuristics and locations."""
    return _export(config, "export_samples", EXPORTED_COLUMNS, {})


def subset(config: ExportSubsetConfig) -> ExportResult:
    """Export the members of a subset with ids, ranks, scores, weights, URLs and locations, without those taken down since."""
    from alchemist_core.subsets.selected import load_manifest  # noqa: PLC0415  imports pyarrow

    path, engine = _writable(config.out), open_store()
    version = choose_version(engine, config.name, version=config.version)
    manifest = load_manifest(engine, version, must_store=False)
    located = stream_members(engine, manifest.pair_hash_K32)
    return _write(path, _SUBSET_COLUMNS, ([_member(manifest, row) for row in batch] for batch in located))


def locations(config: ExportLocationsConfig) -> ExportResult:
    """Export where the bytes of a subset's members lie, as one file from which `SubsetDataset` reads without Postgres.

    The file has no location of members that were taken down before. After a later takedown, write it again.

    Raises:
        ConfigError: The address is not valid, or there is no such version.
        DataError: A member that was not taken down has no live location, or the object store refuses the file.
    """
    from alchemist_core.subsets.location_files import write_location_file  # noqa: PLC0415  imports pyarrow
    from alchemist_core.subsets.members import locate_remaining  # noqa: PLC0415  as above

    engine = open_store()
    chosen = choose_version(engine, config.name, version=config.version)
    located = locate_remaining(engine, chosen, has_sizes=True, has_places=True)
    size_bytes = write_location_file(located, config.to, title=chosen.title)
    return ExportResult(file=config.to, n_rows=len(located.members), size_bytes=size_bytes)


def embeddings(config: ExportEmbeddingsConfig) -> ExportResult:
    """Export the embeddings of a scorer by sample id, in fp16, without those of samples taken down since."""
    import pyarrow.parquet as pq  # noqa: PLC0415  slow to import

    from alchemist_core.embeddings.files import as_record_batch, embedding_schema  # noqa: PLC0415  imports pyarrow
    from alchemist_core.embeddings.reading import open_embeddings  # noqa: PLC0415  as above

    path = config.out.absolute()
    if path.suffix != ".parquet" or not path.parent.is_dir():
        raise ConfigError(
            f"--out {config.out} is not valid. Give a file name that ends in .parquet, in an existing folder."
        )
    found, n_rows = open_embeddings(open_store(), config.scorer), 0
    # Embeddings are noise to a compressor.
    with (
        ProgressLine("export") as line,
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, embedding_schema(found.dim), compression="none") as writer,
    ):
        for block in found.blocks(should_verify=True):
            writer.write_batch(as_record_batch(*block))
            n_rows += len(block.sample_id_B)
            line.show(n_rows, len(found))
    return ExportResult(file=str(path), n_rows=n_rows, size_bytes=path.stat().st_size)


def _member(manifest: "Manifest", row: AnyRow) -> tuple[Any, ...]:
    number, *rest = row
    rank, score = manifest.rank_K[number].item(), manifest.score_K[number].item()
    weight = 1.0 if manifest.weight_K is None else manifest.weight_K[number].item()
    return (manifest.pair_hash_K32[number].tobytes(), rank, score, weight, *rest)


def _export(
    config: ExportSamplesConfig, query: str, kinds: Mapping[str, type[Any]], parameters: Mapping[str, Any]
) -> ExportResult:
    path = _writable(config.out)
    return _write(path, kinds, stream_rows(open_store(), query, kinds, config.where, parameters))


def _writable(out: Path) -> Path:
    path = out.absolute()
    if path.suffix not in FORMS or not path.parent.is_dir():
        endings = ", ".join(FORMS)
        raise ConfigError(
            f"--out {out} is not valid. Give a file name that ends in one of {endings}, in an existing folder."
        )
    return path


def _write(path: Path, kinds: Mapping[str, type[Any]], batches: Iterator[Sequence[Sequence[Any]]]) -> ExportResult:
    with ProgressLine("export") as line:
        n_rows = write_rows(path, kinds, _counted(batches, line))
    return ExportResult(file=str(path), n_rows=n_rows, size_bytes=path.stat().st_size)


def _counted(batches: Iterator[Sequence[Sequence[Any]]], line: ProgressLine) -> Iterator[Sequence[Sequence[Any]]]:
    n_rows = 0
    for batch in batches:
        n_rows += len(batch)
        line.show(n_rows, n_rows)
        yield batch


def write_rows(path: Path, kinds: Kinds, batches: Batches) -> int:
    """Write a file in the format of its suffix, rename it when it is complete, and return the number of rows.

    Args:
        path: The file; an existing one is replaced.
        kinds: Columns and their Python types, in the order of the values of a row.
        batches: Rows; one batch is in memory at a time.
    """
    with atomic_write(path) as partial:
        return FORMS[path.suffix](partial, kinds, batches)


def _write_parquet(path: Path, kinds: Kinds, batches: Batches) -> int:
    import pyarrow as pa  # noqa: PLC0415  slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    from alchemist_core.store.arrow import ARROW_TYPES, record_batch  # noqa: PLC0415  imports pyarrow

    schema = pa.schema([(name, ARROW_TYPES[kind]) for name, kind in kinds.items()])
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(record_batch(schema, batch))
            n_rows += len(batch)
    return n_rows


def _write_csv(path: Path, kinds: Kinds, batches: Batches) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        # The line terminator of RFC 4180: with another one, csv does not quote a carriage return in a text.
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(kinds)
        for batch in batches:
            writer.writerows([_as_cell(_as_text(value)) for value in row] for row in batch)
            n_rows += len(batch)
    return n_rows


def _write_lines(path: Path, kinds: Kinds, batches: Batches) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            rows = (dict(zip(kinds, map(_as_text, row), strict=True)) for row in batch)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            n_rows += len(batch)
    return n_rows


FORMS: dict[str, Callable[[Path, Kinds, Batches], int]] = {
    ".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_lines
}  # fmt: skip
"""Writers by suffix; hashes are hex digits in formats without bytes."""


_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def _as_cell(value: Any) -> Any:
    """Keep a spreadsheet from executing crawled text, as OWASP advises; numbers stay numbers.

    >>> _as_cell("=1+1"), _as_cell(-1.5), _as_cell("a - b")
    ("'=1+1", -1.5, 'a - b')
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _as_text(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value.isoformat() if isinstance(value, date) else value


COMMANDS = {
    "scores": Command(ExportScoresConfig, scores),
    "samples": Command(ExportSamplesConfig, samples),
    "subset": Command(ExportSubsetConfig, subset),
    "locations": Command(ExportLocationsConfig, locations),
    "embeddings": Command(ExportEmbeddingsConfig, embeddings),
}
