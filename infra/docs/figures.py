"""Draw the figures of the documentation into docs/figures: `python -m infra.docs.figures`, a part of `make pictures`.

Curves and members are computed by the code of the product. What was measured in a training is read from docs/figures/separation.json, which
`python -m tests.benchmarks.separation` writes. A test compares the files with what this module draws.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alchemist_core.selection.keys import Noise
from alchemist_core.selection.sampler import Keys, sample_members
from alchemist_core.selection.strategies import HeadGsample, ShiftGsample, TopK
from infra.docs.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PANEL, PINK, RULE, SKY, YELLOW, Drawing, Place

FOLDER = Path(__file__).parents[2] / "docs" / "figures"
MEASURED = FOLDER / "separation.json"
KINDS = {
    "informative": ("informative", GREEN),
    "wrong_caption": ("wrong caption", PINK),
    "chaotic": ("chaotic", YELLOW),
    "plain": ("plain", BLUE),
}
"""Kinds of samples of the synthetic corpus, as they are named and coloured; the undamaged kind comes first."""

Nodes = Mapping[str, Place]
Edges = Sequence[tuple[str, str, str]]
STATES: dict[str, tuple[str, Nodes, Edges]] = {
    "night": (
        "States of a night",
        {"scored": (90, 90), "selectable": (420, 45), "held": (420, 135), "rejected": (760, 45), "released": (760, 135)},
        [
            ("scored", "selectable", "checks passed, no drift"),
            ("scored", "held", "its scores drifted"),
            ("held", "released", "a person: night release"),
            ("held", "rejected", "a person: night reject"),
            ("rejected", "released", "night release"),
        ],
    ),
    "shard": (
        "States of a shard",
        {
            "registered": (90, 165), "verified": (330, 165), "growing": (210, 75), "rejected": (210, 255), "missing": (580, 75),
            "changed": (580, 165), "retired": (580, 255), "superseded": (800, 165),
        },
        [
            ("registered", "verified", "read whole"),
            ("registered", "growing", "upload"),
            ("growing", "verified", "complete"),
            ("registered", "rejected", "not a tar"),
            ("verified", "missing", "file is gone"),
            ("verified", "changed", "its bytes changed"),
            ("verified", "retired", "shard retire"),
            ("changed", "superseded", "shard reread"),
        ],
    ),
    "rater": (
        "States of a rater",
        {"candidate": (110, 70), "production": (430, 70), "retired": (750, 70)},
        [("candidate", "production", "rater promote"), ("production", "retired", "another one is promoted")],
    ),
    "subset": (
        "States of a subset version",
        {"selected": (90, 60), "published": (360, 60), "superseded": (700, 60), "withdrawn": (360, 170)},
        [
            ("selected", "published", "subset publish"),
            ("published", "superseded", "a newer version"),
            ("published", "withdrawn", "subset withdraw"),
            ("superseded", "withdrawn", ""),
            ("selected", "withdrawn", ""),
        ],
    ),
}  # fmt: skip
"""The states that the database allows, where they are drawn, and what leads from one to another."""
BACK: dict[str, Sequence[tuple[str, str, str]]] = {
    "shard": [("missing", "verified", "its bytes are back")],
    "rater": [("retired", "production", "rater promote NAME")],
    "subset": [("superseded", "published", "subset rollback")],
}
"""Ways back, which are drawn as bent arrows."""


def main() -> int:
    """Write every figure."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


def render() -> dict[str, str]:
    """Return the text of every figure, by the name of its file."""
    makers: dict[str, Callable[[], Drawing]] = {
        "architecture": architecture, "nested-subsets": nested_subsets, "rank-window": rank_window, "separation": separation,
        **{f"states-{name}": lambda name=name: states(name) for name in STATES},
    }  # fmt: skip
    return {f"{name}.svg": make().svg() for name, make in makers.items()}


def architecture() -> Drawing:
    """Draw the processes and the data of an installation."""
    drawing = Drawing(1060, 560, "Architecture of Alchemist: sources, stages, Postgres, and what reads it")
    drawing.box(
        (210, 20),
        (830, 46),
        ("Airflow", "when, and in which order: a task is one command line of alchemist"),
        colour=ORANGE,
    )
    drawing.arrow([(625, 66), (625, 96)], colour=ORANGE, is_dashed=True)
    drawing.rect((210, 98), (830, 206), fill=PANEL)
    drawing.text((226, 120), "alchemist", weight=600, anchor="start")
    drawing.text(
        (308, 120), "one process for each stage, on a CPU, a GPU or in a pod", size=12, colour=MUTED, anchor="start"
    )
    stages = ("ingest", "score", "select", "materialize", "train-downstream", "evaluate", "report")
    widths, gap = (84, 84, 84, 102, 148, 90, 80), 22
    x, centres = 226.0, {}
    for name, width in zip(stages, widths, strict=True):
        drawing.box((x, 140), (width, 50), (name,))
        centres[name] = x + width / 2
        if name != "report":
            drawing.arrow([(x + width, 165), (x + width + gap, 165)])
        x += width + gap
    drawing.box((300, 232), (124, 50), ("train-rater", "bilevel training"))
    drawing.arrow([(centres["score"], 232), (centres["score"], 190)])
    drawing.text((centres["score"] + 8, 216), "rater", size=11, colour=MUTED, anchor="start")
    drawing.box((540, 232), (150, 50), ("SubsetDataset", "torch reads in place"), colour=GREEN)
    drawing.arrow([(centres["select"], 190), (centres["select"], 257), (540, 257)])
    drawing.box((20, 140), (150, 50), ("Crawl", "tars, folder or s3://"), colour=GREEN)
    drawing.box((20, 232), (150, 50), ("Validation dataset", "what is good"), colour=GREEN)
    drawing.arrow([(170, 165), (226, 165)])
    drawing.arrow([(170, 257), (300, 257)])
    drawing.box((20, 330), (150, 76), ("Home", "raters, models,", "manifests, reports"), colour=MUTED)
    drawing.arrow([(170, 352), (232, 352), (232, 304)], is_double=True)
    drawing.box(
        (260, 340), (780, 66),
        (
            "Postgres",
            "samples and their locations · scores and ranks · nights · subset versions",
            "runs, leases, ledgers · every action and who took it",
        ),
    )  # fmt: skip
    drawing.arrow([(625, 304), (625, 340)], is_double=True)
    _draw_readers(drawing)
    drawing.text(
        (20, 544),
        "Boxes: blue is Alchemist, green is data and what reads it, orange are other programs.",
        size=11.5,
        colour=MUTED,
        anchor="start",
    )
    return drawing


def _draw_readers(drawing: Drawing) -> None:
    readers = (
        ("SQL", "psql, Metabase, dbt"), ("Python", "Store, notebooks"), ("Explorer", "pictures in a browser"), ("Exporter", "metrics"),
    )  # fmt: skip
    for number, lines in enumerate(readers):
        left = 20 + 205.0 * number
        drawing.box((left, 466), (180, 50), lines, colour=GREEN)
        drawing.line([(left + 90, 466), (left + 90, 436)])
    drawing.line([(110, 436), (725, 436)])
    drawing.arrow([(625, 436), (625, 406)])
    drawing.text((640, 426), "read", size=11, colour=MUTED, anchor="start")
    drawing.box((860, 466), (180, 50), ("Prometheus, Grafana", "alerts with a runbook"), colour=ORANGE)
    drawing.arrow([(860, 491), (815, 491)])


def states(name: str) -> Drawing:
    """Draw the states of one kind of thing, and what leads from one to another."""
    title, nodes, edges = STATES[name]
    height = int(max(y for _, y in nodes.values()) + (90 if name == "night" else 35))
    drawing = Drawing(880, height, title)
    for start, end, label in edges:
        drawing.arrow([_border(nodes[start], nodes[end]), _border(nodes[end], nodes[start])], label=label)
    for start, end, label in BACK.get(name, ()):
        (x0, y0), (x1, y1) = nodes[start], nodes[end]
        top = min(y0, y1) - 45
        drawing.arrow([(x0, y0 - 17), (x0, top), (x1 + 20, top), (x1 + 20, y1 - 17)], label=label, is_dashed=True)
    for state, (x, y) in nodes.items():
        drawing.box((x - 55, y - 17), (110, 34), (state,))
    if name == "night":
        drawing.arrow(
            [(90, 107), (90, 195), (760, 195), (760, 152)],
            label="a check failed: stopped until a person releases it",
            label_at=(420, 195),
        )
    return drawing


def _border(of: Place, towards: Place, half: Place = (55, 17)) -> Place:
    """Return where the line between the centres of two boxes leaves the first one."""
    x, y = towards[0] - of[0], towards[1] - of[1]
    share = min(half[0] / abs(x) if x else np.inf, half[1] / abs(y) if y else np.inf)
    return of[0] + x * share, of[1] + y * share


def nested_subsets() -> Drawing:
    """Draw 150 samples by rank and by their place in the order of the keys: a retention takes a part from the top."""
    n, retentions = 150, ((0.2, BLUE), (0.5, SKY), (0.7, GREEN))
    hashes = np.random.default_rng(5).integers(-(2**63), 2**63, n, dtype=np.int64)
    ranks = (np.arange(n) + 0.5) / n
    strategy, noise = HeadGsample(0.35), Noise(seed=0)
    places = np.argsort(np.argsort(-Keys(ranks, hashes, strategy, noise).all()))
    drawing = Drawing(860, 470, "Nested subsets: 20% is part of 50%, and 50% of 70%")
    left, top, width, height = 70.0, 60.0, 560.0, 340.0
    drawing.text((20, 34), "One order of the samples, three retentions", size=16, weight=600, anchor="start")
    for retention, colour in reversed(retentions):
        drawing.rect((left, top), (width, height * retention), fill=colour, stroke="none", radius=0, opacity=0.13)
    for number in range(n):
        inside = [
            colour for retention, colour in retentions
            if number in sample_members(ranks, hashes, k=round(retention * n), strategy=strategy, noise=noise)
        ]  # fmt: skip
        at = (left + width * ranks[number], top + height * (places[number] + 0.5) / n)
        drawing.dot(at, 3.4, colour=inside[0] if inside else MUTED, is_filled=bool(inside))
    for (retention, colour), words in zip(
        retentions, ("20%: 30 samples", "50%: these and 45 more", "70%: these and 30 more"), strict=True
    ):
        y = top + height * retention
        drawing.line([(left, y), (left + width + 12, y)], colour=colour, width=2)
        drawing.text((left + width + 18, y + 4), words, colour=INK, anchor="start", size=12.5)
    drawing.line([(left, top), (left, top + height), (left + width, top + height)], colour=RULE)
    for share in (0, 0.25, 0.5, 0.75, 1):
        drawing.text((left + width * share, top + height + 18), f"{share:g}", size=11, colour=MUTED)
    drawing.text((left + width / 2, top + height + 38), "rank (0: the best score)", size=12, colour=MUTED)
    drawing.text((left - 10, top + 8), "first", size=11, colour=MUTED, anchor="end")
    drawing.text((left - 10, top + height), "last", size=11, colour=MUTED, anchor="end")
    drawing.text((left - 10, top + height / 2), "order of", size=11, colour=MUTED, anchor="end")
    drawing.text((left - 10, top + height / 2 + 14), "the keys", size=11, colour=MUTED, anchor="end")
    return drawing


def rank_window() -> Drawing:
    """Draw which kinds of samples lie at which ranks, and which ranks three strategies take."""
    measured = _measured()
    drawing = Drawing(860, 520, "The rank window: kinds of samples by rank, and the ranks that three strategies take")
    drawing.text((20, 34), "What lies at which rank, and what a strategy takes", size=16, weight=600, anchor="start")
    left, top, width, height = 70.0, 66.0, 760.0, 190.0
    bins = measured["rank_bins"]
    n_bins = len(next(iter(bins.values())))
    for place in range(n_bins):
        total, y = sum(counts[place] for counts in bins.values()), top + height
        for kind, (_, colour) in KINDS.items():
            part = height * bins[kind][place] / total
            y -= part
            drawing.rect(
                (left + width * place / n_bins + 1, y),
                (width / n_bins - 2, part),
                fill=colour,
                stroke="none",
                radius=0,
                opacity=0.85,
            )
    drawing.legend((left, top - 10), [(name, colour) for name, colour in KINDS.values()])
    drawing.text((left - 10, top + 8), "100%", size=11, colour=MUTED, anchor="end")
    drawing.text((left - 10, top + height), "0%", size=11, colour=MUTED, anchor="end")
    at_ranks = np.linspace(0, 1, 201)
    curves = (
        ("top_k, 20%: the best scores alone", np.where(at_ranks <= 0.2, 1.0, 0.0), BLUE),
        (
            "head_gsample: most from the best ranks (default of rule alignment)",
            _density(HeadGsample(), at_ranks),
            GREEN,
        ),
        (
            "shift_gsample: never the first quarter, most around 0.625 (the paper's, for rule loss)",
            _density(ShiftGsample(), at_ranks),
            ORANGE,
        ),
    )
    base, tall = top + height + 150, 110.0
    for number, (name, curve, colour) in enumerate(curves):
        points = [(left + width * float(x), base - tall * float(y)) for x, y in zip(at_ranks, curve, strict=True)]
        drawing.area([(left, base), *points, (left + width, base)], colour=colour, opacity=0.14)
        drawing.line(points, colour=colour, width=2)
        drawing.rect((left, base + 44 + 20 * number), (12, 12), fill=colour, stroke="none", radius=2)
        drawing.text((left + 18, base + 54 + 20 * number), name, size=12, colour=MUTED, anchor="start")
    drawing.line([(left, base), (left + width, base)], colour=RULE)
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        drawing.text((left + width * share, base + 16), f"{share:g}", size=11, colour=MUTED)
    drawing.text((left + width / 2, base + 32), "rank (0: the best score)", size=12, colour=MUTED)
    drawing.text((left - 10, base - tall + 4), "density", size=11, colour=MUTED, anchor="end")
    assert TopK.name == curves[0][0][:5]
    return drawing


def _density(strategy: HeadGsample | ShiftGsample, at_ranks: np.ndarray) -> np.ndarray:
    with np.errstate(under="ignore"):
        return np.exp(strategy.log_density(at_ranks.copy()))


def separation() -> Drawing:
    """Draw the scores of each kind of sample at some steps of a rater's training, one row for each step."""
    measured = _measured()
    marks, edges = measured["marks"], measured["edges"]
    row, left, width = 84.0, 150.0, 560.0
    drawing = Drawing(
        860,
        int(84 + row * len(marks) + 26),
        "How the scores of good and of damaged samples separate while a rater is trained",
    )
    drawing.text((20, 34), "Scores separate while a rater is trained", size=16, weight=600, anchor="start")
    drawing.legend((left, 62), [(name, colour) for name, colour in KINDS.values()])
    drawing.text((780, 62), "AUC, worst kind", size=11.5, colour=MUTED)
    for number, mark in enumerate(marks):
        base = 84 + row * (number + 1) - 14
        drawing.line([(left, base), (left + width, base)], colour=RULE)
        drawing.text((left - 16, base - 22), f"step {mark['step']:,}", weight=600, anchor="end")
        drawing.text((left - 16, base - 5), mark["note"], size=11, colour=MUTED, anchor="end")
        for kind, (_, colour) in KINDS.items():
            share = np.asarray(mark["shares"][kind], float)
            top = max(max(mark["shares"][one]) for one in KINDS)
            places = [
                (left + width * (i + 0.5) / len(share), base - (row - 24) * float(value) / top)
                for i, value in enumerate(share)
            ]
            drawing.area([(places[0][0], base), *places, (places[-1][0], base)], colour=colour, opacity=0.28)
            drawing.line(places, colour=colour, width=1.8)
        worst = min(mark["auc"].values())
        drawing.text((780, base - 14), f"{worst:.2f}", size=15, weight=600)
    base = 84 + row * len(marks)
    drawing.text((left, base + 6), f"{edges[0]:.1f}".replace("-", "−"), size=11, colour=MUTED)
    drawing.text((left + width, base + 6), f"{edges[-1]:.1f}".replace("-", "−"), size=11, colour=MUTED)
    drawing.text(
        (left + width / 2, base + 6), "score, in standard deviations from the mean of the step", size=12, colour=MUTED
    )
    return drawing


def _measured() -> dict[str, Any]:
    measured: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return measured


if __name__ == "__main__":
    sys.exit(main())
