"""Committed tables: each page equals the one made from its measurements, so a figure typed by hand is found."""

import json
from pathlib import Path

import pytest

from alchemist_core.cli.experiment import ShowConfig, show
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.stored import command_of, compare_with, conclude, markdown_of, title_of
from alchemist_core.store.engine import open_store
from alchemist_core.store.experiments import begin_experiment, finish_experiment, state_beforehand, store_so_far
from tests.benchmarks.tables import FOLDER, keep, page_of
from tests.experiments.test_sheets import cells, result


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_a_committed_page_is_what_its_measurements_give(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == page_of(page.with_suffix(".json"))


@pytest.mark.db
@pytest.mark.usefixtures("database_url")
def test_a_kept_page_shows_every_row_and_what_was_asked(tmp_path: Path) -> None:
    engine, asked = open_store(), {"experiment": "rank_window", "seeds": [3, 4, 5], "dataset": None}
    begin_experiment(engine, "mine", asked)
    with pytest.raises(SystemExit, match="mine is not finished"):
        keep("mine", tmp_path)
    finish_experiment(engine, "mine", {**result(), "sheet": {"notes": []}})
    page = keep("mine", tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text == page_of(tmp_path / "mine.json") == markdown_of("mine", asked, result())
    assert text.startswith(f"# mine: {QUESTIONS['rank_window'].title}\n")
    table, of_seeds = text.split("Held-out loss of each seed")
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len({(cell.arm, cell.retention) for cell in cells()} | {("full", 0.5)})
    assert len({len(row) for row in rows}) == 1
    assert '`{"experiment": "rank_window", "seeds": [3, 4, 5]}`' in text
    losses = {tuple(line.strip("| ").split(" | ")) for line in of_seeds.splitlines() if line.startswith("| ")}
    assert ("arm", "seed 3", "seed 4", "seed 5") in losses
    for arm, retention in {(cell.arm, cell.retention) for cell in cells()}:
        of = {cell.seed: cell.loss for cell in cells() if (cell.arm, cell.retention) == (arm, retention)}
        title = arm if arm == "full" else f"{arm.replace('planted', 'oracle')}, {retention:.0%}"
        assert (title, *(f"{of[seed]:.4f}" for seed in (3, 4, 5))) in losses
    assert "sheet" not in json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))["result"]


def test_a_stored_arm_that_would_be_refused_today_is_still_shown() -> None:
    word = "learnability/top_k;retention=auto"
    asked = {"experiment": "methods", "arms": ["random", word]}
    stored = [{**cell.as_json(), "arm": cell.arm.replace("alignment/auto", word)} for cell in cells()]
    found = {**result(), "cells": stored}
    assert f"| {word} |" in markdown_of("mine", asked, found)
    assert word in conclude(asked, found)
    assert "random" in compare_with(asked, found, word)
    assert f"--arms 'random,{word}'" in command_of("mine", asked)


@pytest.mark.db
@pytest.mark.usefixtures("database_url")
def test_an_experiment_that_is_not_finished_shows_the_losses_that_are_measured() -> None:
    asked = {"experiment": "rank_window", "seeds": [3, 4, 5], "dataset": None}
    begin_experiment(engine := open_store(), "mine", asked)
    with pytest.raises(ConfigError, match=r"no losses of its reported seeds yet.*alchemist experiment run"):
        show(ShowConfig(name="mine"))
    whole = result()
    state_beforehand(engine, "mine", whole["before"])
    for n_cells in (1, len(cells()) - 1):
        store_so_far(engine, "mine", {**whole, "cells": whole["cells"][:n_cells], "n_cells": len(cells())})
    for against in (None, "random"):
        shown = show(ShowConfig(name="mine", against=against))
        assert f"Not finished: {len(cells()) - 1} of {len(cells())} losses are measured." in shown.summary()
        assert "learnability" in shown.summary() or "loss/" in shown.summary() or "alignment" in shown.summary()
        assert shown.folder is None
    finish_experiment(engine, "mine", whole)
    # A process that was slow to notice changes nothing any more.
    store_so_far(engine, "mine", {"cells": []})
    assert "Not finished" not in show(ShowConfig(name="mine")).summary()


def test_two_arms_of_a_kept_table_are_compared_as_the_pages_say() -> None:
    kept = json.loads((FOLDER / "value-scenes-r20-s3-4-5-6-7.json").read_text(encoding="utf-8"))
    lines = {
        line.split()[0]: line
        for line in compare_with(kept["config"], kept["result"], "loss/gsample").splitlines()
        if line
    }
    # Research page 022: Shift-Gsample at the tuned window and at the paper's own.
    assert "0.1191 ± 0.0647" in lines["loss/auto"]
    assert "−0.1182 ± 0.0314" in lines["loss/paper"]
    table3 = json.loads((FOLDER / "table3-pictures.json").read_text(encoding="utf-8"))
    assert compare_with(table3["config"], table3["result"], "full").count("Gain over full") == 2
    followed = json.loads((FOLDER / "dynamics-alignment.json").read_text(encoding="utf-8"))
    with pytest.raises(ConfigError, match="--against needs an experiment that compares arms"):
        compare_with(followed["config"], followed["result"], "full")


def test_every_question_has_a_title() -> None:
    assert {title_of({"experiment": name}) for name in ("dynamics", *QUESTIONS)} > {q.title for q in QUESTIONS.values()}
