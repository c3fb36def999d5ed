"""Counts the models of a cell that exist, so that the cost of an experiment says what is left to train.

It trains, selects and scores nothing, so it finds no model of a cell whose raters, scores or clusters do not exist yet.
"""

from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RATERS, RHO_BATCHES, Arm
from alchemist_core.experiments.method_scores import methods_among, name_of_scores
from alchemist_core.experiments.trial import Trial, subset_of
from alchemist_core.rating.config import ScoringRule
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.stages.train_downstream import JOINED, VALIDATION
from alchemist_core.store.engine import open_store
from alchemist_core.store.export import score_name
from alchemist_core.store.models import stored_configs
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.subsets import find_subset
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.pinning import pin


def count_existing(trial: Trial, arm: Arm, policy: dict[str, Any], *, retention: float, model: DownstreamConfig) -> int:
    """Return how many models of a cell exist; see `measure_cell` for the arguments."""
    try:
        rater = trial.find_rater(arm.rater)
        if rater is None or not _knows_scores(trial, arm, rater):
            return 0
        given = SelectionPolicy.model_validate({"retention": retention, **policy})
        if given.eligible_options().needs_comparison and given.semantic_scorer is None:
            return 0
        _, name = subset_of(trial, policy, rater, retention=retention)
        subset_id = find_subset(open_store(), name).subset_id
        wanted = pin(model)
    except ConfigError:
        # Its corpus or its subset does not exist yet.
        return 0
    seeds = set(trial.training_seeds())
    found = set()
    for stored in stored_configs(open_store(), arm.trains, subset_id=subset_id, rater=rater.name):
        given_model = DownstreamConfig.from_stored(stored)
        update: dict[str, Any] = {"seed": given_model.seed}
        if arm.trains in (VALIDATION, JOINED):
            update["max_train_steps"] = given_model.max_train_steps
        if given_model == wanted.model_copy(update=update):
            found.add(given_model.seed)
    return len(found & seeds)


def _knows_scores(trial: Trial, arm: Arm, rater: RaterRow) -> bool:
    """Find the names of the scores that an arm ranks by; return whether all raters among them exist."""
    reader = trial.find_rater(ScoringRule.LEARNABILITY) if RHO_BATCHES in arm.scores else rater
    if reader is None:
        return False
    for name in arm.scores:
        if name in RATERS:
            if (other := trial.find_rater(name)) is None:
                return False
            trial.stored_names[name] = score_name(other.name)
        elif methods_among([name]):
            trial.stored_names[name] = name_of_scores(trial.method_config(name, reader))
    return True
