"""Fig. 3 as a sheet: the loss and the gradient norm of each band along the epochs, and the figures of the first and the last mark."""

from collections.abc import Sequence
from typing import Any

from alchemist_core.experiments.dynamics import TITLE
from alchemist_core.experiments.results import show
from alchemist_core.experiments.sheets import Sheet
from alchemist_core.report.charts import Axis, Point, line_chart
from alchemist_core.report.charts import Line as ChartLine
from alchemist_core.report.page import render_chart
from alchemist_core.statistics import Estimate, estimate

HEAD = ("ranks", "pairs", "loss at first", "loss at last", "fell by", "gradient at first", "gradient at last")
# Line of the reference in the figure.
REFERENCE = "mean L(θ̂), all ranks"
Line = list[tuple[float, float]]


def make_dynamics_sheet(result: dict[str, Any]) -> Sheet:
    """Lay what was followed out; equal results give equal sheets."""
    courses = result["courses"]
    n_bands = len(courses[0]["n_in_band"])
    titles = {
        "loss_of_band": "Loss under the proxy, nats a token",
        "gradient_norm_of_band": "Norm of a pair's own gradient",
    }
    figures = {
        f"dynamics-{name.partition('_')[0]}": (title, _draw(_lines(courses, name, n_bands), title))
        for name, title in titles.items()
    }
    return Sheet(_notes(courses), HEAD, [_row(courses, band, n_bands) for band in range(n_bands)], figures)


def name_band(band: int, n_bands: int) -> str:
    """Name a band by its ranks.

    >>> name_band(0, 5)
    'ranks 0–20%'
    """
    return f"ranks {100 * band / n_bands:.3g}–{100 * (band + 1) / n_bands:.3g}%"


def _notes(courses: Sequence[dict[str, Any]]) -> list[str]:
    first = courses[0]
    n_followed = sum(first["n_in_band"])
    notes = [
        TITLE,
        f"{n_followed:,} training pairs followed, the gradients of {first['n_gradients']:,}; seeds: {len(courses)}.",
    ]
    last = [course["marks"][-1] for course in courses]
    references = [mark["reference_loss"] for mark in last if mark["reference_loss"] is not None]
    if references:
        notes.append(
            f"The mean loss under the reference θ̂ ends at {show(estimate(references))} nats a token. Eq. 8 takes it for 0."
        )
    largest = max(course["largest_difference"] for course in courses)
    of_own = (
        "the raters' own, bit for bit"
        if largest == 0
        else f"not the raters' own to the bit: losses differ by up to {largest:.2g}"
    )
    return [*notes, f"The trainings that were followed are {of_own}."]


def _row(courses: Sequence[dict[str, Any]], band: int, n_bands: int) -> tuple[str, ...]:
    loss, gradient = (_ends(courses, name, band) for name in ("loss_of_band", "gradient_norm_of_band"))
    fell = estimate([first - last for first, last in zip(*loss, strict=True)])
    n_pairs = estimate([float(course["n_in_band"][band]) for course in courses]).mean
    ends = (show(estimate(values)) for values in loss)
    return (
        name_band(band, n_bands), f"{n_pairs:,.0f}", *ends, show(fell),
        *(show(estimate(values), digits=2) for values in gradient),
    )  # fmt: skip


def _ends(courses: Sequence[dict[str, Any]], name: str, band: int) -> tuple[list[float], list[float]]:
    first, last = ([course["marks"][at][name][band] for course in courses] for at in (0, -1))
    return first, last


def _lines(courses: Sequence[dict[str, Any]], name: str, n_bands: int) -> dict[str, Line]:
    """Return each band's means over the seeds, at the marks that all of them reached."""
    n_marks = min(len(course["marks"]) for course in courses)
    marks = [[course["marks"][i] for course in courses] for i in range(n_marks)]
    lines = {
        name_band(band, n_bands): [
            (_mean(seeds, "epoch"), estimate([mark[name][band] for mark in seeds]).mean) for seeds in marks
        ]
        for band in range(n_bands)
    }
    if name == "loss_of_band":
        behind = [seeds for seeds in marks if all(mark["reference_loss"] is not None for mark in seeds)]
        lines[REFERENCE] = [(_mean(seeds, "epoch"), _mean(seeds, "reference_loss")) for seeds in behind]
    return lines


def _mean(marks: Sequence[dict[str, Any]], name: str) -> float:
    return estimate([mark[name] for mark in marks]).mean


def _draw(lines: dict[str, Line], title: str) -> str:
    epochs = Axis.of([0.0, *(x for line in lines.values() for x, _ in line)], ".3g")
    drawn = [
        ChartLine(name, [Point(x, Estimate(y, None, None, 0)) for x, y in line], "none", is_dashed=name == REFERENCE)
        for name, line in lines.items()
    ]
    return render_chart(line_chart(drawn, title, epochs, x_title="epochs of the training pairs"))
