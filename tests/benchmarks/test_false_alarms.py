"""Groups of the false alarms share no corpus, and one recipe that is chosen is one alarm."""

from dataclasses import asdict

from alchemist_core.experiments.recipes import BALANCED
from alchemist_core.statistics import estimate
from tests.benchmarks.false_alarms import N_GROUPS, judge, make_groups


def search(recipe: str | None, *promised: float) -> dict:
    return {"recipe": recipe, "winner": "a", "searched": 0.1, "promised": asdict(estimate(promised))}


def test_no_two_groups_share_a_corpus_or_a_file() -> None:
    groups = make_groups()
    seeds = [seed for one in groups for seed in (*one.plan.search_seeds, *one.plan.confirmation_seeds)]
    assert len(set(seeds)) == len(seeds) == 8 * N_GROUPS
    assert len({one.search_path for one in groups}) == len({one.search_options()["name"] for one in groups}) == N_GROUPS


def test_a_search_offers_what_the_command_does_a_balanced_random_subset_as_its_fallback() -> None:
    assert all(BALANCED in one.search_options()["recipes"].split(",") for one in make_groups())


def test_each_search_that_chooses_a_recipe_is_an_alarm() -> None:
    quiet, loud = search(None, 0.1, -0.1), search("b", 0.2, 0.4)
    alarms, promised, searched = judge([quiet, loud, quiet])
    assert (alarms.name, alarms.value, alarms.ok, alarms.detail) == ("false alarms of 3 searches", 1, False, "b")
    assert promised.value == 0.1
    assert searched.value == 0.1
    assert judge([quiet, quiet])[0].ok
