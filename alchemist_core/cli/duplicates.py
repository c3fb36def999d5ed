"""Find pictures that are the same or look alike; the pair that was seen first is the one that is kept."""

from typing import Any

from pydantic import Field

from alchemist_core.config import Command, Config, Report
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import count_uncompared, find_duplicates, list_groups
from alchemist_core.telemetry import ProgressLine


class FindConfig(Config):
    """Nothing to choose: new pairs are compared with all that came before."""


class FindReport(Report):
    """What was compared."""

    n_pairs: int
    n_duplicates: int


class ListConfig(Config):
    """How many groups."""

    groups: int = Field(20, ge=1, le=10_000, description="Groups to list, largest first")


class ListReport(Report):
    """The largest groups."""

    groups: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line a group."""
        rows = (
            f"{group['n_samples']:,} pairs look like sample {group['first_sample_id']} ({group['n_same_image']:,} with its bytes, "
            f"others within {group['max_distance']} bits): {group['caption'][:80]}"
            for group in self.groups
        )
        return "\n".join(rows) or "no duplicates (alchemist duplicates find looks for them)"


def find(_config: FindConfig) -> FindReport:
    """Compare the pairs that came since the last time, tonight's against all of history."""
    engine, n_pairs, n_duplicates = open_store(), 0, 0
    n_total = count_uncompared(engine)
    with ProgressLine("duplicates") as line:
        while (block := find_duplicates(engine)) is not None:
            n_pairs, n_duplicates = n_pairs + block.n_pairs, n_duplicates + block.n_duplicates
            line.show(n_pairs, max(n_total, n_pairs))
    return FindReport(n_pairs=n_pairs, n_duplicates=n_duplicates)


def list_(config: ListConfig) -> ListReport:
    """List the largest groups of pictures that look alike."""
    return ListReport(groups=list_groups(open_store(), n_groups=config.groups))


COMMANDS = {
    "find": Command(FindConfig, find, lambda _, report: "alchemist duplicates list" if report.n_duplicates else None),
    "list": Command(ListConfig, list_),
}
