"""What a subset was worth: means over seeds, Student's t intervals on paired differences, share of the gap closed.

Knows nothing of pages. Three to five seeds are usual: bootstrap and normal intervals would cover too little there.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from alchemist_core.report.content import ArmRun
from alchemist_core.statistics import Estimate, estimate, estimate_gain, gap_closed

ARMS = ("subset", "random", "minus_loss", "planted", "full")


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    n_samples: int
    n_steps: int
    loss_of_seed: dict[int, float]
    loss: Estimate
    gain: Estimate | None  # Random's loss less this one's, paired by seed.
    gap_closed: Estimate | None  # 0 = as random, 1 = as a draw of samples known to be good.


@dataclass(frozen=True, slots=True)
class Comparison:
    """One subset and its controls."""

    subset: str
    retention: float
    arms: tuple[ArmSummary, ...]


def compare_arms(runs: Sequence[ArmRun]) -> list[Comparison]:
    """Return a comparison for each subset, the smallest retention first, its arms in the order of `ARMS`."""
    comparisons = []
    for retention, subset in sorted({(run.retention, run.subset) for run in runs}):
        groups = defaultdict(list)
        for run in runs:
            if (run.retention, run.subset) == (retention, subset):
                groups[run.arm].append(run)
        losses = {arm: {run.seed: run.heldout_loss for run in group} for arm, group in groups.items()}
        arms = tuple(_summarize(groups[arm], losses) for arm in sorted(groups, key=place_of_arm))
        comparisons.append(Comparison(subset, retention, arms))
    return comparisons


def place_of_arm(arm: str) -> tuple[int, str]:
    """Return what arms are sorted by: the order of `ARMS`, and planted+plain behind planted."""
    return ARMS.index(arm.partition("+")[0]), arm


def _summarize(group: list[ArmRun], losses: dict[str, dict[int, float]]) -> ArmSummary:
    first = group[0]
    loss, random, planted = (losses.get(arm, {}) for arm in (first.arm, "random", "planted"))
    return ArmSummary(
        first.arm,
        first.n_samples,
        first.n_steps,
        loss,
        estimate(list(loss.values())),
        estimate_gain(loss, random) if first.arm != "random" else None,
        gap_closed(loss, random, planted) if first.arm == "subset" else None,
    )
