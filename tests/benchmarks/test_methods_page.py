"""The tables and the figure of research page 036 are those of the trials that git keeps."""

import re

from alchemist_core.experiments.arms import DEFAULT_RATER
from alchemist_core.report.arm_names import stored_arm
from tests.benchmarks.methods_page import ARMS, FIGURE_PATH, NAME, WORLDS, best, figure, tables
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import read_trials, table_lines
from tests.benchmarks.world_tables import n_seeds, rows_of

PAGE = FIGURE_PATH.with_name("036-methods.md")


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = table_lines(PAGE)
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


def test_the_page_names_every_arm_that_is_worse_than_random() -> None:
    rows, page = rows_of(read_trials(NAME), WORLDS), " ".join(PAGE.read_text("utf-8").split())
    names = {
        "pmi/auto": "PMI", "seal/auto": "SEAL", "two_steps/auto": "DataRater", "dsir/top_k": "DSIR", "clarity/top_k": "clarity",
        "crossed_critic/top_k": "critic trained on the corpus", "clip_corpus/top_k": "CLIP filter trained on the corpus",
        "clip_validation/top_k": "CLIP filter trained on validation data",
    }  # fmt: skip
    (text,) = re.findall(r"\*\*Worse than random\.\*\* (.*?) So that CLIP filter", page)
    written = {
        world.lower(): set(found.split(", ")) for world, found in (part.split(": ") for part in text[:-1].split(". "))
    }
    gains = {world: {arm: row.gain for arm, row in of.items() if row.gain is not None} for world, of in rows.items()}
    worse = {
        WORLDS[world]: {names[arm] for arm, gain in of.items() if gain.high is not None and gain.high < 0}
        for world, of in gains.items()
    }
    assert written == worse


def test_the_steps_of_the_set_up_are_those_of_the_trials() -> None:
    trials = read_trials(NAME)
    steps = [{cell["n_steps"] for cell in trial["cells"]} for trial in trials]
    assert {len(of) for of in steps} == {1}
    every = sorted(set().union(*steps))
    assert f"{every[0]} to {every[-1]} steps, as many for every arm of a corpus" in PAGE.read_text("utf-8")


def test_a_rule_is_called_the_default_only_where_it_was_measured() -> None:
    """Its figures would be read as those of a command without options."""
    research = PAGE.parent
    for path in (PAGE, research / "037-worlds.md", research / "results.md"):
        text = path.read_text("utf-8")
        assert "`alignment`, the default rule" in text, path
        assert len(re.findall(r"default (rule|arm)|, the default\b", text)) == text.count(
            "`alignment`, the default rule"
        ), path
    assert DEFAULT_RATER == "alignment"
    assert not any(arm.startswith(DEFAULT_RATER) for arm in ARMS)
    assert not any("default" in title or title.startswith("the same") for title in ARMS.values())
