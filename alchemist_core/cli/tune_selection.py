"""Tune the rank window of strategy auto: train on rank bands, fit the window, and compare it with a random subset."""

from typing import Annotated, Any

from pydantic import Field

from alchemist_core.config import Command, Config, Formerly, Result, Seeds
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost
from alchemist_core.experiments.config import Ratios, TrialsConfig
from alchemist_core.experiments.trial import require_evaluation
from alchemist_core.experiments.tuning import Tuning, TuningPlan
from alchemist_core.rating.config import ScoringRule
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.raters import find_rater, list_windows
from alchemist_core.telemetry import say


class RunConfig(TrialsConfig):
    """Which raters and which seeds."""

    rule: Annotated[ScoringRule, Formerly("kind")] = Field(
        ScoringRule.ALIGNMENT,
        description="Scoring rule of the raters that are trained for each seed",
    )
    retentions: Ratios = Field((0.2, 0.5), description="Retentions to fit a rank window for, separated by commas")
    seeds: Seeds = Field(
        (0, 1, 2, 3),
        min_length=1,
        description="Seeds, separated by commas; each compares the window fitted on the other seeds with a random subset",
    )
    n_bands: int = Field(5, ge=2, le=20, description="Number of rank bands; one model is trained on each")
    num_train_epochs: Annotated[int, Formerly("n_epochs")] = Field(
        10, ge=1, le=10_000, description="Epochs of each small model"
    )
    dry_run: bool = Field(False, description="Only print the cost")


class RunResult(Result):
    """The rank window of each retention, and its gain."""

    cost: dict[str, Any]
    rank_windows: list[dict[str, Any]] = Field(default_factory=list)
    said: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return a line for each retention."""
        return "\n".join(self.said) or "Nothing was trained (--dry-run)."


class ListConfig(Config):
    """No options."""


class ListResult(Result):
    """All stored rank windows."""

    rank_windows: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each rank window."""
        return (
            "\n".join(f"{row['rater']}: {row['said']}" for row in self.rank_windows)
            or "No rank windows. Fit one: alchemist tune-selection run"
        )


def run(config: RunConfig) -> RunResult:
    """Find the best rank window: train models on bands of ranks and on random subsets, fit a curve to their losses, and test its window."""
    plan = TuningPlan(
        _kind(config), config.n_bands, config.seeds, config.model_of(num_train_epochs=config.num_train_epochs)
    )
    require_evaluation(config, config.seeds)
    stated = _state_cost(config, plan)
    say(cost.describe_cost(stated))
    if config.dry_run:
        return RunResult(cost=stated)
    if config.dataset is None:
        create_store()
    found = Tuning(config, plan).run(config.retentions)
    return RunResult(
        cost=stated,
        rank_windows=[tuned.as_json() for tuned in found],
        said=[tuned.fitted.describe() for tuned in found],
    )


def list_(_config: ListConfig) -> ListResult:
    """List the fitted rank windows, newest first."""
    rows = [
        {
            "rater": name, "retention": row.measurements["retention"], "drop_top_ratio": row.drop_top_ratio,
            "mean_rank": row.mean_rank, "std_rank": row.std_rank, "gain": row.gain, "gain_low": row.gain_low,
            "gain_high": row.gain_high, "said": row.fitted.describe(),
        }
        for name, row in list_windows(open_store())
    ]  # fmt: skip
    return ListResult(rank_windows=rows)


def _kind(config: RunConfig) -> str:
    """Return the scoring rule: that of the given rater, if there is one."""
    if config.rater is None:
        return config.rule
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise ConfigError(f"There is no rater {config.rater}. Train and promote one, or omit --rater.")
    return rater.rule


def _state_cost(config: RunConfig, plan: TuningPlan) -> dict[str, Any]:
    n_pairs = cost.count_pairs(config, config.seeds[0])
    work = cost.work_of_cells(config, plan.arms(config.retentions), (plan.model,), n_pairs).times(len(config.seeds))
    return cost.state_cost(config, work, plan.model, rater=plan.kind)


COMMANDS = {"run": Command(RunConfig, run), "list": Command(ListConfig, list_)}
