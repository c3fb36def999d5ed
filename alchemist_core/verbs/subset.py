"""Look at subset versions: what there is, and what one of them is made of."""

from typing import Any

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import find_subset, list_subsets, rater_of_subset


class SubsetListConfig(Config):
    """Nothing to choose."""


class SubsetListReport(Report):
    """All subset versions."""

    subsets: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line a version."""
        rows = (
            f"{s['name']} v{s['version']}  {s['state']}  {s['n_samples']:,} pairs  {s['strategy']} {s['retention']:g}"
            for s in self.subsets
        )
        return "\n".join(rows) or "No subset yet. Make one: alchemist select --dataset NAME --retention 0.2"


class SubsetShowConfig(Config):
    """Which subset."""

    name: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description="Version number; none: the newest")


class SubsetShowReport(Report):
    """One subset version."""

    subset: str
    state: str
    n_samples: int
    spec: dict[str, Any]
    rater: str
    datasets: list[str]
    manifest_sha256: str
    manifest: str
    materialized: str | None


def list_(_config: SubsetListConfig) -> SubsetListReport:
    """List all subset versions, oldest first."""
    fields = ("name", "version", "state", "n_samples", "strategy", "retention")
    return SubsetListReport(
        subsets=[{name: getattr(row, name) for name in fields} for row in list_subsets(open_store())]
    )


def show(config: SubsetShowConfig) -> SubsetShowReport:
    """Show what a subset version is made of and where it lies."""
    engine = open_store()
    subset = find_subset(engine, config.name, version=config.version)
    rater = rater_of_subset(engine, subset)
    return SubsetShowReport(
        subset=subset.title,
        state=subset.state,
        n_samples=subset.n_samples,
        spec=subset.spec,
        rater=rater.name,
        datasets=rater.dataset_names,
        manifest_sha256=subset.manifest_sha256,
        manifest=str(artifact_path(subset.manifest_uri)),
        materialized=str(artifact_path(subset.materialized_uri)) if subset.materialized_uri else None,
    )


COMMANDS = {"list": Command(SubsetListConfig, list_), "show": Command(SubsetShowConfig, show)}
