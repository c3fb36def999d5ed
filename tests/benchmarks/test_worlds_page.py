"""The tables of research page 037 are those of the trials that git keeps."""

from tests.benchmarks.methods_page import FIGURE_PATH
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import read_trials
from tests.benchmarks.world_tables import n_seeds
from tests.benchmarks.worlds_page import NAME, WORLDS, best, tables

PAGE = FIGURE_PATH.with_name("037-worlds.md")


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(written) > 20
    assert made == written


def test_the_page_names_the_number_of_trials_and_what_is_shown() -> None:
    trials, page = read_trials(NAME), " ".join(PAGE.read_text("utf-8").split())
    assert f"{len(trials)} of {len(PLANS[NAME].trials())} trials" in page
    assert ", ".join(f"{title} {n_seeds(trials, world)}" for world, title in WORLDS.items()) in page
    assert set(best(trials).values()) == {"not shown"}
    assert "**Shown for all seven arms together**: nothing" in page
