"""Choosing one of several recipes on a budget: successive halving over paired seeds, then a test of the winner on seeds that chose nothing.

The winner of a search looks better on the seeds that chose it than it is. So the gain that is promised, and the decision against a random
subset, come from other seeds. Pure: what trains is a function that its caller passes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.statistics import Estimate, estimate

Measure = Callable[[str, int], float]
"""Loss of a recipe with a seed; lower is better."""


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

    @property
    def n_trainings(self) -> int:
        """Number of trainings, with those of the control; each recipe is trained once with a seed."""
        found, seen = 0, 0
        for n_recipes, n_seeds in self.rounds:
            found += (n_recipes + 1) * (n_seeds - seen)
            seen = n_seeds
        return found + 2 * len(self.confirmation_seeds)


@dataclass(frozen=True, slots=True)
class Choice:
    """The recipe that is used; None: the control, because no recipe was shown to be better."""

    recipe: str | None
    winner: str
    searched: float
    """Gain of the winner on the seeds that chose it: too high."""
    promised: Estimate
    """Its gain on the other seeds, log(loss of the control / loss of the recipe)."""
    rounds: tuple[Round, ...]

    def describe(self, control: str) -> str:
        """Describe what was chosen and why, in one sentence."""
        gain = f"{self.promised.mean:.3f} [{self.promised.low or math.nan:.3f}, {self.promised.high or math.nan:.3f}]"
        measured = f"a gain of {gain} in log(loss of {control} / loss) on {self.promised.n} seeds that chose nothing"
        if self.recipe is not None:
            return f"{self.recipe}: {measured}."
        return f"{control}: the best recipe of the search, {self.winner}, has {measured}, which does not exclude 0."

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)


def plan_halving(
    n_recipes: int, search_seeds: Sequence[int], confirmation_seeds: Sequence[int], *, budget: int | None = None
) -> HalvingPlan:
    """Plan the rounds: each leaves half of the recipes and doubles the seeds.

    Source: Jamieson and Talwalkar 2016, Algorithm 1 (the number of seeds is the resource).

    Args:
        n_recipes: Number of recipes.
        search_seeds: Seeds that may choose. With a budget the first of them.
        confirmation_seeds: Seeds that test the winner.
        budget: Largest number of trainings; None: no bound.

    Raises:
        ConfigError: A seed is in both lists, there are too few, or the budget is too small for one seed of the search.

    >>> plan = plan_halving(6, (0, 1, 2, 3), (4, 5, 6))
    >>> plan.rounds, plan.n_trainings
    (((6, 1), (3, 2), (2, 4)), 23)
    """
    if both := set(search_seeds) & set(confirmation_seeds):
        raise ConfigError(f"Seeds {sorted(both)} are in both lists: a seed that chooses cannot test.")
    if len(confirmation_seeds) < 2 or not search_seeds or n_recipes < 1:
        raise ConfigError("A search needs a recipe, a seed that chooses, and two other seeds that test.")
    for n_seeds in range(len(search_seeds), 0, -1):
        plan = HalvingPlan(_rounds(n_recipes, n_seeds), tuple(search_seeds[:n_seeds]), tuple(confirmation_seeds))
        if budget is None or plan.n_trainings <= budget:
            return plan
    raise ConfigError(
        f"A budget of {budget} trainings is too small: {n_recipes} recipes with one seed and the test of the winner need "
        f"{plan.n_trainings}. Give more, or fewer recipes or confirmation seeds."
    )


def _rounds(n_recipes: int, n_seeds: int) -> tuple[tuple[int, int], ...]:
    n_rounds = max(1, math.ceil(math.log2(n_recipes)))
    return tuple(
        (math.ceil(n_recipes / 2**number), max(1, round(n_seeds / 2 ** (n_rounds - 1 - number))))
        for number in range(n_rounds)
    )


def choose_recipe(measure: Measure, recipes: Sequence[str], plan: HalvingPlan, *, control: str) -> Choice:
    """Search, then compare the winner with the control on the confirmation seeds; no recipe is chosen unless the interval excludes 0.

    Args:
        measure: Trains and evaluates one recipe, or the control, with one seed. Called once for each pair.
        recipes: Recipes, in the order in which ties are broken.
        plan: Rounds and seeds.
        control: What every recipe is compared with.
    """
    known: dict[tuple[str, int], float] = {}

    def loss(recipe: str, seed: int) -> float:
        if (recipe, seed) not in known:
            known[recipe, seed] = measure(recipe, seed)
        return known[recipe, seed]

    def gains(recipe: str, seeds: Sequence[int]) -> list[float]:
        return [math.log(loss(control, seed) / loss(recipe, seed)) for seed in seeds]

    left, rounds = list(recipes), []
    for number, (_, n_seeds) in enumerate(plan.rounds, 1):
        seeds = plan.search_seeds[:n_seeds]
        found = {recipe: fmean(gains(recipe, seeds)) for recipe in left}
        rounds.append(Round(n_seeds, found))
        n_left = plan.rounds[number][0] if number < len(plan.rounds) else 1
        left = sorted(left, key=lambda recipe: -rounds[-1].gains[recipe])[:n_left]
    winner = left[0]
    promised = estimate(gains(winner, plan.confirmation_seeds))
    recipe = winner if promised.is_positive else None
    return Choice(recipe, winner, rounds[-1].gains[winner], promised, tuple(rounds))
