"""`alchemist subset diff`: which pairs left and joined between two versions, and why."""

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Config, Report
from alchemist_core.errors import ConfigError
from alchemist_core.store.engine import open_store
from alchemist_core.store.subsets import SubsetRow, find_by_id, find_subset
from alchemist_core.subsets.changes import find_changes


class DiffSubsetConfig(Config):
    """Which two versions."""

    name: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    from_: int | None = Field(
        None,
        ge=1,
        description="Earlier version; none: the one that was published before the later, or the one below it",
    )
    to: int | None = Field(None, ge=1, description="Later version; none: the newest")


class DiffSubsetReport(Report):
    """Who left and who joined, by reason; the parts add up to the versions' sizes."""

    before: str
    after: str
    n_before: int
    n_after: int
    n_both: int
    leavers: dict[str, int]
    joiners: dict[str, int]

    def summary(self) -> str:
        """Return the sums and a line a reason."""
        n_left, n_joined = sum(self.leavers.values()), sum(self.joiners.values())
        return "\n".join([
            f"{self.before}: {self.n_before:,} pairs; {self.after}: {self.n_after:,}; in both: {self.n_both:,}",
            f"left: {n_left:,}", *(f"  {n:>12,}  {reason}" for reason, n in self.leavers.items()),
            f"joined: {n_joined:,}", *(f"  {n:>12,}  {reason}" for reason, n in self.joiners.items()),
        ])  # fmt: skip


def diff(config: DiffSubsetConfig) -> DiffSubsetReport:
    """Split leavers and joiners of two versions into rank moved, better key, k, taken down, held, cap, duplicate and new pair."""
    engine = open_store()
    after = find_subset(engine, config.name, version=config.to)
    before = _before(engine, after, config.from_)
    changes = find_changes(engine, before, after)
    return DiffSubsetReport(
        before=before.title, after=after.title, n_before=changes.n_before, n_after=changes.n_after, n_both=changes.n_both,
        leavers=changes.leavers, joiners=changes.joiners,
    )  # fmt: skip


def _before(engine: Engine, after: SubsetRow, version: int | None) -> SubsetRow:
    if version is not None:
        return find_subset(engine, after.name, version=version)
    if after.predecessor_id is not None:
        return find_by_id(engine, after.predecessor_id)
    if after.version == 1:
        raise ConfigError(f"{after.title} is the only version up to here: there is nothing to compare it with.")
    return find_subset(engine, after.name, version=after.version - 1)
