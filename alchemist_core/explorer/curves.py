"""Curves of a training, from the numbers of its steps that the acceptance report keeps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alchemist_core.report.charts import Axis, Chart, Line, Point, line_chart, with_values
from alchemist_core.statistics import Estimate

MOST_POINTS, N_ROWS = 100, 8
"""Points of a line, each the mean of some steps; rows of the table below it."""
GROUPS = {
    "Loss": {
        "held_out_loss": "on held-out validation samples",
        "validation_loss": "on the validation batch",
        "train_loss": "on the training batch",
        "reference_loss": "of the reference on the training batch",
    },
    "Effective sample size of the weights in a group": {"effective_sample_size": "effective sample size"},
    "Spread of the advantage over the training batch": {"cost_spread": "standard deviation of the advantage"},
}
"""Charts, and the numbers of a step that each shows, with their names."""


class TrainingCurve(NamedTuple):
    """A chart and the same values as a table: the step, and a value for each line (None: not measured)."""

    title: str
    chart: Chart
    names: Sequence[str]
    rows: Sequence[tuple[int, Sequence[float | None]]]


def training_curves(history: Sequence[Mapping[str, Any]]) -> list[TrainingCurve]:
    """Return the charts of a training that have at least two points; none without a history."""
    steps = [one for one in history if isinstance(one.get("step"), int)]
    found = (_curve(title, names, steps) for title, names in GROUPS.items())
    return [curve for curve in found if curve is not None]


def _curve(title: str, names: Mapping[str, str], steps: Sequence[Mapping[str, Any]]) -> TrainingCurve | None:
    size = max(1, math.ceil(len(steps) / MOST_POINTS))
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    at = [round(sum(one["step"] for one in part) / len(part)) for part in parts]
    values = {name: [_mean(part, name) for part in parts] for name in names}
    shown = {name: texts for name, texts in names.items() if sum(value is not None for value in values[name]) > 1}
    if not shown or at[0] == at[-1]:
        return None
    x = Axis.of(at, ",.0f")
    lines = [Line(text, _points(at, values[name]), "none") for name, text in shown.items()]
    columns = [
        (x.at(step), f"step {step:,}: " + "; ".join(f"{text} {_show(values[name][i])}" for name, text in shown.items()))
        for i, step in enumerate(at)
    ]
    chart = line_chart(lines, f"{title} by training step, from {at[0]:,} to {at[-1]:,}", x)
    rows = [(at[i], [values[name][i] for name in shown]) for i in _spread(len(at))]
    return TrainingCurve(title, with_values(chart, columns), list(shown.values()), rows)


def _points(at: Sequence[int], values: Sequence[float | None]) -> list[Point]:
    found = zip(at, values, strict=True)
    return [Point(step, Estimate(value, None, None, 1)) for step, value in found if value is not None]


def _mean(part: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [float(one[name]) for one in part if isinstance(one.get(name), (int, float)) and math.isfinite(one[name])]
    return sum(found) / len(found) if found else None


def _show(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _spread(n: int) -> list[int]:
    """Return some places of n, the first and the last among them.

    >>> _spread(3), _spread(100)[::7]
    ([0, 1, 2], [0, 99])
    """
    return sorted({round(i * (n - 1) / max(1, N_ROWS - 1)) for i in range(N_ROWS)})
