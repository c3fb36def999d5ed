"""An experiment: prints its cost and the smallest detectable gain, fits the rank windows of `auto`, then measures every cell.

A cell is one arm at one retention and length. The stages run it and reuse finished runs, so a killed experiment resumes where it stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from alchemist_core.config import Formerly, Seeds, Words, counted
from alchemist_core.errors import TrainingCollapsedError
from alchemist_core.experiments import cost
from alchemist_core.experiments.arms import DEFAULT_RATER, QUESTIONS, RATERS, Arm, first_rater, parse_arm
from alchemist_core.experiments.config import Multiples, Ratios, TrialsConfig, for_seed
from alchemist_core.experiments.existing import count_existing
from alchemist_core.experiments.method_scores import methods_among
from alchemist_core.experiments.results import RANDOM, describe_detectable, state_detectable
from alchemist_core.experiments.scores import find_sources
from alchemist_core.experiments.trial import (
    Cell,
    Trial,
    measure_cell,
    named_rule,
    require_arms,
    require_evaluation,
    warn_of_shared_evaluation,
    warn_of_unread_sections,
)
from alchemist_core.experiments.tuning import TunedWindow, Tuning, TuningPlan
from alchemist_core.rating.config import ScoringRule
from alchemist_core.report.arm_names import arm_title, stored_arm
from alchemist_core.selection.config import strategy_spec
from alchemist_core.store.raters import RaterRow
from alchemist_core.telemetry import say, warn
from alchemist_core.training.config import DownstreamConfig

Named = Literal["retention_sweep", "methods", "ablation", "pruning_rules", "training_time", "datasets", "rank_window"]


class RunConfig(TrialsConfig):
    """Arms to compare, and their seeds."""

    experiment: Annotated[Named, Formerly(values={"rank_window": "region"})] = Field(
        ..., description="Question: " + "; ".join(f"{k}: {q.title}" for k, q in QUESTIONS.items())
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
        description="Name of the result; default: the experiment's own",
    )
    arms: Words = Field(
        (),
        description="Arms, separated by commas: [rater/]strategy, such as random, loss/top_k, clarity, oracle; or score/strategy with "
        "the name of a scorer's score or of imported scores, such as clip_score/top_k; validation: the validation dataset alone; an arm "
        "with +validation: both together, for as many steps; default: those of --experiment",
    )
    retentions: Ratios = Field((), description="Retentions, 0-1, separated by commas; default: those of --experiment")
    tuning_seeds: Annotated[Seeds, Formerly("choose_seeds")] = Field(
        (0, 1, 2, 3), description="Seeds on which the rank window of strategy auto is fitted; they are not reported"
    )
    seeds: Seeds = Field(
        (4, 5, 6, 7, 8),
        min_length=1,
        description="Seeds on which the arms are compared, separated by commas; each adds one training for each arm",
    )
    num_train_epochs: Annotated[int, Formerly("n_epochs")] = Field(
        10, ge=1, le=10_000, description="Number of passes of every arm over its own training samples"
    )
    budget_multiples: Annotated[Multiples, Formerly("lengths")] = Field(
        (),
        description="Train every arm also for other lengths: factors of --num-train-epochs, such as 0.5,1,2, separated by commas; the "
        "products must be whole; default: those of --experiment",
    )
    budget: Annotated[Literal["epochs", "steps"], Formerly("length")] = Field(
        "epochs",
        description="Training length that all arms share. epochs: every arm makes the same number of passes over its own "
        "samples. steps: every arm makes as many steps as training on the full corpus",
    )
    n_bands: int = Field(5, ge=2, le=20, description="Number of rank bands; tune-selection trains one model on each")
    tuning_epochs: Annotated[int, Formerly("probe_epochs")] = Field(
        10,
        ge=1,
        le=10_000,
        description="Epochs of the small models of tune-selection, independent of --num-train-epochs",
    )
    dry_run: bool = Field(False, description="Print the cost and the smallest detectable gain, and train nothing")

    @model_validator(mode="after")
    def _seeds_are_kept_apart(self) -> "RunConfig":
        both = set(self.tuning_seeds) & set(self.seeds)
        # Without an arm whose rank window is fitted, the tuning seeds are not used.
        if both and any(arm.is_auto for arm, _ in self.cells()):
            message = f"seeds {sorted(both)} are in both --tuning-seeds and --seeds: give each seed to one of the two"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _lengths_are_trained(self) -> "RunConfig":
        """Refuse lengths that no model would have: epochs are whole, and a number of steps is the same for every length."""
        lengths = self.question_lengths
        epochs = {length: round(self.num_train_epochs * length, 9) for length in lengths}
        if broken := [
            f"{length:g} × {self.num_train_epochs} = {n:g}" for length, n in epochs.items() if n % 1 or n < 1
        ]:
            message = (
                f"epochs are whole, but budget_multiples × num_train_epochs is {', '.join(broken)}: give --budget-multiples and "
                "--num-train-epochs whose products are whole"
            )
            raise ValueError(message)
        if len(lengths) > 1 and (steps := [word for word in self.model if word.partition("=")[0] == "max_train_steps"]):
            all_of_them = ", ".join(f"{length:g}" for length in lengths)
            message = f"--model {steps[0]} would train all lengths ({all_of_them}) for as many steps: omit it, and give --num-train-epochs"
            raise ValueError(message)
        return self

    @property
    def question_arms(self) -> tuple[str, ...]:
        """The arms: those given, else the question's."""
        return tuple(map(stored_arm, self.arms)) or QUESTIONS[self.experiment].arms

    @property
    def question_retentions(self) -> tuple[float, ...]:
        """The retentions: those given, else the question's."""
        return self.retentions or QUESTIONS[self.experiment].retentions

    @property
    def question_lengths(self) -> tuple[float, ...]:
        """The lengths: those given, else the question's."""
        return self.budget_multiples or QUESTIONS[self.experiment].lengths

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the result; a stored name belongs to one identity."""
        given = self.model_dump(mode="json", exclude={"name", "dry_run"})
        resolved = {
            "arms": self.question_arms,
            "retentions": self.question_retentions,
            "budget_multiples": self.question_lengths,
        }
        return {**given, **{name: list(values) for name, values in resolved.items()}}

    def cells(self, default_rater: str = DEFAULT_RATER) -> list[tuple[Arm, float]]:
        """Return every arm at every retention, the full corpus once.

        Args:
            default_rater: Kind of rater that arms without ranks use if no arm names one.
        """
        first = first_rater(self.question_arms, default_rater)
        found: list[tuple[Arm, float]] = []
        for retention in self.question_retentions:
            arms = [parse_arm(word, retention=retention, first_rater=first) for word in self.question_arms]
            found += [(arm, retention) for arm in arms if arm.is_sized or retention == self.question_retentions[0]]
        return found


class LeftOut(NamedTuple):
    """An arm that has no loss under a seed, because a rater that it needs has collapsed."""

    arm: str
    retention: float
    seed: int
    reason: str


class Experiment:
    """A running experiment."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.arms = config.cells(named_rule(config) or DEFAULT_RATER)
        self.scores = tuple(dict.fromkeys(score for arm, _ in self.arms for score in arm.scores))
        # Without an arm whose rank window is fitted, the tuning seeds are not used.
        choosing = config.tuning_seeds if self.auto_kinds() else ()
        require_evaluation(config, (*choosing, *config.seeds))
        if choosing:
            warn_of_shared_evaluation(config, choosing, config.seeds)
        warn_of_unread_sections(config)
        require_arms(config, (arm for arm, _ in self.arms))
        self.n_pairs = cost.count_pairs(config, config.seeds[0])
        if others := set(self.scores) - {*methods_among(self.scores), *RATERS}:
            dataset = None if config.dataset is None else for_seed(config.dataset, config.seeds[0])
            find_sources(sorted(others), dataset)
        self.tuned: dict[tuple[str, float], TunedWindow] = {}
        self.left_out: list[LeftOut] = []

    def models(self) -> list[DownstreamConfig]:
        """Return the training config of the arms, for each length."""
        return [self._model(length) for length in self.config.question_lengths]

    def _model(self, length: float) -> DownstreamConfig:
        model = self.config.model_of(num_train_epochs=round(self.config.num_train_epochs * length))
        if self.config.budget == "epochs":
            return model
        return model.model_copy(update={"max_train_steps": model.steps(self.n_pairs)})

    def describe_plan(self) -> str:
        """Describe in one sentence what is compared, and on which seeds."""
        config = self.config
        retentions = ", ".join(f"{retention:.0%}" for retention in config.question_retentions)
        tuning = f"; rank windows are tuned on seeds {_listed(config.tuning_seeds)}" if self.auto_kinds() else ""
        arms = f"{counted(len(config.question_arms), 'arm')} at a retention of {retentions}"
        return f"{arms}, compared on seeds {_listed(config.seeds)}{tuning}."

    def state_cost(self) -> dict[str, Any]:
        """Count and time the work."""
        config = self.config
        work = cost.work_of_cells(config, self.arms, self.models(), self.n_pairs)
        work += cost.work_of_loss_rankings(config, self.arms, self.models(), config.seeds[0])
        work = work.times(len(config.seeds))
        for kind in self.auto_kinds():
            plan = self._tuning(kind).plan
            arms = plan.arms(self._auto_retentions(kind))
            work += cost.work_of_cells(config, arms, (plan.model,), self.n_pairs).times(len(config.tuning_seeds))
        rater = cost.dearest_rater(self._kinds())
        return cost.state_cost(config, work, self._model(1.0), rater=rater, existing=self._existing_work())

    def _existing_work(self) -> cost.Work:
        """Return the work that is done: models of the reported seeds, without those whose rank window is yet to be fitted."""
        found = cost.NO_WORK
        kinds = self.auto_kinds()
        for seed in self.config.seeds:
            trial = Trial(self.config, seed, self._kinds())
            for length, (arm, retention) in product(self.config.question_lengths, self.arms):
                if arm.is_auto and arm.rater in kinds:
                    continue
                policy, model = arm.resolve(self._auto_policy(arm.rater, retention)), self._model(length)
                n_models = count_existing(trial, arm, policy, retention=retention, model=model)
                n_steps = model.steps(round((retention if arm.is_sized else 1.0) * self.n_pairs))
                found += cost.Work(n_models, n_models * n_steps, 0, 0)
        return found

    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for arm, _ in self.arms for kind in arm.raters))

    def auto_kinds(self) -> list[str]:
        """Return the kinds of raters whose rank window has to be fitted."""
        kinds = dict.fromkeys(arm.rater for arm, _ in self.arms if arm.is_auto)
        return list(kinds) if self.config.tuning_seeds else []

    def fit_windows(self) -> None:
        """Fit the rank window of every `auto` arm on the tuning seeds."""
        for kind in self.auto_kinds():
            retentions = self._auto_retentions(kind)
            for retention, tuned in zip(retentions, self._tuning(kind).run(retentions), strict=True):
                self.tuned[kind, retention] = tuned
        for arm, retention in self.arms:
            auto = self._auto_policy(arm.rater, retention)
            if unused := arm.unused_options(auto):
                warn(
                    f"Arm {arm_title(arm.word)} at {retention:.0%}: the tuned rank window is of strategy {auto['strategy']}, which does "
                    f"not use {', '.join(unused)}, so the arm is selected without. To select by them, name a strategy in place of auto."
                )

    def _auto_retentions(self, kind: str) -> list[float]:
        # Once, although an arm and the same with validation data share the window.
        return list(dict.fromkeys(of for arm, of in self.arms if arm.is_auto and arm.rater == kind))

    def windows(self) -> list[dict[str, Any]]:
        """Return the fitted rank windows, for the store."""
        return [{"rater": kind, **tuned.as_json()} for (kind, _), tuned in self.tuned.items()]

    def state_beforehand(self) -> dict[str, Any]:
        """Return the smallest gain that the reported seeds can show, from the spread over the tuning seeds."""
        spread = next((tuned.spread for tuned in self.tuned.values() if tuned.spread is not None), None)
        source = f"seeds {_listed(self.config.tuning_seeds)}" if spread is not None else "not measured"
        before = state_detectable(spread, len(self.config.seeds), source=source)
        say(describe_detectable(before))
        return before

    def measure(self, on_cells: Callable[[list[Cell], int], None] = lambda _cells, _n_total: None) -> list[Cell]:
        """Measure every cell of every reported seed.

        Args:
            on_cells: Called after each cell with all cells so far and the number that there will be.
        """
        cells: list[Cell] = []
        n_lengths = len(self.config.question_lengths)
        for seed in self.config.seeds:
            for cell in self._measure_seed(seed):
                cells.append(cell)
                n_total = (len(self.arms) * len(self.config.seeds) - len(self.left_out)) * n_lengths
                on_cells(cells, n_total)
                say(
                    f"{len(cells)}/{n_total} seed {seed}: {arm_title(cell.arm)} at {cell.retention:.0%}: loss {cell.loss:.4f}"
                )
        return cells

    def _measure_seed(self, seed: int) -> Iterator[Cell]:
        trial = Trial(self.config, seed, self._kinds())
        trial.prepare()
        raters = self._train_raters(trial)
        arms = [(arm, retention) for arm, retention in self.arms if raters.keys() >= {*arm.raters}]
        scores = dict.fromkeys(score for arm, _ in arms for score in arm.scores)
        # Method rho_batches reads a rater of rule learnability, which its arm needs; the others read none.
        trial.score_by(list(scores), raters.get(ScoringRule.LEARNABILITY, raters[arms[0][0].rater]))
        for length, (arm, retention) in product(self.config.question_lengths, arms):
            policy, model = arm.resolve(self._auto_policy(arm.rater, retention)), self._model(length)
            # The stages name the subset of the arm, not the arm.
            say(f"seed {seed}: {arm_title(arm.word)} at {retention:.0%}")
            cell = measure_cell(trial, arm, policy, raters[arm.rater], retention=retention, model=model)
            yield replace(cell, length=length)

    def _train_raters(self, trial: Trial) -> dict[str, RaterRow]:
        """Return the raters of a seed by kind.

        Raises:
            TrainingCollapsedError: The rater of arm random, or raters of all arms. Another one costs only the arms that need it.
        """
        raters = {}
        left: dict[tuple[str, float], LeftOut] = {}
        for kind in self._kinds():
            needing = [(arm, retention) for arm, retention in self.arms if kind in arm.raters]
            try:
                raters[kind] = trial.rater(kind)
            except TrainingCollapsedError as error:
                for arm, retention in needing:
                    left.setdefault((arm.word, retention), LeftOut(arm.word, retention, trial.seed, str(error)))
                if len(left) == len(self.arms) or any(arm.word == RANDOM for arm, _ in needing):
                    raise
                words = ", ".join(dict.fromkeys(arm_title(arm.word) for arm, _ in needing))
                warn(
                    f"Seed {trial.seed} continues without {words}, because the rater of kind {kind} has collapsed: {error}"
                )
        self.left_out += left.values()
        return raters

    def _auto_policy(self, kind: str, retention: float) -> dict[str, Any]:
        if (kind, retention) in self.tuned:
            return strategy_spec(self.tuned[kind, retention].fitted.strategy)
        rule = self.config.training_of(kind, 0).rule
        return {"strategy": rule.strategy}

    def _tuning(self, kind: str) -> Tuning:
        # Only the tuning seeds decide whether `auto` uses a rank window, never the reported seeds.
        small = self.config.model_of(num_train_epochs=self.config.tuning_epochs)
        plan = TuningPlan(kind, self.config.n_bands, self.config.tuning_seeds, small)
        # A comparison leaves what production selects as it is.
        return Tuning(self.config, plan, should_store=False)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
