"""Near-duplicates: find them by perceptual hash, and list the largest groups. The first ingested sample of a group is its original."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from alchemist_core.config import Command, Config, Formerly, Result, counted
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
        rows = (f"{_describe_group(group)}: {group['caption'][:80]}" for group in self.groups)
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


def _describe_group(group: Mapping[str, Any]) -> str:
    """Return how many samples are near-duplicates of the first of a group, and how near they are.

    >>> _describe_group({"first_sample_id": 7, "n_samples": 4, "n_same_image": 2, "max_distance": 1})
    '3 samples are near-duplicates of sample 7 (1 with the same bytes, others within 1 bit)'
    >>> _describe_group({"first_sample_id": 7, "n_samples": 2, "n_same_image": 2, "max_distance": 0})
    '1 sample is a near-duplicate of sample 7 (with the same bytes)'
    """
    # Both counts of a group include its first sample.
    n, n_same = group["n_samples"] - 1, group["n_same_image"] - 1
    distance = group["max_distance"]
    nearness = f"within {counted(distance, 'bit')}" if distance else "with the same perceptual hash"
    if n_same == n:
        nearness = "with the same bytes"
    elif n_same:
        nearness = f"{n_same:,} with the same bytes, others {nearness}"
    verb = "samples are near-duplicates" if n != 1 else "sample is a near-duplicate"
    return f"{n:,} {verb} of sample {group['first_sample_id']} ({nearness})"


COMMANDS = {
    "find": Command(FindConfig, find, lambda _, result: "alchemist duplicates list" if result.n_duplicates else None),
    "list": Command(ListConfig, list_),
}
