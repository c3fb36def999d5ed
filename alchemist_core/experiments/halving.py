"""Choosing one of several recipes on a budget: successive halving over paired seeds, then a test of the winner on seeds that chose nothing.

The winner of a search looks better on the seeds that chose it than it is. So the gain that is promised, and the decision against a random
subset, come from other seeds. Pure: what trains is a function that its caller passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import fmean
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.statistics import Estimate, estimate

FALLBACK_CONFIDENCE = 0.98
Measure = Callable[[str, int], float]
"""Loss of a recipe with a seed; lower is better. Infinite if the recipe cannot be used, which ends its part in the search."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round of the search: the recipes that were still in it, and their mean gains over the control, in logs of losses."""

    n_seeds: int
    gains: dict[str, float]


@dataclass(frozen=True, slots=True)
class HalvingPlan:
    """How many recipes and seeds each round compares; and the seeds of the last test."""

    rounds: tuple[tuple[int, int], ...]
    """Recipes, and the first seeds on which they are compared, in each round; the last round leaves one recipe."""
    search_seeds: tuple[int, ...]
    confirmation_seeds: tuple[int, ...]
    has_fallback: bool = False
    """Whether a simple recipe is tested on the same seeds as the winner, if the winner is not shown to be better than the control."""

    @property
    def n_trainings(self) -> int:
        """Largest number of trainings, with those of the control; each recipe is trained once with a seed."""
        found, seen = 0, 0
        for n_recipes, n_seeds in self.rounds:
            found += (n_recipes + 1) * (n_seeds - seen)
            seen = n_seeds
        return found + (3 if self.has_fallback else 2) * len(self.confirmation_seeds)


@dataclass(frozen=True, slots=True)
class Choice:
    """The recipe that is used: the winner of the search or the fallback; None: the control, because neither was shown to be better."""

    recipe: str | None
    winner: str
    searched: float
    """Gain of the winner on the seeds that chose it: too high."""
    promised: Estimate
    """Its gain on the other seeds, log(loss of the control / loss of the recipe)."""
    rounds: tuple[Round, ...]
    fallback: Estimate | None = None
    """The gain of the fallback on these seeds, with its interval at `FALLBACK_CONFIDENCE`; None if it was not tested."""

    def describe(self, control: str) -> str:
        """Describe what was chosen and why, in one or two sentences."""
        measured = f"a gain of {_interval(self.promised)} in log(loss of {control} / loss) on {self.promised.n} seeds that chose nothing"
        if self.recipe == self.winner:
            return f"{self.recipe}: {measured}."
        best = f"The best recipe of the search, {self.winner}, has {measured}, which is not shown to be above 0."
        if self.recipe is not None and self.fallback is not None:
            return f"{self.recipe}: a gain of {_interval(self.fallback)} ({FALLBACK_CONFIDENCE:.0%} interval) on the same seeds. {best}"
        simple = "" if self.fallback is None else f" Nor has the fallback a gain, with {_interval(self.fallback)}."
        return f"{control}. {best}{simple}"

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)


def _interval(found: Estimate) -> str:
    low, high = (math.nan if end is None else end for end in (found.low, found.high))
    return f"{found.mean:.3f} [{low:.3f}, {high:.3f}]"


def plan_halving(
    n_recipes: int,
    search_seeds: Sequence[int],
    confirmation_seeds: Sequence[int],
    *,
    budget: int | None = None,
    trainings: int = 1,
    has_fallback: bool = False,
) -> HalvingPlan:
    """Plan the rounds: each leaves half of the recipes and doubles the seeds; the last one leaves the best of what is left.

    Source: Jamieson and Talwalkar 2016, Algorithm 1 (the number of seeds is the resource).

    Args:
        n_recipes: Number of recipes.
        search_seeds: Seeds that may choose. With a budget the first of them.
        confirmation_seeds: Seeds that test the winner.
        budget: Largest number of models to train; None: no bound.
        trainings: Number of models of a recipe with a seed.
        has_fallback: As in `HalvingPlan`.

    Raises:
        ConfigError: A seed is in both lists, there are too few, or the budget is too small for one seed of the search.

    >>> plan = plan_halving(6, (0, 1, 2, 3), (4, 5, 6))
    >>> plan.rounds, plan.n_trainings
    (((6, 1), (3, 2), (2, 4)), 23)
    """
    if both := set(search_seeds) & set(confirmation_seeds):
        raise ConfigError(
            f"--seeds and --confirmation-seeds both have {', '.join(map(str, sorted(both)))}: a seed that chooses cannot test. Give each "
            "seed to one of them."
        )
    if len(confirmation_seeds) < 2 or not search_seeds or n_recipes < 1:
        raise ConfigError("A search needs a recipe, a seed that chooses, and two other seeds that test.")
    for n_seeds in range(len(search_seeds), 0, -1):
        plan = HalvingPlan(
            _rounds(n_recipes, n_seeds), tuple(search_seeds[:n_seeds]), tuple(confirmation_seeds), has_fallback
        )
        if budget is None or plan.n_trainings * trainings <= budget:
            return plan
    raise ConfigError(
        f"A budget of {budget} trainings is too small: {n_recipes} recipes with one seed and the test of the winner need "
        f"{plan.n_trainings * trainings}. Give more, or fewer recipes, confirmation seeds or trainings of each."
    )


def afford_recipes(
    recipes: Sequence[str],
    search_seeds: Sequence[int],
    confirmation_seeds: Sequence[int],
    budget: int,
    fallback: str | None = None,
) -> int:
    """Return how many of the recipes, the first ones, a budget can compare on at least two seeds; at least two recipes.

    Args:
        recipes: Recipes, the most promising ones first.
        search_seeds: Seeds that may choose.
        confirmation_seeds: Seeds that test the winner.
        budget: Largest number of trainings.
        fallback: The recipe that is tested, too, if it is among them; None: there is none.

    >>> recipes = [f"recipe {number}" for number in range(12)]
    >>> [afford_recipes(recipes, (0, 1, 2, 3), (4, 5, 6, 7), budget, recipes[0]) for budget in (12, 26, 60)]
    [2, 8, 12]
    """
    for n_recipes in range(len(recipes), 2, -1):
        n_seeds = min(2, len(search_seeds))
        has_fallback = fallback in recipes[:n_recipes]
        plan = plan_halving(n_recipes, search_seeds[:n_seeds], confirmation_seeds, has_fallback=has_fallback)
        if plan.n_trainings <= budget:
            return n_recipes
    return min(2, len(recipes))


def _rounds(n_recipes: int, n_seeds: int) -> tuple[tuple[int, int], ...]:
    # Not more rounds than the seeds can be doubled: a round without new seeds would judge by what has judged before.
    n_rounds = max(1, min(math.ceil(math.log2(n_recipes)), n_seeds.bit_length()))
    return tuple(
        (math.ceil(n_recipes / 2**number), n_seeds // 2 ** (n_rounds - 1 - number)) for number in range(n_rounds)
    )


def choose_recipe(
    measure: Measure, recipes: Sequence[str], plan: HalvingPlan, *, control: str, fallback: str | None = None
) -> Choice:
    """Search, then compare the winner with the control on the confirmation seeds; no recipe is chosen unless the interval excludes 0.

    If it does not, the fallback is compared in the same way, by a wider interval: a second test must not double the false alarms.

    Raises:
        ConfigError: No recipe can be used.

    Args:
        measure: Trains and evaluates one recipe, or the control, with one seed. Called once for each pair.
        recipes: Recipes, in the order in which ties are broken.
        plan: Rounds and seeds.
        control: What every recipe is compared with.
        fallback: A simple recipe that is used if the winner is not shown to be better and this one is; None: there is none.
    """
    loss = cache(measure)

    def gains(recipe: str, seeds: Sequence[int]) -> list[float]:
        return [math.log(loss(control, seed)) - math.log(loss(recipe, seed)) for seed in seeds]

    rounds = _search(gains, recipes, plan)
    winner = max(rounds[-1].gains, key=rounds[-1].gains.__getitem__)
    promised, searched = _test(gains(winner, plan.confirmation_seeds)), rounds[-1].gains[winner]
    if promised.is_positive or fallback is None or fallback == winner:
        return Choice(winner if promised.is_positive else None, winner, searched, promised, rounds)
    simple = _test(gains(fallback, plan.confirmation_seeds), FALLBACK_CONFIDENCE)
    return Choice(fallback if simple.is_positive else None, winner, searched, promised, rounds, simple)


def _search(
    gains: Callable[[str, Sequence[int]], list[float]], recipes: Sequence[str], plan: HalvingPlan
) -> tuple[Round, ...]:
    """Return the rounds; the best recipe of the last one, the first of equal ones, is the winner."""
    left, rounds = list(recipes), []
    for n_recipes, n_seeds in plan.rounds:
        left = left[:n_recipes]
        found = {recipe: fmean(gains(recipe, plan.search_seeds[:n_seeds])) for recipe in left}
        usable = {recipe: gain for recipe, gain in found.items() if gain > -math.inf}
        if not usable:
            raise ConfigError(
                f"None of the recipes can be used on this corpus: {', '.join(left)}. The warnings say why."
            )
        rounds.append(Round(n_seeds, usable))
        left = sorted(usable, key=lambda recipe: -rounds[-1].gains[recipe])
    return tuple(rounds)


def _test(gains: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Return the mean gain with its interval; without one if the recipe could not be used with a seed, so that it is not chosen."""
    found = [gain for gain in gains if gain > -math.inf]
    if len(found) < len(gains):
        return Estimate(fmean(found) if found else 0.0, None, None, len(found))
    return estimate(found, confidence)
