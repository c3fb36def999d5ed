"""The notebooks of the documentation run against a real store, and their pages show what they showed."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.docs import notebooks
from tests.trained_store import (
    TrainedStore,
    copy_trained,
    corpus,
    scored_once,
    scored_store,
    trained_once,
    trained_store,
)

__all__ = ["copy_trained", "corpus", "scored_once", "scored_store", "trained_once", "trained_store"]

NOTEBOOKS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare-subsets", "look-at-scores"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_was_executed(path: Path) -> None:
    cells = [cell for cell in notebooks.read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run: make pictures"
    assert notebooks.page(path).startswith("# ")


def test_a_wide_table_scrolls_within_its_page() -> None:
    shown = [notebooks.page(path) for path in NOTEBOOKS]
    assert all(page.count("<table") == page.count('style="overflow-x: auto"') for page in shown)
    assert any("<table" in page for page in shown)


def test_the_executor_keeps_what_cells_print_and_show() -> None:
    html = "class Shown:\n    def _repr_html_(self):\n        return '<b>1</b>'\nShown()"
    cells = [
        {"cell_type": "code", "source": [source], "outputs": []}
        for source in ("x = 1\nprint(x)", "x + 1", "x = 5", html)
    ]
    found = [cell["outputs"] for cell in notebooks.execute({"cells": cells}, {"x + 1": "x + 2"})["cells"]]
    assert found[0] == [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    assert found[1][0]["data"] == {"text/plain": ["3"]}
    assert found[2] == []
    assert found[3][0]["data"]["text/html"] == ["<b>1</b>"]


# The rater of this test has hardly learned: its scores are 0.00 in every band, and pandas divides by their range to draw bars.
@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
@pytest.mark.slow
@pytest.mark.db
def test_the_notebooks_run(scored_store: TrainedStore, tmp_path: Path) -> None:
    commands = (
        "select --dataset scenes --retention 0.2",
        "subset publish scenes-auto-r20",
        "train-downstream scenes-auto-r20 --preset tiny --arms subset,random --seeds 0,1,2 --max-train-steps 6 --batch-size 16",
        "evaluate scenes-auto-r20",
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", "alchemist_core", *command.split()], check=True)
    shown = {path.stem: notebooks.execute(notebooks.read(path)) for path in NOTEBOOKS}
    outputs = [
        output["data"]
        for cell in shown["look-at-scores"]["cells"]
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert sum("image/png" in data for data in outputs) == 3
    last = shown["compare-subsets"]["cells"][-1]["outputs"][0]["data"]["text/plain"][0]
    assert last in ("'better than random'", "'worse than random'", "'not shown'")
