"""Charts as inline SVG that stretches, with axes in HTML that does not: text keeps its size on a phone.

Knows nothing of reports' sections.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from alchemist_core.report.content import Histogram
from alchemist_core.report.markup import Html, element
from alchemist_core.selection.curves import SelectionCurve


def histogram_chart(histogram: Histogram, what: str) -> Html:
    """Draw how many pairs have which value; `what` names the values in the plural."""
    low, high = histogram.edges[0], histogram.edges[-1]
    y_ticks = nice_ticks(0.0, float(max(*histogram.counts, 1)))
    top = y_ticks[-1]
    bars = [
        _bar(i, count / top, len(histogram.counts), f"{_number(left)} to {_number(right)}: {count:,} pairs")
        for i, (count, (left, right)) in enumerate(zip(histogram.counts, pairwise(histogram.edges), strict=True))
    ]
    x_ticks = [
        ((tick - low) / ((high - low) or 1), _number(tick)) for tick in nice_ticks(low, high) if low <= tick <= high
    ]
    label = f"Histogram of {sum(histogram.counts):,} {what} from {_number(low)} to {_number(high)}"
    return _plot(bars, x_ticks, [(tick / top, _count(tick)) for tick in y_ticks], label)


def selection_chart(curve: SelectionCurve, label: str) -> Html:
    """Draw the pool by rank, what was kept of it, and what the strategy asked for."""
    n_pool_most, n_wanted_most = float(curve.n_pool.max()), float((curve.target * curve.n_pool).max())
    # What is wanted beyond the pool is shown, up to the height at which the pool's own bars would become too low to read.
    y_ticks = nice_ticks(0.0, max(min(n_wanted_most, 2 * n_pool_most), n_pool_most, 1.0))
    top, n_bins = y_ticks[-1], len(curve.n_pool)
    pool, kept = [], []
    for i, (n_pool, n_kept) in enumerate(zip(curve.n_pool.tolist(), curve.n_kept.tolist(), strict=True)):
        text = f"rank {i / n_bins:.3f} to {(i + 1) / n_bins:.3f}: {n_kept:,} of {n_pool:,} kept"
        pool.append(_bar(i, n_pool / top, n_bins, text, class_="pool"))
        kept.append(_bar(i, n_kept / top, n_bins, text))
    lines = [_steps((curve.target * curve.n_pool / top).tolist(), "target")]
    if curve.is_saturated:
        lines.append(_steps((curve.expected * curve.n_pool / top).tolist(), "expected"))
    x_ticks = [(tick / 5, f"{tick * 20} %") for tick in range(6)]
    return _plot([*pool, *kept, *lines], x_ticks, [(tick / top, _count(tick)) for tick in y_ticks], label)


def selection_legend(curve: SelectionCurve) -> Html:
    """Name the marks of a selection chart."""
    marks = [("pool", "eligible"), ("kept", "kept"), ("target", "asked for (p(rank), scaled to the retention)")]
    if curve.is_saturated:
        marks.append(("expected", "expected without replacement"))
    return element(
        "ul",
        *(element("li", element("i", class_=f"mark {mark}"), text) for mark, text in marks),
        class_="legend",
    )


def nice_ticks(low: float, high: float, n: int = 4) -> list[float]:
    """Return about n round values that enclose a range.

    >>> nice_ticks(0.0, 870.0)
    [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
    """
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / n))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= span / n * 0.85)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _bar(i: int, height: float, n_bars: int, text: str, class_: str = "kept") -> Html:
    width = 100 / n_bars
    return element(
        "rect",
        element("title", text),
        x=f"{i * width + width * 0.06:.3f}",
        y=f"{100 - 100 * height:.3f}",
        width=f"{width * 0.88:.3f}",
        height=f"{100 * height:.3f}",
        class_=class_,
    )


def _steps(heights: Sequence[float], class_: str) -> Html:
    width = 100 / len(heights)
    path = "".join(
        f"{'M' if i == 0 else 'V'}{f'0 {100 - 100 * y:.2f}' if i == 0 else f'{100 - 100 * y:.2f}'}H{(i + 1) * width:.3f}"
        for i, y in enumerate(heights)
    )
    return element("path", d=path, class_=class_)


def _plot(
    marks: Sequence[Html], x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], label: str
) -> Html:
    grid = [element("path", d=f"M0 {100 - 100 * y:.3f}H100", class_="grid") for y, _ in y_ticks]
    svg = element("svg", *grid, *marks, viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=label)
    y_axis = [element("span", text, style=f"bottom:{100 * y:.2f}%") for y, text in y_ticks]
    x_axis = [element("span", text, style=f"left:{100 * x:.2f}%") for x, text in x_ticks]
    return element(
        "div",
        element("div", *y_axis, class_="y-axis", aria_hidden="true"),
        svg,
        element("div", *x_axis, class_="x-axis", aria_hidden="true"),
        class_="plot",
    )


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:,.4g}"
