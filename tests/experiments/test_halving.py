"""The search trains no more than it planned, finds what is better, and hardly ever finds what is not there."""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.halving import Choice, choose_recipe, plan_halving

RECIPES = [f"recipe {number}" for number in range(8)]
SEARCH, CONFIRM = (0, 1, 2, 3), (4, 5, 6, 7)
Noise = Callable[[np.random.Generator], np.ndarray]


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(8, 9))


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, size=(8, 9))


def search(rng: np.random.Generator, noise: Noise = normal, gain: float = 0.0) -> Choice:
    """Losses of eight recipes and random on eight seeds: the seed's level, noise of the training, and a gain of one recipe."""
    level = rng.normal(size=8) * 0.2
    loss_SR = np.exp(level[:, None] + 0.05 * noise(rng))
    loss_SR[:, 5] *= np.exp(-gain)

    def measure(recipe: str, seed: int) -> float:
        return float(loss_SR[seed, 8 if recipe == "random" else RECIPES.index(recipe)])

    return choose_recipe(measure, RECIPES, plan_halving(8, SEARCH, CONFIRM), control="random")


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
    assert "does not exclude 0" in found.describe("random")


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
    with pytest.raises(ConfigError, match=r"both lists|needs a recipe"):
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


def test_the_search_needs_no_recipe_twice() -> None:
    for n_recipes, n_seeds in itertools.product(range(1, 12), range(1, 6)):
        plan = plan_halving(n_recipes, range(n_seeds), (90, 91))
        assert plan.rounds[0][0] == n_recipes
        seeds = [n for _, n in plan.rounds]
        assert seeds == sorted(seeds)
        assert seeds[-1] == n_seeds
