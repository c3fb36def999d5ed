"""How a subset compares with its controls: held-out losses and image metrics by arm, with gains paired by seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from alchemist_core.project import of_version, train_downstream_command
from alchemist_core.report.arm_names import ORACLE, place_of_arm
from alchemist_core.report.content import ArmRun, MetricRun
from alchemist_core.statistics import Estimate, estimate, estimate_gain, gap_closed, is_lower_better
from alchemist_core.store.models import ComparedModel
from alchemist_core.store.overviews import Comparison as ComparedArm

LOSSES = ("heldout_loss", "heldout_flow_loss")
"""The metrics that can judge a version: the loss of STAR, and that of FLUX-mini, which has no other."""
Row = TypeVar("Row", ComparedArm, ComparedModel)
_NOTES = {
    "subset": "selected by the rater's ranks",
    "random": "same size, selected at random",
    "validation": "the rater's validation dataset alone, as many steps",
    "subset+validation": "the subset and the rater's validation dataset, as many steps",
    ORACLE: "same size, selected from samples known to be good",
    "full": "every sample that was eligible when it was trained, more steps",
}


def only_losses(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the metric that judges a version: the first of `LOSSES` that its own models have."""
    own = {row.metric for row in rows if row.arm == "subset"}
    metric = next((one for one in LOSSES if one in own), LOSSES[0])
    return [row for row in rows if row.metric == metric]


def name_loss(metric: str) -> str:
    """Return a loss in words.

    >>> name_loss("heldout_flow_loss")
    'held-out flow loss'
    """
    return metric.replace("heldout", "held-out").replace("_", " ")


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    n_samples: int
    n_steps: int
    loss_of_seed: dict[int, float]
    loss: Estimate
    gain: Estimate | None  # Loss of random minus loss of this arm, paired by seed; positive is better.
    gap_closed: Estimate | None  # 0 = as good as random, 1 = as good as the oracle.
    n_random: int = 0  # Seeds of the random arm.

    @property
    def note(self) -> str:
        """What the arm was trained on, in words; empty for an oracle with added samples."""
        return _NOTES.get(self.arm, "")

    @property
    def seeds_of_gap(self) -> str:
        """Which seeds the gap closed is measured on, if those are fewer than all of the arm."""
        if self.gap_closed is None or self.gap_closed.n == len(self.loss_of_seed):
            return ""
        return f"over {self.gap_closed.n} of {len(self.loss_of_seed)} seeds"

    @property
    def seeds_of_gain(self) -> str:
        """How many seeds the gain is measured on, if the arm or random has others."""
        if self.gain is None or self.gain.n == len(self.loss_of_seed) == self.n_random:
            return ""
        return f"over {self.gain.n} common {'seed' if self.gain.n == 1 else 'seeds'}"

    @property
    def ends(self) -> tuple[float, ...]:
        """All losses that a chart of the arm must show: those of the seeds, and both ends of the interval."""
        half_width = self.loss.half_width or 0.0
        return *self.loss_of_seed.values(), self.loss.mean - half_width, self.loss.mean + half_width


@dataclass(frozen=True, slots=True)
class Comparison:
    """One subset and its controls."""

    subset: str
    retention: float
    arms: tuple[ArmSummary, ...]
    loss: str  # In words.

    @property
    def subset_arm(self) -> ArmSummary | None:
        """The subset's own arm."""
        return next((arm for arm in self.arms if arm.arm == "subset"), None)

    @property
    def has_one_seed(self) -> bool:
        """Whether no arm has a second seed, so that nothing has an interval."""
        return all(len(arm.loss_of_seed) < 2 for arm in self.arms)

    @property
    def seeds_note(self) -> str:
        """How gains over fewer seeds than a row has come about; empty if there are none."""
        if not any(arm.seeds_of_gain or arm.seeds_of_gap for arm in self.arms):
            return ""
        return (
            "Gain and gap closed use only seeds that all compared arms have. So a gain over fewer seeds is not the difference of the two "
            "mean losses beside it, and a gap closed does not change with seeds that the oracle lacks."
        )

    @property
    def has_oracle(self) -> bool:
        """Whether there is an oracle, without which no gap is known."""
        return any(arm.arm == ORACLE for arm in self.arms)

    def place_of(self, loss: float) -> float:
        """Return where a loss lies between the lowest and the highest of all arms, as a percentage with a margin."""
        ends = [end for arm in self.arms for end in arm.ends]
        margin = (max(ends) - min(ends)) * 0.06 or 1.0
        low, high = min(ends) - margin, max(ends) + margin
        return 100 * (loss - low) / (high - low)


class Worth(NamedTuple):
    """What a subset is worth, in one sentence: better than random, worse, or not shown."""

    verdict: Literal["better", "worse", "not shown"]
    text: str


def judge_worth(losses: Sequence[ComparedArm], name: str, version: int) -> Worth:
    """Judge a subset version by the held-out losses of its arms.

    Args:
        losses: The arms that were compared under one metric (`only_losses`).
        name: Name of the subset, for the commands that are missing.
        version: The version.

    >>> judge_worth([], "cats", 2).verdict
    'not shown'
    """
    own = next((one for one in losses if one.arm == "subset"), None)
    train, which = train_downstream_command(name, version), of_version(name, version)
    if own is not None and own.metric != LOSSES[0]:
        which += f" --protocol {own.metric}"
    more_seeds = f"Next: {train} --arms subset,random --seeds 0,1,2, then alchemist evaluate {which}."
    if own is None:
        return Worth("not shown", f"no model was trained on it and evaluated. {more_seeds}")
    if own.gain is None:
        why = "no model that was trained on a random subset of the same size was evaluated"
        if any(one.arm == "random" for one in losses):
            why = "it and a random subset of the same size have no common seed"
        return Worth("not shown", f"{why}. {more_seeds}")
    size = f"{name_loss(own.metric)} {'lower' if own.gain >= 0 else 'higher'} than random's by {abs(own.gain):.4f}"
    if own.gain_low is None or own.gain_high is None:
        return Worth("not shown", f"{size}, but one common seed has no interval. {more_seeds}")
    ends = f"{own.gain_low:.4f} to {own.gain_high:.4f}".replace("-", "−")
    interval = f"95% interval of the gain {ends}, {own.n_common_seeds} common seeds"
    if own.gain_low <= 0 <= own.gain_high:
        return Worth("not shown", f"{size}, but the interval includes 0 ({interval}).")
    return Worth("better" if own.gain > 0 else "worse", f"{size} ({interval}).")


def compare_arms(runs: Sequence[ArmRun]) -> list[Comparison]:
    """Return a comparison for each subset, the smallest retention first, its arms in the order of `ARMS`."""
    comparisons = []
    for retention, subset in sorted({(run.retention, run.subset) for run in runs}):
        own = [run for run in runs if (run.retention, run.subset) == (retention, subset)]
        groups = defaultdict(list)
        for run in own:
            groups[run.arm].append(run)
        losses = {arm: {run.seed: run.heldout_loss for run in group} for arm, group in groups.items()}
        arms = tuple(_summarize_arm(groups[arm], losses) for arm in sorted(groups, key=place_of_arm))
        comparisons.append(Comparison(subset, retention, arms, name_loss(own[0].metric)))
    return comparisons


def _summarize_arm(group: list[ArmRun], losses: dict[str, dict[int, float]]) -> ArmSummary:
    first = group[0]
    loss, random, oracle = (losses.get(arm, {}) for arm in (first.arm, "random", ORACLE))
    return ArmSummary(
        first.arm,
        first.n_samples,
        first.n_steps,
        loss,
        estimate(list(loss.values())),
        estimate_gain(loss, random) if first.arm != "random" else None,
        gap_closed(loss, random, oracle) if first.arm == "subset" else None,
        len(random),
    )


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric of generated images, under one evaluation protocol, over the seeds of each arm."""

    protocol: str
    metric: str
    arms: dict[str, Estimate]
    gain: Estimate | None  # Of the subset over random, paired by seed; positive is better.

    @property
    def is_lower_better(self) -> bool:
        """Whether a lower value is better."""
        return is_lower_better(self.metric)

    @property
    def digits(self) -> int:
        """Decimals that show at least three digits of the largest value."""
        return 3 if max(abs(value.mean) for value in self.arms.values()) >= 0.1 else 5


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """All metrics of one subset, and the arms that any of them has."""

    arms: tuple[str, ...]
    summaries: tuple[MetricSummary, ...]


def compare_metrics(runs: Sequence[MetricRun]) -> dict[str, MetricComparison]:
    """Return the metrics of each subset, in the order of the runs."""
    by_subset: dict[str, list[MetricRun]] = {}
    for run in runs:
        by_subset.setdefault(run.subset, []).append(run)
    return {
        subset: MetricComparison(
            tuple(sorted({run.arm for run in found}, key=place_of_arm)), tuple(summarize_metrics(found))
        )
        for subset, found in by_subset.items()
    }


def summarize_metrics(runs: Sequence[MetricRun]) -> list[MetricSummary]:
    """Return a summary for each metric, in the order of the runs."""
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        groups[run.protocol, run.metric][run.arm][run.seed] = run.value
    return [_summarize_metric(protocol, metric, arms) for (protocol, metric), arms in groups.items()]


def _summarize_metric(protocol: str, metric: str, arms: dict[str, dict[int, float]]) -> MetricSummary:
    means = {arm: estimate(list(values.values())) for arm, values in arms.items()}
    gain = estimate_gain(arms.get("subset", {}), arms.get("random", {}), metric=metric)
    return MetricSummary(protocol, metric, means, gain)
