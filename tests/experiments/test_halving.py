"""The search trains no more than it planned, finds what is better, and hardly ever finds what is not there."""

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.halving import Choice, afford_recipes, choose_recipe, plan_halving

RECIPES = [f"recipe {number}" for number in range(8)]
SEARCH, CONFIRM = (0, 1, 2, 3), (4, 5, 6, 7)
Noise = Callable[[np.random.Generator], np.ndarray]


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(8, 9))


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, size=(8, 9))


def search(
    rng: np.random.Generator, noise: Noise = normal, gain: float = 0.0, *, fallback: str | None = None
) -> Choice:
    """Losses of eight recipes and random on eight seeds: the seed's level, noise of the training, and a gain of one recipe."""
    level = rng.normal(size=8) * 0.2
    loss_SR = np.exp(level[:, None] + 0.05 * noise(rng))
    loss_SR[:, 5] *= np.exp(-gain)

    def measure(recipe: str, seed: int) -> float:
        return float(loss_SR[seed, 8 if recipe == "random" else RECIPES.index(recipe)])

    plan = plan_halving(8, SEARCH, CONFIRM, has_fallback=fallback is not None)
    return choose_recipe(measure, RECIPES, plan, control="random", fallback=fallback)


def test_each_recipe_is_trained_once_with_a_seed_and_no_more_than_planned() -> None:
    calls = Counter[tuple[str, int]]()

    def measure(recipe: str, seed: int) -> float:
        calls[recipe, seed] += 1
        return 1.0 if recipe == "random" else 2.0 - RECIPES.index(recipe) / 8

    plan = plan_halving(8, SEARCH, CONFIRM)
    assert plan.rounds == ((8, 1), (4, 2), (2, 4))
    found = choose_recipe(measure, RECIPES, plan, control="random")
    assert set(calls.values()) == {1}
    assert calls.total() == plan.n_trainings == 9 + 5 + 6 + 8
    assert (found.winner, found.recipe) == (RECIPES[7], None)
    assert [set(one.gains) for one in found.rounds] == [set(RECIPES), set(RECIPES[4:]), set(RECIPES[6:])]
    assert "is not shown to be above 0" in found.describe("random")


def test_a_budget_takes_seeds_from_the_search_and_never_from_the_test() -> None:
    whole = plan_halving(8, SEARCH, CONFIRM)
    for budget in range(30, 16, -1):
        plan = plan_halving(8, SEARCH, CONFIRM, budget=budget)
        assert plan.n_trainings <= budget
        assert plan.confirmation_seeds == CONFIRM
        assert plan.n_trainings <= whole.n_trainings
    with pytest.raises(ConfigError, match=r"budget of 16 trainings is too small.* need 17"):
        plan_halving(8, SEARCH, CONFIRM, budget=16)


@pytest.mark.parametrize(("search_seeds", "confirmation_seeds"), [((0, 1), (1, 2)), ((), (1, 2)), ((0,), (1,))])
def test_seeds_that_choose_do_not_test(search_seeds: tuple[int, ...], confirmation_seeds: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"^--seeds and --confirmation-seeds both have 1: .* Give each|needs a recipe"
    ):
        plan_halving(3, search_seeds, confirmation_seeds)


def test_a_recipe_that_is_better_is_found_and_promised_no_more_than_it_gives() -> None:
    rng = np.random.default_rng(1)
    found = [search(rng, gain=0.3) for _ in range(100)]
    chosen = [choice for choice in found if choice.recipe == RECIPES[5]]
    assert len(chosen) >= 95
    promised = np.mean([choice.promised.mean for choice in chosen])
    assert promised == pytest.approx(0.3, abs=0.02)
    assert "recipe 5: a gain of 0." in chosen[0].describe("random")


@pytest.mark.parametrize("noise", [normal, heavy_tailed])
def test_of_400_tables_without_a_signal_at_most_5_percent_give_a_false_alarm(noise: Noise) -> None:
    rng = np.random.default_rng(7)
    found = [search(rng, noise) for _ in range(400)]
    n_alarms = sum(choice.recipe is not None for choice in found)
    print(f"{noise.__name__}: {n_alarms} false alarms of 400")
    assert n_alarms <= 20
    # The search itself nearly always finds something: a promise from its own seeds would be wrong.
    searched = [choice.searched for choice in found]
    assert np.mean(np.array(searched) > 0) > 0.75
    assert abs(np.mean([choice.promised.mean for choice in found])) < 0.01


@pytest.mark.parametrize("noise", [normal, heavy_tailed])
def test_with_a_fallback_there_are_no_more_than_5_percent_of_false_alarms_either(noise: Noise) -> None:
    rng = np.random.default_rng(8)
    found = [search(rng, noise, fallback=RECIPES[0]) for _ in range(400)]
    n_alarms = [sum(choice.recipe == name for choice in found) for name in (RECIPES[0], None)]
    print(f"{noise.__name__}: {400 - n_alarms[1]} false alarms of 400")
    assert 400 - n_alarms[1] <= 20
    assert n_alarms[0] > 0


def test_a_fallback_that_is_better_is_used_where_the_winner_was_luck() -> None:
    losses = {"lucky": (1.0, 0.5, 1.1, 1.0, 1.2, 1.0), "balanced": (1.0, 0.9, 0.90, 0.91, 0.90, 0.91)}
    calls = Counter[tuple[str, int]]()

    def measure(recipe: str, seed: int) -> float:
        calls[recipe, seed] += 1
        return losses[recipe][seed] if recipe != "random" else 1.0

    plan = plan_halving(2, (0, 1), (2, 3, 4, 5), has_fallback=True)
    found = choose_recipe(measure, ["lucky", "balanced"], plan, control="random", fallback="balanced")
    assert (found.winner, found.recipe) == ("lucky", "balanced")
    assert calls.total() == plan.n_trainings == 3 * 2 + 3 * 4
    assert found.fallback is not None
    assert found.fallback.mean == pytest.approx(-np.log(losses["balanced"][2:]).mean())
    assert found.describe("random").startswith("balanced: a gain of 0.1")
    assert "lucky, has a gain of -0.0" in found.describe("random")
    unused = choose_recipe(measure, ["lucky", "balanced"], plan, control="random")
    assert (unused.recipe, unused.fallback) == (None, None)
    # A winner that is shown to be better needs no fallback.
    assert search(np.random.default_rng(1), gain=0.5, fallback=RECIPES[0]).fallback is None


def test_a_recipe_that_cannot_be_used_leaves_the_search_and_is_never_chosen() -> None:
    def measure(recipe: str, seed: int) -> float:
        if recipe == "broken" or (recipe == "late" and seed >= 4):
            return math.inf
        return {"random": 1.0, "late": 0.2, "good": 0.8}[recipe] + seed / 1000

    plan = plan_halving(3, SEARCH, CONFIRM)
    found = choose_recipe(measure, ["broken", "good"], plan_halving(2, SEARCH, CONFIRM), control="random")
    assert (found.recipe, set(found.rounds[0].gains)) == ("good", {"good"})
    late = choose_recipe(measure, ["broken", "late", "good"], plan, control="random")
    assert (late.winner, late.recipe, late.promised.n) == ("late", None, 0)
    with pytest.raises(ConfigError, match="None of the recipes can be used on this corpus: broken"):
        choose_recipe(measure, ["broken"], plan_halving(1, SEARCH, CONFIRM), control="random")


def test_a_budget_of_the_default_recipes_takes_as_many_of_the_first_as_two_seeds_can_compare() -> None:
    names = [f"recipe {number}" for number in range(12)]
    for budget in range(15, 50):
        n_recipes = afford_recipes(names, SEARCH, CONFIRM, budget, names[6])
        plan = plan_halving(n_recipes, SEARCH, CONFIRM, budget=budget, has_fallback=n_recipes > 6)
        assert plan.n_trainings <= budget
        assert n_recipes == 2 or len(plan.search_seeds) >= 2
    # The fallback is the seventh: without it the search needs no trainings of its test.
    assert [afford_recipes(names, SEARCH, CONFIRM, budget, names[6]) for budget in (14, 22, 26, 40)] == [2, 6, 8, 12]


def test_each_round_has_seeds_that_the_one_before_had_not() -> None:
    for n_recipes, n_seeds in itertools.product(range(1, 20), range(1, 9)):
        seeds = [n for _, n in plan_halving(n_recipes, range(n_seeds), (90, 91)).rounds]
        assert all(after >= 2 * before for before, after in itertools.pairwise(seeds))


def test_the_search_needs_no_recipe_twice() -> None:
    for n_recipes, n_seeds in itertools.product(range(1, 12), range(1, 6)):
        plan = plan_halving(n_recipes, range(n_seeds), (90, 91))
        assert plan.rounds[0][0] == n_recipes
        seeds = [n for _, n in plan.rounds]
        assert seeds == sorted(seeds)
        assert seeds[-1] == n_seeds
