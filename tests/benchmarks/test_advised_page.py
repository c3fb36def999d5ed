"""The tables of research pages 043 to 045 are those of the trials that git keeps."""

import pytest

from alchemist_core.experiments.arms import stored_arm
from tests.benchmarks.advised_page import MADE, PAGES, read_sizes, topics_tables
from tests.benchmarks.study import PLANS, SIZES
from tests.benchmarks.study_page import read_trials, table_lines


@pytest.mark.parametrize("name", PAGES)
def test_the_lines_of_the_page_are_made_from_the_kept_trials(name: str) -> None:
    made = [line for line in MADE[name]() if line]
    assert len(made) > 8
    assert table_lines(PAGES[name]) == made


@pytest.mark.parametrize("plan", ["default", "topics", *(f"sizes-{n}" for n in SIZES)])
def test_the_kept_trials_are_of_the_seeds_of_the_plan_and_have_every_arm_that_was_not_left_out(plan: str) -> None:
    for trial in read_trials(plan):
        assert trial["seed"] in PLANS[plan].seeds
        arms = {cell["arm"] for cell in trial["cells"]} | {one["arm"] for one in trial["left_out"]}
        assert arms == {stored_arm(arm) for arm in PLANS[plan].arms}


def test_a_gain_of_fewer_seeds_than_the_corpus_has_says_so() -> None:
    trials = [
        {"world": "half_seen", "seed": seed, "aucs": {}, "cells": [
            {"arm": arm, "retention": 0.5, "seed": seed, "n_samples": 6, "n_steps": 9, "loss": loss, "losses": [loss]}
            for arm, loss in [("random", 1.0 + seed), ("learnability/auto", 0.5), *((arm, 0.6) for arm in PLANS["topics"].arms[4:])]
            if arm != "learnability/auto" or seed < 2
        ]}
        for seed in range(3)
    ]  # fmt: skip
    (line,) = [line for line in topics_tables(trials) if line.startswith("| rule `learnability` |")]
    assert line.endswith(", 2 of 3 seeds |")


def test_the_pages_name_how_many_trials_there_are() -> None:
    pages = {name: " ".join(page.read_text("utf-8").split()) for name, page in PAGES.items()}
    for name in ("default", "topics"):
        found = read_trials(name)
        assert f"**{len(found)} of {len(PLANS[name].trials())} trials**" in pages[name]
    n_trials = sum(map(len, read_sizes().values()))
    assert f"**{n_trials} of {len(SIZES) * len(PLANS['sizes-100'].trials())} trials**" in pages["sizes"]
