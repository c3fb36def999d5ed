"""The cost of an experiment: steps × measured seconds per step, printed before it starts. An upper bound: finished arms are reused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alchemist_core.config import Config, Result, counted
from alchemist_core.experiments.arms import RATERS, Arm
from alchemist_core.experiments.config import TrialsConfig, for_seed
from alchemist_core.rating.config import ScoringRule
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.loss_ranking import MINUS_LOSS
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_rater
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig


class StepTimingConfig(Config):
    """The models whose steps are timed."""

    model: DownstreamConfig
    rater: RaterTrainingConfig


class StepTimingResult(Result):
    """Seconds per step on this machine."""

    model_s: float
    rater_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """Numbers of models, raters and their training steps."""

    n_models: int
    n_model_steps: int
    n_raters: int
    n_rater_steps: int

    def __add__(self, other: "Work") -> "Work":
        """Add two pieces of work."""
        return Work(*(getattr(self, name) + getattr(other, name) for name in Work.__slots__))

    def times(self, n: int) -> "Work":
        """Repeat the work, for example for every seed."""
        return Work(*(getattr(self, name) * n for name in Work.__slots__))


NO_WORK = Work(0, 0, 0, 0)


def work_of_cells(
    config: TrialsConfig, arms: list[tuple[Arm, float]], models: Sequence[DownstreamConfig], n_pairs: int
) -> Work:
    """Count the work of one seed: its raters, and each model for each arm at a retention (the full corpus once)."""
    raters = {kind for arm, _ in arms for kind in arm.raters} if config.rater is None else set()
    n_rater_steps = sum(_rater_steps(config, kind) for kind in raters)
    sizes = {(arm.word, retention if arm.is_sized else 1.0) for arm, retention in arms}
    n_steps = sum(model.steps(round(retention * n_pairs)) for _, retention in sizes for model in models)
    n_models, n_steps = (n * config.trainings for n in (len(sizes) * len(models), n_steps))
    return Work(n_models, n_steps, len(raters), n_rater_steps)


def work_of_loss_rankings(
    config: TrialsConfig, arms: list[tuple[Arm, float]], models: Sequence[DownstreamConfig], seed: int
) -> Work:
    """Count the models of one seed that arm `minus_loss` trains on the validation dataset to rank by: all retentions share them."""
    if all(arm.trains != MINUS_LOSS for arm, _ in arms):
        return NO_WORK
    n_pairs = _count_validation(config, seed)
    n_steps = sum(model.steps(n_pairs) for model in models)
    return Work(len(models) * config.trainings, n_steps * config.trainings, 0, 0)


def count_pairs(config: TrialsConfig, seed: int) -> int:
    """Return the number of training pairs of a seed's corpus; a synthetic one need not exist yet."""
    if config.dataset is None:
        return config.scenes_of(seed).n_train
    return _count_samples(for_seed(config.dataset, seed))


def _count_validation(config: TrialsConfig, seed: int) -> int:
    # A named rater brings its own validation dataset.
    rater = None if config.rater is None else find_rater(open_store(), config.rater)
    if rater is not None:
        return _count_samples(rater.config["validation"])
    if config.validation is None:
        return config.scenes_of(seed).n_validation
    return _count_samples(for_seed(config.validation, seed))


def _count_samples(dataset: str) -> int:
    engine = open_store()
    return len(read_training_samples(engine, find_dataset(engine, dataset).dataset_id))


def dearest_rater(kinds: Iterable[str]) -> str:
    """Return the kind of rater whose steps take longest, so that the time of raters of several kinds is an upper bound.

    >>> dearest_rater(["learnability", "loss", "alignment", "alignment+group"]), dearest_rater(["pmi", "learnability"])
    ('alignment+group', 'learnability')
    """
    # The rules stand from the dearest to the cheapest: the first two train a network beside two proxies.
    rules = list(ScoringRule)
    return min(kinds, key=lambda kind: (rules.index(RATERS[kind]["rule"]), "group_weight" not in RATERS[kind]))


def state_cost(
    config: TrialsConfig, work: Work, model: DownstreamConfig, *, rater: str, existing: Work = NO_WORK
) -> dict[str, Any]:
    """Time a step of the model and of the rater on this machine, and multiply.

    Args:
        config: Recipes.
        work: Number of models, raters and steps.
        model: The downstream model.
        rater: Kind of rater whose step is timed: of several the dearest.
        existing: The part of the work that is known to be done; its time is left out.
    """
    timing = StepTimingConfig(model=model, rater=config.training_of(rater, 0))
    timed = execute("time_steps", timing, lambda stage_run: time_steps(timing, stage_run), StepTimingResult)
    model_s, rater_s = timed.model_s, timed.rater_s
    return {
        "n_models": work.n_models, "n_raters": work.n_raters, "n_model_steps": work.n_model_steps, "n_rater_steps": work.n_rater_steps,
        "seconds_a_model_step": round(model_s, 5), "seconds_a_rater_step": round(rater_s, 5),
        "n_existing_models": existing.n_models,
        "seconds": round((work.n_model_steps - existing.n_model_steps) * model_s + work.n_rater_steps * rater_s, 1),
    }  # fmt: skip


def time_steps(config: StepTimingConfig, stage_run: StageRun) -> StepTimingResult:
    """Time a few real steps, in a run of its own because it uses a device."""
    hold_device(stage_run)
    from alchemist_core.training.step_timing import seconds_a_step  # noqa: PLC0415  torch only when something is timed

    model_s, rater_s = seconds_a_step(config.model, config.rater)
    return StepTimingResult(model_s=model_s, rater_s=rater_s)


def describe_cost(cost: dict[str, Any]) -> str:
    """Describe the cost in one sentence.

    >>> models = {"n_models": 2, "n_model_steps": 600, "seconds_a_model_step": 0.03, "n_raters": 0, "seconds": 18.0}
    >>> describe_cost(models).partition(" plus")[0]
    'At most 2 models of 600 steps together at 30.0 ms (measured now): 18 seconds of training'
    """
    work = [
        f"{counted(cost[f'n_{kind}s'], kind)} of {cost[f'n_{kind}_steps']:,} steps together at "
        f"{cost[f'seconds_a_{kind}_step'] * 1e3:.1f} ms"
        for kind in ("model", "rater")
        if cost[f"n_{kind}s"]
    ]
    seconds = cost["seconds"]
    length = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    n_existing = cost.get("n_existing_models", 0)
    existing = f" {n_existing:,} of these models exist and are left out of this time." if n_existing else ""
    return (
        f"At most {' and '.join(work)} (measured now): {length} of training plus reading and scoring.{existing} "
        "Further models may exist, also those of other experiments: they are not trained again."
    )


def _rater_steps(config: TrialsConfig, kind: str) -> int:
    training = config.training_of(kind, 0)
    return training.proxy_warmup_steps + training.max_train_steps
