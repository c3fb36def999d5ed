"""The output of experiments: tables with the results' figures, self-contained images, a page without external requests."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.results import (
    COLUMNS,
    cells_of_row,
    compare_cells,
    conclude,
    csv_table,
    has_better,
    state_detectable,
    verdict,
)
from alchemist_core.experiments.sheets import make_sheet
from alchemist_core.experiments.stored import write_files
from alchemist_core.experiments.trial import Cell
from alchemist_core.experiments.tuning import TunedWindow
from alchemist_core.selection.rank_window import FittedWindow, fit_window
from alchemist_core.statistics import estimate

LOSSES = {"random": 3.0, "planted": 2.5, "alignment/auto": 2.6, "full": 2.0}


def cells() -> list[Cell]:
    rng = np.random.default_rng(0)
    return [
        Cell(arm, retention, seed, int(1000 * retention), 30, float(loss - retention + rng.normal(0, 0.01)))
        for retention in (0.2, 0.5)
        for seed in (3, 4, 5)
        for arm, loss in LOSSES.items()
        if arm != "full" or retention == 0.2
    ]


def result(n_choose: int = 3) -> dict[str, Any]:
    fit = fit_window(np.array([[0.4, 0.1, -0.2, -0.4, -1.0]] * n_choose) + np.eye(n_choose, 5) / 20, 0.2)
    measured = estimate([0.2 + seed / 100 for seed in range(n_choose)])
    tuned = TunedWindow(fit, measured, FittedWindow.of(fit, measured), 0.05)
    return {
        "before": state_detectable(0.05, 3, source="seeds 0, 1, 2"),
        "cells": [cell.as_json() for cell in cells()],
        "rows": [row.as_json() for row in compare_cells(cells())],
        "rank_windows": [{"rater": "alignment", **tuned.as_json()}],
    }


def test_the_csv_holds_every_row_with_its_intervals() -> None:
    rows = compare_cells(cells())
    found = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert tuple(found[0]) == COLUMNS
    assert len(found) == len(rows) == 8
    for line, row in zip(found, rows, strict=True):
        assert (line["arm"], float(line["loss"]), int(line["n_seeds"])) == (row.arm, row.loss.mean, 3)
        assert line["gain_low"] == ("" if row.gain is None else str(row.gain.low))


def test_the_text_shows_mean_and_half_width() -> None:
    rows = compare_cells(cells())
    auto = next(row for row in rows if row.arm == "alignment/auto")
    line = " ".join(cells_of_row(auto))
    assert f"{auto.loss.mean:.4f} ± {auto.loss.half_width:.4f}" in line
    assert "better than random" in line


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 2.01, 2.02], "better than random"),
        ([4.0, 4.01, 4.02], "worse than random"),
        ([3.0, 3.001, 3.002], "no difference shown, non-inferior (margin 1%)"),
        ([2.0, 3.0, 4.0], "no difference shown"),
        ([2.0], ""),
        ([3.0, 3.002, 3.0], "selected at random: the same samples"),
    ],
)
def test_the_verdict_follows_from_the_interval(losses: list[float], said: str) -> None:
    given = [Cell("a", 0.2, seed, 9, 9, loss) for seed, loss in enumerate(losses)]
    given += [Cell("random", 0.2, seed, 9, 9, 3.0 + 0.002 * (seed % 2)) for seed in range(len(losses))]
    assert verdict(next(row for row in compare_cells(given) if row.arm == "a")) == said


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.0, 2.01, 2.02], "a at 20% is better than random by 0.9907 ± 0.0250 nats per token"),
        ([3.0, 3.001, 3.002], "no arm is shown to be better than random; a at 20% has the largest gain, "),
        ([2.0], "one seed shows nothing; a at 20% has the largest gain over random, 1.0000 nats per token"),
        ([], "no arm was compared with random"),
    ],
)
def test_an_experiment_is_concluded_in_one_sentence(losses: list[float], said: str) -> None:
    given = [Cell("random", 0.2, seed, 9, 9, 3.0 + 0.002 * (seed % 2)) for seed in range(len(losses) or 3)]
    given += [Cell("a", 0.2, seed, 9, 9, loss) for seed, loss in enumerate(losses)]
    # What no policy could select is no result.
    given += [Cell(arm, 0.2, seed, 9, 9, 1.0) for arm in ("planted", "full") for seed in range(len(losses))]
    assert conclude(compare_cells(given)).startswith(said)


def test_the_best_of_several_arms_is_said_to_be_that() -> None:
    given = [
        Cell(arm, 0.2, seed, 9, 9, loss + seed / 100)
        for arm, loss in (("random", 3.0), ("a", 2.0), ("b", 2.9))
        for seed in range(3)
    ]
    assert conclude(compare_cells(given)).endswith("nats per token, the largest of 2 gains")


def test_a_gain_among_many_has_to_be_larger_than_one_alone() -> None:
    def given(n_arms: int) -> list[Cell]:
        # A gain of 0.10 ± 0.07 over three seeds.
        losses = {"random": (3.0, 3.0, 3.0), "a": (2.93, 2.9, 2.87)}
        losses |= {f"b{number}": (2.9, 3.0, 3.1) for number in range(1, n_arms)}
        return [Cell(arm, 0.2, seed, 9, 9, loss) for arm, of in losses.items() for seed, loss in enumerate(of)]

    assert has_better(compare_cells(given(1)))
    assert not has_better(compare_cells(given(20)))


@pytest.mark.parametrize("question", ["rank_window", "retention_sweep"])
def test_figures_are_well_formed_and_name_every_arm(question: str) -> None:
    sheet = make_sheet(QUESTIONS[question], result())
    assert sheet.figures
    for name, (_, svg) in sheet.figures.items():
        texts = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]
        if not name.startswith("ranks"):
            assert {"random", "oracle", "alignment/auto", "full"} <= set(texts)


def test_a_whisker_spans_its_interval() -> None:
    sheet = make_sheet(QUESTIONS["rank_window"], result())
    root = ET.fromstring(sheet.figures["arms-r20"][1])
    lines = [line for line in root.iter() if line.tag.endswith("line") and line.get("stroke")]
    grid = [line for line in root.iter() if line.tag.endswith("line") and line.get("class") == "grid"]
    ticks = [float(t.text or "") for t in root.iter() if t.tag.endswith("text") and t.get("class") == "middle"]
    scale = np.polyfit([float(line.get("x1", 0)) for line in grid], ticks, 1)
    for line, row in zip(lines, [row for row in compare_cells(cells()) if row.retention == 0.2], strict=True):
        ends = np.polyval(scale, [float(line.get("x1", 0)), float(line.get("x2", 0))])
        assert ends == pytest.approx([row.loss.low, row.loss.high], abs=0.01)


@pytest.mark.parametrize("n_choose", [1, 3])
def test_equal_results_give_equal_files_that_need_no_network(n_choose: int) -> None:
    folders = [write_files("e", {"experiment": "rank_window"}, result(n_choose)) for _ in range(2)]
    page = (folders[0] / "index.html").read_text(encoding="utf-8")
    assert folders[0] == folders[1]
    assert not re.search(r'(src="(?!data:image/svg)|href=|https?://(?!www\.w3\.org/2000/svg))', page)
    assert "5 seeds" not in page
    assert "3 seeds would show with 80% power" in page
    assert page.count("data:image/svg+xml;base64,") == 3


def test_a_sweep_of_several_lengths_has_a_figure_of_each() -> None:
    # At 20% random has the loss of the full corpus with the same length.
    given = [
        Cell(arm, retention, 3, int(1000 * retention), 30, level + more, length=length)
        for length, level in ((0.5, 3.0), (1.0, 2.0))
        for arm, retention, more in (("random", 0.2, 0.0), ("full", 0.2, 0.0), ("random", 0.5, 0.3))
    ]
    cells_of = result() | {"cells": [cell.as_json() for cell in given], "rank_windows": []}
    figures = make_sheet(QUESTIONS["retention_sweep"], cells_of).figures
    assert list(figures) == ["retentions-x0.5", "retentions-x1"]
    for (title, svg), length, level in zip(figures.values(), ("0.5", "1"), (3.0, 2.0), strict=True):
        root = ET.fromstring(svg)
        dots = [element.text for element in root.iter() if element.tag.endswith("title")]
        assert title.endswith(f" {length}× the epochs")
        assert {f"random, 20%: {level:.4f}", f"random, 50%: {level + 0.3:.4f}"} <= set(dots)
        assert sum((text or "").startswith("random, ") for text in dots) == 2
        paths = [path for path in root.iter() if path.tag.endswith("path") and path.get("stroke")]
        (full,) = (path.get("d", "") for path in paths if path.get("class") == "dashed")
        (random,) = (path.get("d", "") for path in paths if path.get("class") is None)
        places = [[tuple(map(float, place.split())) for place in re.split("[ML]", d) if place] for d in (full, random)]
        assert {y for _, y in places[0]} == {places[1][0][1]}


def test_several_lengths_are_plotted_over_their_steps_with_the_speedup() -> None:
    of = {"random": 3.0, "alignment/auto": 2.6}
    timed = [
        Cell(arm, 0.2, seed, 100, steps, loss + 0.1 * (400 - steps) / 100, length=steps / 400)
        for arm, loss in of.items()
        for seed in (3, 4)
        for steps in (100, 200, 400)
    ]
    given = result() | {"cells": [cell.as_json() for cell in timed], "rank_windows": []}
    sheet = make_sheet(QUESTIONS["training_time"], given)
    assert "alignment/auto at 20% reaches the final loss of random in 25 ± 0% of its steps." in sheet.notes
    ((name, (_, svg)),) = sheet.figures.items()
    texts = [element.text for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]
    assert name == "times-r20"
    assert {"100", "200", "steps", *of} <= set(texts)
    assert len(sheet.lines) == 6
