"""Pages as single HTML files that load nothing and run nothing, from Jinja2 templates. No database, no torch, no network.

Autoescape is on, and only templates make markup: no caption, name or reason can become an element or leave its attribute.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alchemist_core.report.arm_names import arm_title
from alchemist_core.report.charts import Chart, histogram_chart, selection_chart, shares_chart
from alchemist_core.report.comparison import compare_arms, compare_metrics
from alchemist_core.report.content import ExperimentContent, ReportContent, SubsetContent
from alchemist_core.selection.curves import SelectionCurve

_CAPTION_LENGTH = 180
# Neither HTML nor XML allows these, and a lone surrogate cannot be written to a file.
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def render_report(content: ReportContent) -> str:
    """Return the report as one HTML file; equal content gives equal bytes."""
    return _render(
        "report.html",
        title=content.title,
        content=content,
        comparisons=compare_arms(content.arms),
        metrics=compare_metrics(content.metrics),
    )


def render_experiment(experiment: ExperimentContent) -> str:
    """Return one experiment as a page of its own; the report shows the same article among others."""
    return _render("experiment.html", title=experiment.notes[0], experiment=experiment)


def render_chart(chart: Chart) -> str:
    """Return a chart as an SVG file of its own, which follows the reader's light or dark scheme."""
    return _render("chart.svg", chart=chart)


def make_environment(*packages: str) -> Environment:
    """Return an environment of the templates of some packages, the first first; templates of the report and the explorer share parts."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_replace_unprintable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["pairs"] = _pairs
    environment.filters |= {
        "arm_title": arm_title,
        "count": "{:,}".format,
        "data_uri": _data_uri,
        "decimal": show_decimal,
        "duration": show_duration,
        "histogram_chart": histogram_chart,
        "percent": show_percent,
        "saturation_note": saturation_note,
        "selection_chart": _selection_chart,
        "shares_chart": shares_chart,
        "shorten": _shorten,
    }
    return environment


def saturation_note(curve: SelectionCurve) -> str | None:
    """Describe at which ranks a selection could not reach its target density; None if it reached it everywhere.

    >>> bins = np.ones(2, np.int64)
    >>> saturation_note(SelectionCurve(bins, bins, np.array([0.1, 1.9]), np.array([0.5, 0.9])))[:53]
    'Between ranks 50% and 100% the strategy wants 1.9 tim'
    """
    if not curve.is_saturated:
        return None
    i, n_bins = int(np.argmax(curve.target)), len(curve.target)
    return (
        f"Between ranks {show_percent(i / n_bins)} and {show_percent((i + 1) / n_bins)} the strategy wants "
        f"{float(curve.target[i]):.3g} times as many samples as are eligible; {show_percent(float(curve.kept_share[i]))} of them are "
        "selected, and neighbouring ranks fill the gap."
    )


def show_percent(ratio: float) -> str:
    """Write a ratio as a percentage of three digits.

    >>> show_percent(0.2), show_percent(0.98765)
    ('20%', '98.8%')
    """
    return f"{ratio * 100:.3g}%"


def show_decimal(value: float, digits: int) -> str:
    """Write a number with a fixed count of decimals and a true minus sign.

    >>> show_decimal(-0.5, 2)
    '−0.50'
    """
    return f"{value:.{digits}f}".replace("-", "−")


def show_duration(seconds: float) -> str:
    """Write a duration in its usual unit.

    >>> show_duration(42.4), show_duration(600), show_duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _render(template: str, **given: object) -> str:
    return _environment().get_template(template).render(given)


@cache
def _environment() -> Environment:
    return make_environment("alchemist_core.report")


def _replace_unprintable(value: object) -> object:
    return value if isinstance(value, Markup) else _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def _selection_chart(subset: SubsetContent) -> Chart:
    n_eligible = int(subset.curve.n_pool.sum())
    return selection_chart(subset.curve, f"Ranks of {subset.n_samples:,} selected samples among {n_eligible:,}")


def _pairs(labels: Sequence[str], cells: Sequence[object]) -> Iterator[tuple[str, object]]:
    return zip(labels, cells, strict=True)


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _shorten(text: str) -> str:
    return text if len(text) <= _CAPTION_LENGTH else text[: _CAPTION_LENGTH - 1] + "…"
