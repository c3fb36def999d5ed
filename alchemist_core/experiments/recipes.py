"""The search for the recipe of a corpus: scoring rule or fusion, strategy and options, by successive halving over seeds (`halving`)."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alchemist_core.errors import ConfigError, DataError, MissingDependencyError, TrainingCollapsedError
from alchemist_core.experiments.arms import DEFAULT_RATER, RATERS, RHO_BATCHES, Arm, first_rater, parse_arm
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.halving import Choice, HalvingPlan, choose_recipe
from alchemist_core.experiments.methods import METHODS
from alchemist_core.experiments.results import RANDOM
from alchemist_core.experiments.trial import Trial, measure_cell, named_rule
from alchemist_core.files import artifact_path, write_bytes_atomically
from alchemist_core.rating.config import RATER_SCORE, ScoringRule
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.fusion import signals_of
from alchemist_core.store.raters import RaterRow
from alchemist_core.telemetry import say, warn
from alchemist_core.training.config import DownstreamConfig

_UNUSABLE = (ConfigError, DataError, MissingDependencyError, TrainingCollapsedError)
BALANCED = "random;variety=1"
"""Random, but as many samples of each cluster of similar images as there are: the fallback where nothing is shown to be better."""
RECIPES = (
    "learnability/auto",
    "alignment+trained_critic+image_density/head_gsample;accept=auto;fill=repeat",
    "learnability+trained_critic+image_density/head_gsample;accept=auto;fill=repeat",
    "trained_critic+image_density/head_gsample",
    "learnability+trained_critic+image_density/head_gsample",
    "learnability+trained_critic/top_k",
    "learnability/auto;accept=auto;fill=repeat",
    "alignment/auto",
    BALANCED,
    "learnability+pmi/head_gsample",
    "learnability/head_gsample;weight_by=rank",
    "learnability/head_gsample;std_rank=0.3",
    "learnability/head_gsample;variety=0.5",
    "loss/paper",
)
"""What a search compares unless it is told otherwise, what a small budget should compare first: rule, fusion, scores that need no rater,
rank window, acceptance with repeats, weights and variety, each changed alone. A budget takes as many of them as it can compare on two
seeds."""


_SCORERS = {
    "trained_critic": "your critic: alchemist scorer train critic",
    "image_density": "your density ratio: alchemist scorer train density --kind density",
}
"""The scorers that give the scores of a method in production."""


@dataclass(frozen=True, slots=True)
class FoundRecipe:
    """The outcome of a search."""

    choice: Choice
    plan: HalvingPlan
    retention: float
    # Options of alchemist select that the recipe stands for; those of a random subset if none was better.
    options: dict[str, Any]
    # What has to be there before: the raters, scores and clusters that the options use.
    needs: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            **self.choice.as_json(), "retention": self.retention, "options": self.options, "needs": list(self.needs),
            "n_trainings": self.plan.n_trainings, "search_seeds": list(self.plan.search_seeds),
            "confirmation_seeds": list(self.plan.confirmation_seeds), "said": self.choice.describe(RANDOM),
        }  # fmt: skip


class RecipeSearch:
    """Trains and measures recipes at one retention, each with the raters and scores that it needs."""

    def __init__(self, config: TrialsConfig, recipes: Sequence[str], retention: float, model: DownstreamConfig) -> None:
        self._config, self._retention, self._model = config, retention, model
        # With a rater by name, recipes of other rules are left out, and the control has its tokenizer.
        first = named_rule(config) or first_rater(recipes, DEFAULT_RATER)
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
        fallback = BALANCED if plan.has_fallback else None
        choice = choose_recipe(self.measure, recipes, plan, control=RANDOM, fallback=fallback)
        say(choice.describe(RANDOM))
        arm = self._arms[choice.recipe or RANDOM]
        options = _typed({"retention": self._retention, **self._policy(arm)})
        return FoundRecipe(choice, plan, self._retention, options, tuple(describe_needs(arm)))

    def measure(self, word: str, seed: int) -> float:
        """Return the loss of a recipe with a seed; what was trained before is reused. Infinite if it cannot be used, with a warning."""
        try:
            return self._measure(word, seed)
        except _UNUSABLE as error:
            if word == RANDOM:
                raise
            warn(f"recipe {word} seed {seed} is left out: {error}")
            return math.inf

    def _measure(self, word: str, seed: int) -> float:
        arm, trial = self._arms[word], self._trial(seed)
        rater = self._rater(arm.rater, seed)
        if arm.scores:
            trial.score_by(
                arm.scores, self._rater(ScoringRule.LEARNABILITY, seed) if RHO_BATCHES in arm.scores else rater
            )
        cell = measure_cell(trial, arm, self._policy(arm), rater, retention=self._retention, model=self._model)
        say(f"recipe {word} seed {seed}: {cell.loss:.4f}")
        return cell.loss

    def _policy(self, arm: Arm) -> dict[str, Any]:
        """Return the options of an arm; `auto` stands for the strategy of the scoring rule."""
        return arm.resolve({"strategy": self._config.training_of(arm.rater, 0).rule.strategy})

    def _trial(self, seed: int) -> Trial:
        if seed not in self._trials:
            kinds = (kind for arm in self._arms.values() for kind in arm.raters)
            self._trials[seed] = Trial(self._config, seed, kinds)
            self._trials[seed].prepare()
        return self._trials[seed]

    def _rater(self, kind: str, seed: int) -> RaterRow:
        if (kind, seed) not in self._raters:
            self._raters[kind, seed] = self._trial(seed).rater(kind)
        return self._raters[kind, seed]


def describe_needs(arm: Arm) -> list[str]:
    """Return what a selection by an arm needs before: the rater whose score it ranks by, other scores, clusters.

    >>> describe_needs(parse_arm("learnability+pmi/top_k;variety=0.5", retention=0.5))  # doctest: +NORMALIZE_WHITESPACE
    ['a rater: alchemist train-rater --rule learnability',
     'in place of pmi the name of such a rater, with _ for -: alchemist train-rater --rule pmi',
     'clusters: alchemist duplicates find-semantic --threshold 0.95 --no-whiten']
    >>> describe_needs(parse_arm("random", retention=0.5))
    []
    """
    policy = arm.policy or {}
    needs = []
    if RATER_SCORE in signals_of(policy.get("rank_by", RATER_SCORE)) and policy.get("strategy") != "random":
        needs.append(f"a rater: alchemist train-rater {flags_of(RATERS[arm.rater])}")
    for name in arm.scores:
        if name in RATERS:
            train = f"alchemist train-rater {flags_of(RATERS[name])}"
            needs.append(f"in place of {name} the name of such a rater, with _ for -: {train}")
        elif name in _SCORERS:
            needs.append(f"in place of {name} the name of {_SCORERS[name]}")
        elif name in METHODS:
            needs.append(f"in place of {name} the name of imported scores: alchemist import scores")
    if SelectionPolicy.model_validate(policy).eligible_options().needs_comparison:
        needs.append("clusters: alchemist duplicates find-semantic --threshold 0.95 --no-whiten")
    return needs


def write_recipe(name: str, found: FoundRecipe) -> str:
    """Write the outcome of a search as JSON under artifacts/recipes, and return the file's path."""
    path = artifact_path(f"recipes/{name}.json")
    write_bytes_atomically(path, (json.dumps(found.as_json(), indent=2, sort_keys=True) + "\n").encode())
    return str(path)


def flags_of(options: dict[str, Any]) -> str:
    """Return options as flags of a command, quoted for a shell.

    >>> flags_of({"retention": 0.2, "rank_by": "rater+critic", "where": "width >= 64", "stratify": True, "allow_fewer": False})
    "--retention 0.2 --rank-by rater+critic --where 'width >= 64' --stratify --no-allow-fewer"
    """
    words = []
    for name, value in options.items():
        flag = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        given = ",".join(value) if isinstance(value, tuple) else str(value)
        if isinstance(value, bool):
            words.append(flag)
        else:
            # argparse takes a value such as -1e-05 for an option.
            words += [f"{flag}={shlex.quote(given)}"] if given.startswith("-") else [flag, shlex.quote(given)]
    return " ".join(words)


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of alchemist select with the types of their fields: those of an arm are texts.

    >>> _typed({"retention": 0.2, "stratify": "true", "std_rank": "none", "decontaminate": "a"})
    {'retention': 0.2, 'std_rank': 'none', 'decontaminate': ('a',), 'stratify': True}
    """
    policy = SelectionPolicy.model_validate(options)
    return {"retention": policy.retention, **policy.written_out(policy.model_fields_set)}
