"""The page itself: its sections in the order of the questions that a reader has. Torch-free, without database or network."""

from collections.abc import Sequence
from importlib.resources import files

from alchemist_core.report.charts import histogram_chart
from alchemist_core.report.comparison import Comparison, compare_arms
from alchemist_core.report.content import MetricRun, ReportContent
from alchemist_core.report.experiments import experiment_article
from alchemist_core.report.markup import Html, element, join
from alchemist_core.report.metrics import metrics_table
from alchemist_core.report.sheets import contact_sheet
from alchemist_core.report.subsets import subset_article
from alchemist_core.report.tables import (
    comparison_table,
    cost_table,
    drift_table,
    nights_table,
    quarantine_table,
    show_estimate,
    show_percent,
    withdrawn_table,
)

# Nothing may be loaded from anywhere and nothing may run: the file is the report, for ever.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_report(content: ReportContent) -> str:
    """Return the report as one HTML file; the same content gives the same bytes."""
    comparisons = compare_arms(content.arms)
    main = element(
        "main",
        *(_worth(comparisons, content.metrics), _experiments(content), _scores(content)),
        *(_subsets(content), _sheets(content), _accounts(content)),
    )
    return render_page(content.title, _header(content, comparisons), main)


def render_page(title: str, *children: Html) -> str:
    """Return a whole HTML file in the report's style that loads nothing and runs nothing."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(files(__package__).joinpath("page.css").read_text(encoding="utf-8"))),
    )
    return "<!doctype html>\n" + element("html", head, element("body", *children), lang="en") + "\n"


def _header(content: ReportContent, comparisons: Sequence[Comparison]) -> Html:
    facts = [element("div", element("dt", fact.label), element("dd", fact.value)) for fact in content.facts]
    return element(
        "header",
        element("h1", content.title),
        element("p", "Made ", element("time", f"{content.made_at:%Y-%m-%d %H:%M} UTC"), class_="when"),
        element("div", *_key_figures(content, comparisons), class_="key-figures"),
        element("dl", *facts, class_="facts") if facts else None,
    )


def _key_figures(content: ReportContent, comparisons: Sequence[Comparison]) -> list[Html]:
    figures = []
    for comparison in comparisons:
        subset = next((arm for arm in comparison.arms if arm.arm == "subset"), None)
        if subset and subset.gap_closed:
            text = f"of the gap from random to known-good pairs closed at {show_percent(comparison.retention)}"
            figures.append(_key_figure(show_estimate(subset.gap_closed, 0, 100, " %"), text))
        elif subset and subset.gain:
            text = f"lower held-out loss than random at {show_percent(comparison.retention)}"
            figures.append(_key_figure(show_estimate(subset.gain, 3), text))
    if content.scores:
        figures.append(_key_figure(f"{sum(content.scores.counts):,}", "pairs scored"))
    if content.nights:
        n_quarantined = sum(row.n_locations for row in content.quarantine)
        figures.append(_key_figure(f"{n_quarantined:,}", "locations set aside, each with a reason"))
    return figures


def _key_figure(figure: object, text: str) -> Html:
    return element("p", element("strong", figure), element("span", text))


def _worth(comparisons: Sequence[Comparison], metrics: Sequence[MetricRun]) -> Html:
    parts = [
        join(
            element("h3", f"{show_percent(comparison.retention)} kept ", element("small", comparison.subset)),
            comparison_table(comparison),
            _one_seed(comparison),
            *_metrics([run for run in metrics if run.subset == comparison.subset]),
        )
        for comparison in comparisons
    ]
    return _section(
        "worth",
        "Was it worth it?",
        "Loss of small models on held-out pairs; lower is better. ± is the half-width of a 95 % Student-t interval over "
        "seeds. Gain: how much lower than random's, paired by seed. Gap closed: 0 % is as good as random, 100 % as good "
        "as pairs known to be good.",
        parts,
        "No model has been evaluated yet: alchemist train-downstream, then alchemist evaluate (in Airflow: evaluate_subset).",
    )


def _one_seed(comparison: Comparison) -> Html | None:
    if any(len(arm.loss_of_seed) > 1 for arm in comparison.arms):
        return None
    text = "One seed has no interval: alchemist train-downstream --seeds 0,1,2, then alchemist evaluate."
    return element("p", text, class_="line note")


def _metrics(runs: Sequence[MetricRun]) -> list[Html]:
    if not runs:
        return []
    title = element("h4", "What these models draw ", element("small", "↑ higher is better, ↓ lower is better"))
    return [title, metrics_table(runs)]


def _experiments(content: ReportContent) -> Html | None:
    if not content.experiments:
        return None
    return _section(
        "experiments",
        "What did the experiments show?",
        "Ways to choose, compared over seeds; the seeds that chose a policy report nothing. Lower loss is better.",
        [experiment_article(found) for found in content.experiments],
        "",
    )


def _scores(content: ReportContent) -> Html:
    named = (("scores", "score (logit) →", content.scores), ("ranks", "rank, 0 = highest score →", content.ranks))
    charts = [
        element(
            "figure",
            element("p", "pairs", class_="unit", aria_hidden="true"),
            histogram_chart(values, what),
            element("figcaption", caption),
        )
        for what, caption, values in named
        if values is not None
    ]
    return _section(
        "scores",
        "How are the scores spread?",
        "The rater's instance logit of every eligible pair, and its rank on the rater's frozen scale. High scores have rank 0. "
        "Ranks lie flat while the pool is the one that the scale was fitted to; pairs of one score share one rank and stand up.",
        charts,
        "Shown from the first selection on, which freezes the scale of ranks: alchemist score, then alchemist select.",
    )


def _subsets(content: ReportContent) -> Html:
    return _section(
        "subsets",
        "What was kept?",
        "Pairs by rank, from the highest score (0 %) to the lowest (100 %), and the part that each subset took.",
        [*(subset_article(subset) for subset in content.subsets), *_withdrawn(content)],
        "No subset has been selected yet: alchemist select (in Airflow: build_subset).",
    )


def _withdrawn(content: ReportContent) -> list[Html]:
    if not content.withdrawn:
        return []
    return [
        element("h3", "Withdrawn versions ", element("small", "not to be used")),
        withdrawn_table(content.withdrawn),
    ]


def _sheets(content: ReportContent) -> Html:
    return _section(
        "sheets",
        "What do the ranks look like?",
        "Real pairs, spread evenly over each band of ranks; a band's first image has the highest score.",
        [contact_sheet(sheet) for sheet in content.sheets],
        "No image has a rank yet.",
    )


def _accounts(content: ReportContent) -> Html:
    nights = (
        nights_table(content.nights)
        if content.nights
        else element("p", "No night has been ingested yet.", class_="empty")
    )
    quarantine = (
        quarantine_table(content.quarantine)
        if content.quarantine
        else element("p", "Nothing is in quarantine.", class_="empty")
    )
    return _section(
        "accounts",
        "Is every location accounted for?",
        "What came in each night = what was scored + what was set aside.",
        [nights, element("h3", "Quarantine, by reason"), quarantine, *_drift(content), *_costs(content)],
        "",
    )


def _drift(content: ReportContent) -> list[Html]:
    if not content.drift:
        return []
    title = element("h3", "Drift ", element("small", "each night's scores beside the accepted nights before"))
    return [title, drift_table(content.drift)]


def _costs(content: ReportContent) -> list[Html]:
    if not content.costs:
        return []
    return [element("h3", "Cost ", element("small", "time of the device that worked")), cost_table(content.costs)]


def _section(name: str, title: str, intro: str, parts: Sequence[Html], empty: str) -> Html:
    body = parts or [element("p", empty, class_="empty")]
    return element(
        "section",
        element("h2", title, id=name),
        element("p", intro, class_="intro") if parts else None,
        *body,
        aria_labelledby=name,
    )
