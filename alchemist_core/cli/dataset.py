"""Datasets: list, show, rename and remove them, and set the default evaluation dataset."""

from datetime import date, datetime
from typing import Any

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.store import datasets
from alchemist_core.store.engine import open_store
from alchemist_core.store.registry import DATASET_NAME, find_dataset

NO_DATASET = "No datasets. Register one: alchemist ingest --dataset NAME --root FOLDER"


class DatasetListConfig(Config):
    """Which datasets to list."""

    removed: bool = Field(False, description="Also list removed datasets")


class DatasetNameConfig(Config):
    """Which dataset."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)


class DatasetRenameConfig(Config):
    """Which dataset to rename, and its new name."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)
    new_name: str = Field(
        ...,
        pattern=f"^{DATASET_NAME.pattern}$",
        description="New name: 1 to 100 letters, digits or . _ + -; starts with a letter or digit",
        json_schema_extra=BARE_WORD,
    )


class DatasetRemoveConfig(Config):
    """Which dataset to remove, and why."""

    name: str = Field(..., description="Name of the dataset", json_schema_extra=BARE_WORD)
    reason: str = Field(..., min_length=1, description="Why it is removed; stored in the audit log")


class DatasetResult(Result):
    """One dataset; a sample counts once for each location, quarantined ones included."""

    name: str
    role: str
    root: str
    n_shards: int
    n_samples: int
    n_nights_waiting: int
    is_default: bool
    removed_at: datetime | None = None
    removed_reason: str | None = None


class DatasetListResult(Result):
    """All datasets."""

    datasets: list[DatasetResult]

    def summary(self) -> str:
        """Return a table with a line for each dataset."""
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


class DatasetShowResult(DatasetResult):
    """One dataset, its subsets and its raters."""

    registered_at: datetime
    first_crawl_date: date | None
    last_crawl_date: date | None
    subsets: list[str]
    production_raters: list[str]


class DatasetDefaultResult(Result):
    """The new default and the former one."""

    default: str
    former: str | None


class DatasetRenameResult(Result):
    """The former name, the new name, and where the former one remains."""

    former: str
    name: str
    note: str = (
        "Runs and the audit log keep the former name. Rename the section in the project file, and the name in your scripts. "
        "train-rater with the new name trains a new rater. A night that was missed before is not taken later: trigger nightly_rescore "
        "with its crawl date."
    )


class DatasetRemoveResult(Result):
    """What was removed, and what is kept."""

    removed: str
    root: str
    n_shards: int
    n_samples: int
    unusable_subsets: list[str]
    production_raters: list[str]
    note: str


def list_(config: DatasetListConfig) -> DatasetListResult:
    """List the datasets with role, size, undecided nights and root; the default evaluation dataset is marked."""
    rows = [row for row in datasets.describe_datasets(open_store()) if config.removed or row.removed_at is None]
    return DatasetListResult(datasets=[DatasetResult(**_fields(row)) for row in rows])


def show(config: DatasetNameConfig) -> DatasetShowResult:
    """Show one dataset: its size, crawl dates, the subsets selected from it and the raters trained on it."""
    engine = open_store()
    found = datasets.describe_datasets(engine, config.name)
    if not found:
        find_dataset(engine, config.name)
    row = found[0]
    return DatasetShowResult(
        **_fields(row),
        registered_at=row.created_at,
        first_crawl_date=row.first_crawl_date,
        last_crawl_date=row.last_crawl_date,
        subsets=[f"{one.title} ({one.state})" for one in datasets.subsets_of(engine, config.name)],
        production_raters=datasets.raters_of(engine, config.name),
    )


def set_default(config: DatasetNameConfig) -> DatasetDefaultResult:
    """Set the evaluation dataset that `evaluate` and `plan evaluate` use by default."""
    former = datasets.set_default(open_store(), config.name)
    return DatasetDefaultResult(default=config.name, former=former)


def rename(config: DatasetRenameConfig) -> DatasetRenameResult:
    """Rename a dataset; its shards, scores, nights, subsets and raters are kept."""
    datasets.rename(open_store(), config.name, config.new_name)
    return DatasetRenameResult(former=config.name, name=config.new_name)


def remove(config: DatasetRemoveConfig) -> DatasetRemoveResult:
    """Remove a dataset: it cannot be ingested, scored or selected from any more. Its history and its files are kept."""
    engine = open_store()
    if not config.reason.strip():
        raise ConfigError("--reason is empty. Give the reason for the removal.")
    row = find_dataset(engine, config.name)
    (size,) = datasets.describe_datasets(engine, config.name)
    made, raters = datasets.subsets_of(engine, config.name), datasets.raters_of(engine, config.name)
    datasets.remove(engine, row, reason=config.reason)
    return DatasetRemoveResult(
        removed=config.name,
        root=row.root_uri,
        n_shards=size.n_shards,
        n_samples=size.n_samples,
        unusable_subsets=[f"{one.title} ({one.state})" for one in made],
        production_raters=raters,
        note=_describe_removal(row.role, len(made), raters),
    )


def _describe_removal(role: str, n_subsets: int, raters: list[str]) -> str:
    text = "No command reads its samples any more. Its files, scores, runs, subsets and audit log are kept."
    if n_subsets:
        text += " The subset versions above cannot be materialized, trained on or read if they need its samples."
    if raters:
        text += " The raters above stay in use; to certify or train them again, another dataset is needed."
    if role == "evaluation":
        text += " Values measured on it are kept."
    return text


def _fields(row: datasets.DatasetOverview) -> dict[str, Any]:
    return {
        "name": row.name, "role": row.role, "root": row.root_uri, "n_shards": row.n_shards, "n_samples": row.n_samples,
        "n_nights_waiting": row.n_waiting, "is_default": row.is_default, "removed_at": row.removed_at,
        "removed_reason": row.removed_reason,
    }  # fmt: skip


def _note(row: DatasetResult) -> str:
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
