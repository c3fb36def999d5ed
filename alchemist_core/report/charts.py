"""Charts as plain marks in a square; a template adds the axes, in HTML on a page, or in an SVG file of its own.

Axes in HTML keep their text size on a phone, while the marks are stretched. Positions are from 0 to 1, from the left and from the bottom.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from alchemist_core.report.content import Histogram
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.statistics import Estimate

LEGEND_TEXT = 24
"""Longest text of a legend entry, in characters, beside which another one has its place."""

# Colours that people with red-green blindness can distinguish (Okabe, Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c00", "#7f7f7f", "#a65628")
DASHED_COLOUR = "#808080"

Tick = tuple[float, str]  # Position and text.


@dataclass(frozen=True, slots=True)
class Mark:
    """One SVG element in a square of 100 × 100, with its tooltip."""

    tag: Literal["rect", "path", "line"]
    attributes: dict[str, str]
    title: str = ""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """The name of a series: its marks have a CSS class, or a colour of their own."""

    text: str
    class_: str = ""
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart without axes; `label` describes it to screen readers."""

    label: str
    marks: Sequence[Mark]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    legend: Sequence[LegendEntry] = ()
    x_title: str = ""
    # A list of named rows has a vertical grid, and its height grows with the rows.
    has_rows: bool = False

    @property
    def grid(self) -> list[Mark]:
        """The lines at the ticks."""
        if self.has_rows:
            return [_line((x, 0.0), (x, 1.0), class_="grid") for x, _ in self.x_ticks]
        return [_line((0.0, y), (1.0, y), class_="grid") for y, _ in self.y_ticks]

    @property
    def legend_columns(self) -> int:
        """Columns of the legend in an SVG file, in which a long text would cover the next entry."""
        return 1 if any(len(entry.text) > LEGEND_TEXT for entry in self.legend) else 2


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, with the texts of some of them."""

    low: float
    high: float
    labels: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, values: Iterable[float], spec: str = ".4g") -> "Axis":
        """Return an axis of round ticks that encloses the values."""
        given = list(values)
        ticks = nice_ticks(min(given), max(given))
        return cls(ticks[0], ticks[-1], [(tick, format(tick, spec).replace("-", "−")) for tick in ticks])

    @property
    def ticks(self) -> list[Tick]:
        """Positions and texts of the ticks."""
        return [(self.at(value), text) for value, text in self.labels]

    def at(self, value: float) -> float:
        """Return the position of a value."""
        return (value - self.low) / (self.high - self.low)


RATIO_AXIS = Axis(0.0, 1.0, [(i / 5, f"{i * 20}%") for i in range(6)])


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval, and its position on the horizontal axis."""

    x: float
    value: Estimate
    title: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One series of points. Intervals are shown as whiskers, as a band, or not at all."""

    name: str
    points: Sequence[Point]
    intervals: Literal["whiskers", "band", "none"] = "whiskers"
    is_dashed: bool = field(default=False, kw_only=True)


def histogram_chart(histogram: Histogram, what: str) -> Chart:
    """Chart how many samples have a value in each bin; `what` names the values in the plural."""
    low, high = histogram.edges[0], histogram.edges[-1]
    y_ticks = nice_ticks(0.0, float(max(*histogram.counts, 1)))
    top, n_bars = y_ticks[-1], len(histogram.counts)
    bars = [
        _bar(i, n_bars, count / top, "kept", f"{_number(left)} to {_number(right)}: {count:,} samples")
        for i, (count, (left, right)) in enumerate(zip(histogram.counts, pairwise(histogram.edges), strict=True))
    ]
    x_ticks = [
        ((tick - low) / ((high - low) or 1), _number(tick)) for tick in nice_ticks(low, high) if low <= tick <= high
    ]
    label = f"Histogram of {sum(histogram.counts):,} {what} from {_number(low)} to {_number(high)}"
    return Chart(label, bars, x_ticks, [(tick / top, _count(tick)) for tick in y_ticks])


def shares_chart(
    edges: Sequence[float], counts: Sequence[int], reference_shares: Sequence[float] | None, reference: str | None
) -> Chart:
    """Chart the share of a night's scores in each bin, with that of the reference as a line.

    Args:
        edges: Inner edges of the bins, one fewer than counts.
        counts: Scores of the night in each bin.
        reference_shares: Shares of the reference; None: there is none yet.
        reference: What the night was compared with.
    """
    n, n_bins = max(sum(counts), 1), len(counts)
    shares = [count / n for count in counts]
    y_ticks = nice_ticks(0.0, max(*shares, *(reference_shares or ()), 0.01))
    top = y_ticks[-1]
    ends = ["lowest", *map(_number, edges), "highest"]
    bars = [
        _bar(i, n_bins, share / top, "kept", f"score {ends[i]} to {ends[i + 1]}: {count:,} samples, {share:.1%}")
        for i, (share, count) in enumerate(zip(shares, counts, strict=True))
    ]
    legend = [LegendEntry("this night", "kept")]
    if reference_shares:
        bars.append(_steps([share / top for share in reference_shares], "target"))
        legend.append(LegendEntry(reference or "reference", "target"))
    x_ticks = [((i + 1) / n_bins, _number(edge)) for i, edge in enumerate(edges) if i % 2 == 0]
    label = f"Shares of {sum(counts):,} scores in {n_bins} bins of equal shares of the reference"
    return Chart(label, bars, x_ticks, [(tick / top, f"{tick:.0%}") for tick in y_ticks], legend)


def selection_chart(curve: SelectionCurve, label: str) -> Chart:
    """Chart the eligible samples by rank, those that were selected, and the target density of the strategy."""
    n_most, n_target_most = float(curve.n_pool.max()), float((curve.target * curve.n_pool).max())
    # A target is cut at twice the number of eligible samples, because otherwise their bars would be too low to read.
    y_ticks = nice_ticks(0.0, max(min(n_target_most, 2 * n_most), n_most, 1.0))
    top, n_bins = y_ticks[-1], len(curve.n_pool)
    eligible, selected = [], []
    for i, (n_pool, n_kept) in enumerate(zip(curve.n_pool.tolist(), curve.n_kept.tolist(), strict=True)):
        title = f"rank {i / n_bins:.3f} to {(i + 1) / n_bins:.3f}: {n_kept:,} of {n_pool:,} selected"
        eligible.append(_bar(i, n_bins, n_pool / top, "pool", title))
        selected.append(_bar(i, n_bins, n_kept / top, "kept", title))
    lines = [_steps((curve.target * curve.n_pool / top).tolist(), "target")]
    legend = [
        LegendEntry("eligible", "pool"),
        LegendEntry("selected", "kept"),
        LegendEntry("target (p(rank), scaled to the retention)", "target"),
    ]
    if curve.is_saturated:
        lines.append(_steps((curve.expected * curve.n_pool / top).tolist(), "expected"))
        legend.append(LegendEntry("expected without replacement", "expected"))
    y_labels = [(tick / top, _count(tick)) for tick in y_ticks]
    return Chart(label, [*eligible, *selected, *lines], RATIO_AXIS.ticks, y_labels, legend)


def interval_chart(rows: Sequence[tuple[str, Estimate]], title: str, x_title: str) -> Chart:
    """Chart named values below one another, each with its interval."""
    axis = Axis.of(_ends(value for _, value in rows))
    places = [1 - (i + 0.5) / len(rows) for i in range(len(rows))]
    marks = []
    for y, (_, value) in zip(places, rows, strict=True):
        if value.low is not None and value.high is not None:
            marks.append(_line((axis.at(value.low), y), (axis.at(value.high), y), stroke=COLOURS[0]))
        marks.append(_dot(axis.at(value.mean), y, COLOURS[0], f"{value.mean:.4f}"))
    names = [(y, name) for y, (name, _) in zip(places, rows, strict=True)]
    return Chart(title, marks, axis.ticks, names, x_title=x_title, has_rows=True)


def line_chart(lines: Sequence[Line], title: str, x: Axis, *, x_title: str = "", spec: str = ".4g") -> Chart:
    """Chart lines over one axis; `spec` formats the values of the vertical one."""
    y = Axis.of(_ends(point.value for line in lines for point in line.points), spec)
    marks, legend = [], []
    for i, line in enumerate(lines):
        colour = DASHED_COLOUR if line.is_dashed else COLOURS[i % len(COLOURS)]
        marks += _line_marks(line, x, y, colour)
        legend.append(LegendEntry(line.name, "dashed" if line.is_dashed else "", colour))
    return Chart(title, marks, x.ticks, y.ticks, legend if len(lines) > 1 else (), x_title)


def with_values(chart: Chart, columns: Sequence[tuple[float, str]]) -> Chart:
    """Return the chart with a text at each position of the horizontal axis, which browsers show while the pointer is over it.

    Args:
        chart: The chart.
        columns: Positions, 0 to 1 in ascending order, and their texts. Each column reaches half way to its neighbours.
    """
    places = [place for place, _ in columns]
    ends = [0.0, *((left + right) / 2 for left, right in pairwise(places)), 1.0]
    strips = [
        Mark("rect", {
            "x": f"{100 * low:.3f}", "y": "0", "width": f"{100 * (high - low):.3f}", "height": "100", "class": "strip",
        }, text)
        for (low, high), (_, text) in zip(pairwise(ends), columns, strict=True)
    ]  # fmt: skip
    return replace(chart, marks=[*chart.marks, *strips])


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


def _line_marks(line: Line, x: Axis, y: Axis, colour: str) -> list[Mark]:
    found = [(x.at(point.x), y.at(point.value.mean)) for point in line.points]
    marks = []
    if line.intervals == "band" and all(point.value.low is not None for point in line.points):
        ends = [(x.at(p.x), y.at(p.value.low), y.at(p.value.high)) for p in line.points if p.value.low is not None
                and p.value.high is not None]  # fmt: skip
        around = [*((px, low) for px, low, _ in ends), *((px, high) for px, _, high in reversed(ends))]
        marks.append(Mark("path", {"d": _path(around) + "Z", "class": "band", "fill": colour}))
    if found:
        class_ = {"class": "dashed"} if line.is_dashed else {}
        marks.append(Mark("path", {"d": _path(found), "stroke": colour, **class_}))
    if line.intervals == "whiskers":
        for (px, py), point in zip(found, line.points, strict=True):
            if point.value.low is not None and point.value.high is not None:
                marks.append(_line((px, y.at(point.value.low)), (px, y.at(point.value.high)), stroke=colour))
            marks.append(_dot(px, py, colour, point.title))
    return marks


def _bar(i: int, n_bars: int, height: float, class_: str, title: str) -> Mark:
    width = 100 / n_bars
    place = {"x": f"{(i + 0.06) * width:.3f}", "y": f"{100 - 100 * height:.3f}"}
    size = {"width": f"{width * 0.88:.3f}", "height": f"{100 * height:.3f}"}
    return Mark("rect", {**place, **size, "class": class_}, title)


def _steps(heights: Sequence[float], class_: str) -> Mark:
    width = 100 / len(heights)
    steps = [f"V{100 - 100 * y:.2f}H{(i + 1) * width:.3f}" for i, y in enumerate(heights)]
    return Mark("path", {"d": f"M0 {100 - 100 * heights[0]:.2f}{''.join(steps)}", "class": class_})


def _line(start: tuple[float, float], end: tuple[float, float], *, class_: str = "", stroke: str = "") -> Mark:
    (x1, y1), (x2, y2) = (_at(*place) for place in (start, end))
    style = {"class": class_} if class_ else {"stroke": stroke}
    return Mark("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **style})


def _dot(x: float, y: float, colour: str, title: str) -> Mark:
    # A stroke of length 0 with round ends stays round when the square is stretched.
    return Mark("path", {"d": f"M{' '.join(_at(x, y))}h0", "class": "dot", "stroke": colour}, title)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(" ".join(_at(*point)) for point in points)


def _at(x: float, y: float) -> tuple[str, str]:
    return f"{100 * x:.3f}", f"{100 - 100 * y:.3f}"


def _ends(values: Iterable[Estimate]) -> list[float]:
    return [end for one in values for end in (one.mean, one.low, one.high) if end is not None]


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:,.4g}"
