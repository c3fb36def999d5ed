"""Figures of an experiment as SVG that stands alone: means with whiskers, beside one another or along the retention.

Text and colours are in the file itself; it follows the reader's light or dark scheme. Knows nothing of stores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alchemist_core.experiments.results import FULL, ArmRow
from alchemist_core.report.charts import nice_ticks
from alchemist_core.report.markup import Html, element
from alchemist_core.selection.region import ValuePoint
from alchemist_core.statistics import Estimate

WIDTH, LABELS, ROW, TOP = 420, 140, 24, 16
# Where the names of lines begin, where the horizontal axis has a name of its own.
BELOW_AXIS = 310
# Colours that people with red-green blindness tell apart (Okabe, Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c00", "#7f7f7f", "#a65628")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1a1a1a } .grid { stroke: #d9d9d9 } .axis { stroke: #808080; stroke-dasharray: 3 3 }
.end { text-anchor: end } .middle { text-anchor: middle } path, line { fill: none }
@media (prefers-color-scheme: dark) { text { fill: #ececec } .grid { stroke: #3d3d3d } }
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Where values lie on the paper."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value."""
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 2)


def draw_arms(rows: Sequence[ArmRow], title: str) -> str:
    """Draw the arms of one retention beneath one another: each mean loss with its interval; left is better."""
    ticks = nice_ticks(*_range([row.loss for row in rows]))
    x, bottom = Span(ticks[0], ticks[-1], LABELS, WIDTH - 14), TOP + ROW * len(rows)
    marks: list[Html] = []
    for i, row in enumerate(rows):
        y = TOP + ROW * (i + 0.5)
        marks += [element("text", row.arm, x=LABELS - 8, y=y + 4, class_="end"), *_whisker(row.loss, x, y, COLOURS[0])]
    grid = [element("line", x1=x.at(tick), x2=x.at(tick), y1=TOP, y2=bottom, class_="grid") for tick in ticks]
    names = [element("text", f"{tick:.4g}", x=x.at(tick), y=bottom + 16, class_="middle") for tick in ticks]
    below = element("text", "held-out loss, nats a token (left is better)", x=WIDTH - 14, y=bottom + 34, class_="end")
    return svg_page([*grid, *marks, *names, below], bottom + 42, title)


def draw_sweep(rows: Sequence[ArmRow], title: str) -> str:
    """Draw each arm's loss along the share that was kept; the full corpus is a line across."""
    ticks = nice_ticks(*_range([row.loss for row in rows]))
    x, y = Span(0.0, 1.0, 44, WIDTH - 14), Span(ticks[0], ticks[-1], 250, TOP)
    marks: list[Html] = []
    arms = list(dict.fromkeys(row.arm for row in rows))
    for i, arm in enumerate(arms):
        colour = COLOURS[i % len(COLOURS)]
        marks += _level(rows, arm, x, y) if arm == FULL else _line(rows, arm, (x, y), colour)
        marks += key_entry(i, arm, colour, is_level=arm == FULL)
    grid = [element("line", x1=x.start, x2=x.end, y1=y.at(tick), y2=y.at(tick), class_="grid") for tick in ticks]
    names = [element("text", f"{tick:.4g}", x=x.start - 6, y=y.at(tick) + 4, class_="end") for tick in ticks]
    shares = [element("text", f"{i * 20} %", x=x.at(i / 5), y=268, class_="middle") for i in range(6)]
    return svg_page([*grid, *marks, *names, *shares], 298 + 18 * ((len(arms) + 1) // 2), title)


def draw_times(rows: Sequence[ArmRow], title: str) -> str:
    """Draw each arm's loss along the steps that it was trained for, each length with a schedule of its own."""
    ticks, steps = nice_ticks(*_range([row.loss for row in rows])), [row.n_steps for row in rows]
    low, high = math.log10(min(steps)) - 0.05, math.log10(max(steps)) + 0.05
    x, y = Span(low, high, 44, WIDTH - 14), Span(ticks[0], ticks[-1], 250, TOP)
    arms = list(dict.fromkeys(row.arm for row in rows))
    marks: list[Html] = []
    for i, arm in enumerate(arms):
        marks += [
            *_line(rows, arm, (x, y), COLOURS[i % len(COLOURS)], is_time=True),
            *key_entry(i, arm, COLOURS[i % len(COLOURS)], is_level=False, top=BELOW_AXIS),
        ]
    grid = [element("line", x1=x.start, x2=x.end, y1=y.at(tick), y2=y.at(tick), class_="grid") for tick in ticks]
    names = [element("text", f"{tick:.4g}", x=x.start - 6, y=y.at(tick) + 4, class_="end") for tick in ticks]
    round_steps = [factor * 10**power for power in range(8) for factor in (1, 2, 5)]
    shown = [n for n in round_steps if low <= math.log10(n) <= high]
    times = [element("text", f"{n:,}", x=x.at(math.log10(n)), y=268, class_="middle") for n in shown]
    below = element("text", "steps", x=WIDTH - 14, y=284, class_="end")
    return svg_page([*grid, *marks, *names, *times, below], BELOW_AXIS + 18 * ((len(arms) + 1) // 2), title)


def draw_curve(curve: Sequence[ValuePoint], title: str) -> str:
    """Draw what pairs of each rank are worth, with the interval over seeds."""
    ends = [end for point in curve for end in (point.value, point.low, point.high) if end is not None]
    ticks = nice_ticks(min(ends), max(ends))
    x, y = Span(0.0, 1.0, 44, WIDTH - 14), Span(ticks[0], ticks[-1], 250, TOP)
    grid = [element("line", x1=x.start, x2=x.end, y1=y.at(tick), y2=y.at(tick), class_="grid") for tick in ticks]
    names = [element("text", f"{tick:.3g}", x=x.start - 6, y=y.at(tick) + 4, class_="end") for tick in ticks]
    ranks = [element("text", f"{i / 5:g}", x=x.at(i / 5), y=268, class_="middle") for i in range(6)]
    below = element("text", "rank, 0 = highest score; worth as a log of the loss", x=WIDTH - 14, y=286, class_="end")
    band = [(p.rank, p.low) for p in curve] + [(p.rank, p.high) for p in reversed(curve)]
    marks = [] if curve[0].low is None else [curve_path(band, (x, y), "none", fill=COLOURS[0], opacity="0.18")]
    line = curve_path([(p.rank, p.value) for p in curve], (x, y), COLOURS[0])
    return svg_page([*grid, *marks, line, *names, *ranks, below], 294, title)


def _line(
    rows: Sequence[ArmRow], arm: str, axes: tuple[Span, Span], colour: str, *, is_time: bool = False
) -> list[Html]:
    places = {(math.log10(row.n_steps) if is_time else row.retention): row.loss for row in rows if row.arm == arm}
    found = sorted(places.items())
    marks = [curve_path([(place, loss.mean) for place, loss in found], axes, colour)]
    for place, loss in found:
        x = axes[0].at(place)
        low, high = (axes[1].at(loss.mean if end is None else end) for end in (loss.low, loss.high))
        marks.append(element("line", x1=x, x2=x, y1=low, y2=high, stroke=colour))
        where = f"{10**place:,.0f} steps" if is_time else f"{place:.0%}"
        tip = element("title", f"{arm}, {where}: {loss.mean:.4f}")
        marks.append(element("circle", tip, cx=x, cy=axes[1].at(loss.mean), r=3.5, fill=colour))
    return marks


def _level(rows: Sequence[ArmRow], arm: str, x: Span, y: Span) -> list[Html]:
    mean = next(row.loss.mean for row in rows if row.arm == arm)
    return [element("line", x1=x.start, x2=x.end, y1=y.at(mean), y2=y.at(mean), class_="axis")]


def key_entry(i: int, arm: str, colour: str, *, is_level: bool, top: float = 298) -> list[Html]:
    """Name the i-th line below the axes, two a row, beside a piece of it; `top` is where the first row stands."""
    left, y = 44 + 180 * (i % 2), top + 18 * (i // 2)
    kind = {"class_": "axis"} if is_level else {"stroke": colour}
    mark = element("line", x1=left, x2=left + 18, y1=y - 4, y2=y - 4, stroke_width=2, **kind)
    return [mark, element("text", arm, x=left + 24, y=y)]


def _whisker(found: Estimate, x: Span, y: float, colour: str) -> list[Html]:
    dot = element("circle", element("title", f"{found.mean:.4f}"), cx=x.at(found.mean), cy=y, r=4, fill=colour)
    if found.low is None or found.high is None:
        return [dot]
    return [element("line", x1=x.at(found.low), x2=x.at(found.high), y1=y, y2=y, stroke=colour, stroke_width=2), dot]


def curve_path(points: Sequence[tuple[float, float | None]], axes: tuple[Span, Span], stroke: str, **more: str) -> Html:
    """Draw a line through points, those without a value left out; further words are its style."""
    path = "L".join(f"{axes[0].at(px)} {axes[1].at(py)}" for px, py in points if py is not None)
    style = ";".join([
        f"stroke:{stroke}", "stroke-width:2", *(f"{name.replace('_', '-')}:{value}" for name, value in more.items()),
    ])  # fmt: skip
    return element("path", d=f"M{path}", style=style)


def _range(found: Sequence[Estimate]) -> tuple[float, float]:
    ends = [end for one in found for end in (one.mean, one.low, one.high) if end is not None]
    return min(ends), max(ends)


def svg_page(children: Sequence[Html], height: float, title: str) -> str:
    """Put a figure's marks into a picture that needs nothing beside it."""
    return element(
        "svg", element("title", title), element("style", Html(STYLE)), *children,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=title,
    )  # fmt: skip
