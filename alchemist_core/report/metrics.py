"""What models draw, measured: each metric of each contract, the arms of a subset side by side."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from alchemist_core.report.comparison import place_of_arm
from alchemist_core.report.content import MetricRun
from alchemist_core.report.markup import Html, element
from alchemist_core.report.tables import show_estimate, table
from alchemist_core.statistics import Estimate, estimate, estimate_gain, is_lower_better


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric of one contract over the seeds of each arm."""

    contract: str
    metric: str
    arms: dict[str, Estimate]
    gain: Estimate | None  # How much better the subset is than random, paired by seed.


def summarize_metrics(runs: Sequence[MetricRun]) -> list[MetricSummary]:
    """Return a summary for each metric, in the order in which they come."""
    groups: dict[tuple[str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        groups[run.contract, run.metric][run.arm][run.seed] = run.value
    return [_summarize(contract, metric, arms) for (contract, metric), arms in groups.items()]


def metrics_table(runs: Sequence[MetricRun]) -> Html:
    """Show every metric of a subset's arms; ↓ where lower is better."""
    summaries = summarize_metrics(runs)
    arms = sorted({arm for one in summaries for arm in one.arms}, key=place_of_arm)
    rows = [
        (
            (
                element("code", one.contract),
                f"{one.metric} {'↓' if is_lower_better(one.metric) else '↑'}",
                *(show_estimate(one.arms.get(arm), _digits(one)) for arm in arms),
                show_estimate(one.gain, _digits(one)),
            ),
            "",
        )
        for one in summaries
    ]
    return table(("Contract", "Metric", *arms, "Gain"), rows, class_="metrics")


def _summarize(contract: str, metric: str, arms: dict[str, dict[int, float]]) -> MetricSummary:
    means = {arm: estimate(list(values.values())) for arm, values in arms.items()}
    gain = estimate_gain(arms.get("subset", {}), arms.get("random", {}), metric=metric)
    return MetricSummary(contract, metric, means, gain)


def _digits(one: MetricSummary) -> int:
    """Show three digits of the largest value at least."""
    largest = max(abs(estimate.mean) for estimate in one.arms.values())
    return 3 if largest >= 0.1 else 5
