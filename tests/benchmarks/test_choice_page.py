"""The tables of research page 039 are those of the trials that git keeps."""

from alchemist_core.training.config import RaterTrainingConfig
from tests.benchmarks.choice_page import NAME, PAIRS, WORLDS, better_by, tables
from tests.benchmarks.methods_page import FIGURE_PATH
from tests.benchmarks.study import PLANS
from tests.benchmarks.study_page import nats, read_trials, table_lines
from tests.benchmarks.world_tables import n_seeds

PAGE = FIGURE_PATH.with_name("039-default-rule.md")


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = table_lines(PAGE)
    assert len(written) > 15
    assert made == written


def test_the_page_names_the_number_of_trials_and_every_difference_that_is_shown() -> None:
    trials, page = read_trials(NAME), " ".join(PAGE.read_text("utf-8").split())
    assert f"**{len(trials)} of {len(PLANS[NAME].trials())} trials**" in page
    assert ", ".join(f"{title} {n_seeds(trials, world)}" for world, title in WORLDS.items()) in page
    found = {
        (pair, retention, world): better_by(trials, pair, retention, world)
        for pair in PAIRS
        for retention in PLANS[NAME].retentions
        for world in ("", *WORLDS)
    }
    shown = {key: one for key, one in found.items() if one.is_positive or (one.high is not None and one.high < 0)}
    rules, _, over_alignment, fusion_over_learnability, over_learnability = PAIRS
    assert shown.keys() == {
        *((rules, retention, world) for retention, world in ((0.2, ""), (0.2, "damaged"), (0.5, "damaged"))),
        *((over_alignment, retention, world) for retention in (0.2, 0.5) for world in ("", "damaged")),
        (over_alignment, 0.2, "shifted"),
        *((fusion_over_learnability, retention, "") for retention in (0.2, 0.5)),
        *((over_learnability, retention, world) for retention, world in ((0.5, ""), (0.2, "damaged"), (0.5, "scenes"))),
    }
    told = page.partition("## What it says")[2]
    for one in shown.values():
        assert nats(one) in told
    assert f"second table has {len(found)} intervals" in told


def test_the_rule_that_was_written_down_leaves_the_default_as_it_is() -> None:
    trials, rules = read_trials(NAME), next(iter(PAIRS))
    found = [better_by(trials, rules, retention, confidence=0.975) for retention in PLANS[NAME].retentions]
    assert len(trials) == len(PLANS[NAME].trials())
    assert not any(one.is_positive for one in found)
    assert nats(found[0]).partition(" ")[2] in PAGE.read_text("utf-8")
    assert RaterTrainingConfig().rule == "alignment"
