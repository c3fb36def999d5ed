"""One experiment on the page: what was asked, what could be seen, its figures and its table.

A figure is an image of its own: its style then stays inside, and follows light and dark by itself.
"""

import base64

from alchemist_core.report.content import ExperimentContent
from alchemist_core.report.markup import Html, element
from alchemist_core.report.tables import table


def experiment_article(experiment: ExperimentContent) -> Html:
    """Lay out one experiment."""
    title, *notes = experiment.notes
    rows = [(cells, "") for cells in experiment.rows]
    return element(
        "article",
        element("h3", title, " ", element("small", experiment.name)),
        *(element("p", note, class_="line") for note in notes),
        element("div", *(_figure(title, svg) for title, svg in experiment.figures), class_="figures-row"),
        table(experiment.head, rows, class_=_class_of(experiment.head)),
    )


def _class_of(head: tuple[str, ...]) -> str:
    """Say which columns are words: the first, an arm behind its corpus, and the verdict, which has no head."""
    judged = " judged" if not head[-1] else ""
    return f"experiment{judged}{' of-corpora' if head[1] == 'arm' else ''}"


def _figure(title: str, svg: str) -> Html:
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return element(
        "figure", element("figcaption", title), element("img", src=source, alt=title, loading="lazy"), class_="drawn"
    )
