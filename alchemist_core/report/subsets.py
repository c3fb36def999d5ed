"""One subset version on the page: what was asked for, what was drawn, what changed, and what it was made from."""

import numpy as np

from alchemist_core.report.charts import selection_chart, selection_legend
from alchemist_core.report.content import SubsetContent, VersionChange
from alchemist_core.report.markup import Html, element, join
from alchemist_core.report.tables import change_table, show_percent
from alchemist_core.selection.curves import SelectionCurve


def subset_article(subset: SubsetContent) -> Html:
    """Lay out one subset version."""
    line = (
        f"{subset.n_samples:,} pairs · {show_percent(subset.retention)} kept · {subset.strategy} · seed {subset.seed}"
    )
    n_pool = int(subset.curve.n_pool.sum())
    note = saturation_note(subset.curve)
    steps = [
        element("li", element("b", step.kind), element("span", step.name), element("small", step.detail or None))
        for step in subset.lineage
    ]
    return element(
        "article",
        element("h3", subset.name, " ", element("small", f"version {subset.version}, {subset.state}")),
        element("p", line, class_="line"),
        element("p", element("strong", "Warning: "), subset.warning, class_="warning") if subset.warning else None,
        element(
            "figure",
            element("p", "pairs", class_="unit", aria_hidden="true"),
            selection_chart(subset.curve, f"Ranks of {subset.n_samples:,} kept pairs among {n_pool:,}"),
            element("figcaption", "rank, 0 % = highest score →"),
            selection_legend(subset.curve),
        ),
        element("p", note, class_="line note") if note else None,
        _change(subset.change, subset.n_samples) if subset.change else None,
        element("h4", "Made from"),
        element("ol", *steps, class_="lineage"),
    )


def saturation_note(curve: SelectionCurve) -> str | None:
    """Say in words where a draw could not follow what was asked for; None where it could.

    >>> bins = np.ones(2, np.int64)
    >>> saturation_note(SelectionCurve(bins, bins, np.array([0.1, 1.9]), np.array([0.5, 0.9])))[:59]
    'At this retention the draw runs out of the ranks that it wa'
    """
    if not curve.is_saturated:
        return None
    i, n_bins = int(np.argmax(curve.target)), len(curve.target)
    return (
        "At this retention the draw runs out of the ranks that it wants most, so what was kept is flatter than what was asked "
        f"for: between ranks {show_percent(i / n_bins)} and {show_percent((i + 1) / n_bins)} it asks for "
        f"{show_percent(float(curve.target[i]))} of the pairs there and keeps {show_percent(float(curve.kept_share[i]))}; "
        "the rest comes from the ranks around."
    )


def _change(change: VersionChange, n_now: int) -> Html:
    n_left, n_joined = change.n_before - change.n_both, n_now - change.n_both
    shared = f"{change.n_both:,} pairs ({show_percent(change.n_both / max(n_now, 1))}) were in version {change.from_version} too"
    words = f"{shared}; {n_left:,} of its {change.n_before:,} left, {n_joined:,} joined."
    return join(
        element("h4", f"Since version {change.from_version}"),
        element("p", words, class_="line"),
        change_table(change) if n_left or n_joined else None,
    )
