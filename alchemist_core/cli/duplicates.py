"""Near-duplicates: find them by perceptual hash, and list the largest groups. The first ingested sample of a group is its original."""

from typing import Annotated, Any

from pydantic import Field

from alchemist_core.config import Command, Config, Formerly, Result
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import count_uncompared, find_duplicates, list_groups
from alchemist_core.telemetry import ProgressLine


class FindConfig(Config):
    """No options: new samples are compared with all earlier ones."""


class FindResult(Result):
    """Number of samples compared, and of near-duplicates among them."""

    n_pairs: int
    n_duplicates: int


class ListConfig(Config):
    """How many groups to list."""

    limit: Annotated[int, Formerly("groups")] = Field(
        20, ge=1, le=10_000, description="Number of groups to list, largest first"
    )


class ListResult(Result):
    """The largest groups."""

    groups: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each group."""
        rows = (
            f"{group['n_samples']:,} samples are near-duplicates of sample {group['first_sample_id']} "
            f"({group['n_same_image']:,} with the same bytes, others within {group['max_distance']} bits): {group['caption'][:80]}"
            for group in self.groups
        )
        return "\n".join(rows) or "No near-duplicates. Find new ones: alchemist duplicates find"


def find(_config: FindConfig) -> FindResult:
    """Find near-duplicates: compare the images that were ingested since the last run with all earlier ones, and store the groups."""
    engine, n_pairs, n_duplicates = open_store(), 0, 0
    n_total = count_uncompared(engine)
    with ProgressLine("duplicates") as line:
        while (block := find_duplicates(engine)) is not None:
            n_pairs, n_duplicates = n_pairs + block.n_pairs, n_duplicates + block.n_duplicates
            line.show(n_pairs, max(n_total, n_pairs))
    return FindResult(n_pairs=n_pairs, n_duplicates=n_duplicates)


def list_(config: ListConfig) -> ListResult:
    """List the largest groups of near-duplicate images."""
    return ListResult(groups=list_groups(open_store(), n_groups=config.limit))


COMMANDS = {
    "find": Command(FindConfig, find, lambda _, result: "alchemist duplicates list" if result.n_duplicates else None),
    "list": Command(ListConfig, list_),
}
