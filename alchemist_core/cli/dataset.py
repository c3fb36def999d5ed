"""List datasets, show one, choose the default evaluation dataset, rename a dataset or remove it."""

from datetime import date, datetime
from typing import Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.store import datasets
from alchemist_core.store.engine import open_store
from alchemist_core.store.registry import DATASET_NAME, find_dataset
from alchemist_core.store.tables import AnyRow

NO_DATASET = "No dataset yet. Register one: alchemist ingest --dataset NAME --root FOLDER"


class DatasetListConfig(Config):
    """Which datasets."""

    removed: bool = Field(False, description="Also list datasets that were removed")


class DatasetNameConfig(Config):
    """Which dataset."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)


class DatasetRenameConfig(Config):
    """Which dataset, and its new name."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)
    new_name: str = Field(
        ...,
        pattern=f"^{DATASET_NAME.pattern}$",
        description="New name: 1 to 100 letters, digits or . _ + -, the first a letter or digit",
        json_schema_extra=BARE_WORD,
    )


class DatasetRemoveConfig(Config):
    """Which dataset, and why."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)
    reason: str = Field(..., min_length=1, description="Why it is removed; kept in the audit events")


class DatasetReport(Report):
    """One dataset; samples are counted where they lie, quarantined ones included."""

    name: str
    role: str
    root: str
    n_shards: int
    n_samples: int
    n_nights_waiting: int
    is_default: bool
    removed_at: datetime | None = None
    removed_reason: str | None = None


class DatasetListReport(Report):
    """All datasets."""

    datasets: list[DatasetReport]

    def summary(self) -> str:
        """Return a table with one line a dataset."""
        if not self.datasets:
            return NO_DATASET
        width = max(len("name"), *(len(row.name) for row in self.datasets))
        lines = [f"{'name':<{width}}  {'role':<10}  {'shards':>7}  {'samples':>11}  {'nights waiting':>14}  root"]
        lines += [
            f"{row.name:<{width}}  {row.role:<10}  {row.n_shards:>7,}  {row.n_samples:>11,}  {row.n_nights_waiting:>14,}  "
            f"{row.root}{_note(row)}"
            for row in self.datasets
        ]
        return "\n".join(lines)


class DatasetShowReport(DatasetReport):
    """One dataset and what was made of it."""

    registered_at: datetime
    first_crawl_date: date | None
    last_crawl_date: date | None
    subsets: list[str]
    production_raters: list[str]


class DatasetDefaultReport(Report):
    """The default before and now."""

    default: str
    former: str | None


class DatasetRenameReport(Report):
    """The names before and now, and what still says the old one."""

    former: str
    name: str
    note: str = (
        "runs and audit events keep the old name, as history. Rename its section in the project file, and in your scripts. "
        "Training a rater under the new name trains a new rater."
    )


class DatasetRemoveReport(Report):
    """What was removed, and what stays."""

    removed: str
    root: str
    n_shards: int
    n_samples: int
    unusable_subsets: list[str]
    production_raters: list[str]
    note: str


def list_(config: DatasetListConfig) -> DatasetListReport:
    """List the datasets with their role, size, waiting nights and root; the default evaluation dataset is marked."""
    rows = [row for row in datasets.describe_datasets(open_store()) if config.removed or row.removed_at is None]
    return DatasetListReport(datasets=[DatasetReport(**_fields(row)) for row in rows])


def show(config: DatasetNameConfig) -> DatasetShowReport:
    """Show one dataset: its size, crawl dates, the subsets that draw from it and the raters that learned from it."""
    engine = open_store()
    found = datasets.describe_datasets(engine, config.name)
    if not found:
        find_dataset(engine, config.name)
    row = found[0]
    return DatasetShowReport(
        **_fields(row),
        registered_at=row.created_at,
        first_crawl_date=row.first_crawl_date,
        last_crawl_date=row.last_crawl_date,
        subsets=[f"{one.name} v{one.version} ({one.state})" for one in datasets.subsets_of(engine, config.name)],
        production_raters=datasets.raters_of(engine, config.name),
    )


def set_default(config: DatasetNameConfig) -> DatasetDefaultReport:
    """Choose the evaluation dataset that evaluate and plan use when none is named."""
    former = datasets.set_default(open_store(), config.name)
    return DatasetDefaultReport(default=config.name, former=former)


def rename(config: DatasetRenameConfig) -> DatasetRenameReport:
    """Rename a dataset; its shards, scores, nights, subsets and raters stay as they are."""
    datasets.rename(open_store(), config.name, config.new_name)
    return DatasetRenameReport(former=config.name, name=config.new_name)


def remove(config: DatasetRemoveConfig) -> DatasetRemoveReport:
    """Remove a dataset: it is ingested, scored and selected from no more; its history stays, its files are not touched."""
    engine = open_store()
    if not config.reason.strip():
        raise ConfigError("--reason is empty: say why the dataset is removed.")
    row = find_dataset(engine, config.name)
    (size,) = datasets.describe_datasets(engine, config.name)
    made, raters = datasets.subsets_of(engine, config.name), datasets.raters_of(engine, config.name)
    datasets.remove(engine, row, reason=config.reason)
    return DatasetRemoveReport(
        removed=config.name,
        root=row.root_uri,
        n_shards=size.n_shards,
        n_samples=size.n_samples,
        unusable_subsets=[f"{one.name} v{one.version} ({one.state})" for one in made],
        production_raters=raters,
        note=_what_is_gone(row.role, len(made), raters),
    )


def _what_is_gone(role: str, n_subsets: int, raters: list[str]) -> str:
    said = "No command reads its samples any more. Its files were not touched. Scores, runs, subsets and audit events stay."
    if n_subsets:
        said += (
            " The subset versions named above cannot be materialized, trained on or read where they need its samples."
        )
    if raters:
        said += " The raters named above stay in use; certify and training again need another dataset."
    if role == "evaluation":
        said += " Values that were measured on it stay."
    return said


def _fields(row: AnyRow) -> dict[str, Any]:
    return {
        "name": row.name, "role": row.role, "root": row.root_uri, "n_shards": row.n_shards, "n_samples": row.n_samples,
        "n_nights_waiting": row.n_waiting, "is_default": row.is_default, "removed_at": row.removed_at,
        "removed_reason": row.removed_reason,
    }  # fmt: skip


def _note(row: DatasetReport) -> str:
    if row.removed_at is not None:
        return f"  (removed {row.removed_at:%Y-%m-%d}: {row.removed_reason})"
    return "  (default)" if row.is_default else ""


COMMANDS = {
    "list": Command(DatasetListConfig, list_),
    "show": Command(DatasetNameConfig, show),
    "set-default": Command(DatasetNameConfig, set_default),
    "rename": Command(DatasetRenameConfig, rename),
    "remove": Command(DatasetRemoveConfig, remove),
}
