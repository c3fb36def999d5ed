"""The tables of research page 039 are those of the trials that git keeps."""

from tests.benchmarks.choice_page import NAME, WORLDS, better_by, tables
from tests.benchmarks.methods_page import FIGURE_PATH
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import nats, read_trials
from tests.benchmarks.world_tables import n_seeds

PAGE = FIGURE_PATH.with_name("039-default-rule.md")


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(written) > 15
    assert made == written


def test_the_page_names_the_number_of_trials_and_every_difference_that_is_shown() -> None:
    trials, page = read_trials(NAME), " ".join(PAGE.read_text("utf-8").split())
    assert f"**{len(trials)} of {len(PLANS[NAME].trials())} trials**" in page
    assert ", ".join(f"{title} {n_seeds(trials, world)}" for world, title in WORLDS.items()) in page
    found = {
        (pair, retention, world): better_by(trials, pair, retention, world)
        for pair in ("alone", "in the fusion")
        for retention in PLANS[NAME].retentions
        for world in ("", *WORLDS)
        if world == "" or n_seeds(trials, world) > 1
    }
    shown = {key: one for key, one in found.items() if one.is_positive or (one.high is not None and one.high < 0)}
    assert shown.keys() == {("alone", 0.2, "damaged"), ("in the fusion", 0.2, "damaged")}
    for one in shown.values():
        assert nats(one) in page.partition("## What it says")[2]
    assert len(found) - len(shown) == 14
