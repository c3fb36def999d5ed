"""The search for the recipe of a corpus: scoring rule or fusion, strategy and options, by successive halving over seeds (`halving`)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alchemist_core.experiments.arms import DEFAULT_RATER, Arm, first_rater, parse_arm
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.halving import Choice, HalvingPlan, choose_recipe
from alchemist_core.experiments.results import RANDOM
from alchemist_core.experiments.trial import Trial, measure_cell, named_rule
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.rating.config import ScoringRule
from alchemist_core.store.raters import RaterRow
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig

RECIPES = (
    "learnability/auto",
    "alignment/auto",
    "learnability+trained_critic/top_k",
    "learnability+trained_critic/head_gsample",
    "trained_critic/top_k",
    "learnability/auto;accept=auto;fill=repeat",
)
"""What a search compares unless it is told otherwise: the fewest that differ in rule, fusion, strategy and acceptance."""


@dataclass(frozen=True, slots=True)
class FoundRecipe:
    """The outcome of a search."""

    choice: Choice
    plan: HalvingPlan
    retention: float
    # Options of alchemist select that the recipe stands for; those of a random subset if none was better.
    options: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            **self.choice.as_json(), "retention": self.retention, "options": self.options,
            "n_trainings": self.plan.n_trainings, "search_seeds": list(self.plan.search_seeds),
            "confirmation_seeds": list(self.plan.confirmation_seeds), "said": self.choice.describe(RANDOM),
        }  # fmt: skip


class RecipeSearch:
    """Trains and measures recipes at one retention, each with the raters and scores that it needs."""

    def __init__(self, config: TrialsConfig, recipes: Sequence[str], retention: float, model: DownstreamConfig) -> None:
        self._config, self._retention, self._model = config, retention, model
        first = first_rater(recipes, named_rule(config) or DEFAULT_RATER)
        words = dict.fromkeys((*recipes, RANDOM))
        self._arms = {word: parse_arm(word, retention=retention, first_rater=first) for word in words}
        self._trials: dict[int, Trial] = {}
        self._raters: dict[tuple[str, int], RaterRow] = {}

    @property
    def arms(self) -> list[tuple[Arm, float]]:
        """The recipes and the control, for their cost."""
        return [(arm, self._retention) for arm in self._arms.values()]

    def run(self, plan: HalvingPlan) -> FoundRecipe:
        """Search by a plan."""
        recipes = [word for word in self._arms if word != RANDOM]
        choice = choose_recipe(self.measure, recipes, plan, control=RANDOM)
        say(choice.describe(RANDOM))
        policy = self._policy(self._arms[choice.recipe or RANDOM])
        return FoundRecipe(choice, plan, self._retention, {"retention": self._retention, **policy})

    def measure(self, word: str, seed: int) -> float:
        """Return the loss of a recipe with a seed; what was trained before is reused."""
        arm, trial = self._arms[word], self._trial(seed)
        rater = self._rater(arm.rater, seed)
        if arm.scores:
            is_learnable = any(one.rater == ScoringRule.LEARNABILITY for one in self._arms.values())
            trial.score_by(arm.scores, self._rater(ScoringRule.LEARNABILITY, seed) if is_learnable else rater)
        cell = measure_cell(trial, arm, self._policy(arm), rater, retention=self._retention, model=self._model)
        say(f"recipe {word} seed {seed}: {cell.loss:.4f}")
        return cell.loss

    def _policy(self, arm: Arm) -> dict[str, Any]:
        """Return the options of an arm; `auto` stands for the strategy of the scoring rule."""
        return arm.policy or {"strategy": self._config.training_of(arm.rater, 0).rule.strategy}

    def _trial(self, seed: int) -> Trial:
        if seed not in self._trials:
            self._trials[seed] = Trial(self._config, seed)
            self._trials[seed].prepare()
        return self._trials[seed]

    def _rater(self, kind: str, seed: int) -> RaterRow:
        if (kind, seed) not in self._raters:
            self._raters[kind, seed] = self._trial(seed).rater(kind)
        return self._raters[kind, seed]


def write_recipe(name: str, found: FoundRecipe) -> str:
    """Write the outcome of a search as JSON under artifacts/recipes, and return the file's path."""
    path = artifact_path(f"recipes/{name}.json")
    write_bytes_atomically(path, (json.dumps(found.as_json(), indent=2, sort_keys=True) + "\n").encode())
    return str(path)


def flags_of(options: dict[str, Any]) -> str:
    """Return options as flags of alchemist select.

    >>> flags_of({"retention": 0.2, "strategy": "top_k", "rank_by": "rater+critic", "allow_fewer": True})
    '--retention 0.2 --strategy top_k --rank-by rater+critic --allow-fewer'
    """
    words = []
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return " ".join(words)
