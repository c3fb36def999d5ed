"""The tables and the figure of research page 036 are those of the trials that git keeps."""

from alchemist_core.report.arm_names import stored_arm
from tests.benchmarks.methods_page import ARMS, FIGURE_PATH, NAME, WORLDS, best, figure, tables
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import read_trials
from tests.benchmarks.world_tables import n_seeds

PAGE = FIGURE_PATH.with_name("036-methods.md")


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(written) > 30
    assert made == written


def test_the_figure_of_the_page_is_drawn_from_the_kept_trials() -> None:
    assert figure(read_trials(NAME)) == FIGURE_PATH.read_text("utf-8")


def test_the_page_names_every_arm_the_number_of_trials_and_what_is_shown() -> None:
    trials, page = read_trials(NAME), " ".join(PAGE.read_text("utf-8").split())
    assert set(ARMS) == set(map(stored_arm, PLANS[NAME].arms))
    assert f"{len(trials)} of {len(PLANS[NAME].trials())} trials" in page
    assert ", ".join(f"{title} {n_seeds(trials, world)}" for world, title in WORLDS.items()) in page
    shown = {WORLDS[world.split()[0]]: arm for world, arm in best(trials).items() if arm != "not shown"}
    assert shown == {"synthetic": "learnability and critic", "damaged": "CLIP filter, trained on the corpus"}
    assert (
        "learnability and critic (synthetic) and a CLIP filter that was trained on the corpus (damaged) are the best"
        in page
    )
