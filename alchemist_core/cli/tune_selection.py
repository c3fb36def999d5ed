"""Find which ranks are worth training on: train on bands, fit the region that strategy auto draws by, try it against random."""

from typing import Any

from pydantic import Field

from alchemist_core.config import Command, Config, Report, Seeds
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost
from alchemist_core.experiments.config import Ratios, TrialsConfig
from alchemist_core.experiments.probing import Probe, ProbePlan
from alchemist_core.experiments.trial import require_evaluation
from alchemist_core.store.engine import create_store, open_store
from alchemist_core.store.raters import find_rater, list_regions
from alchemist_core.telemetry import say


class RunConfig(TrialsConfig):
    """Whose ranking, on which seeds."""

    kind: str = Field(
        "alignment", description="Kind of the raters that are trained for every seed: alignment, loss or learnability"
    )
    retentions: Ratios = Field((0.2, 0.5), description="Shares kept that a region is fitted for, comma between them")
    seeds: Seeds = Field(
        (0, 1, 2, 3),
        min_length=1,
        description="Seeds on which the region is fitted; each tries the one that the others choose against random",
    )
    n_bands: int = Field(5, ge=2, le=20, description="Bands of rank, each trained on alone")
    n_epochs: int = Field(10, ge=1, le=10_000, description="Passes of every small model over its pairs")
    dry_run: bool = Field(False, description="Only say what it would cost")


class RunReport(Report):
    """Each retention's region, and what it gained."""

    cost: dict[str, Any]
    regions: list[dict[str, Any]] = Field(default_factory=list)
    said: list[str] = Field(default_factory=list)

    def summary(self) -> str:
        """Return a line a retention."""
        return "\n".join(self.said) or "nothing was trained (--dry-run)"


class ListConfig(Config):
    """Nothing to choose."""


class ListReport(Report):
    """Every stored region."""

    regions: list[dict[str, Any]]

    def summary(self) -> str:
        """Return one line a probe."""
        return "\n".join(f"{row['rater']}: {row['said']}" for row in self.regions) or "no region was probed yet"


def run(config: RunConfig) -> RunReport:
    """Train on bands of ranks and at random, fit the region, try it; what was trained is found again, so a killed probe goes on."""
    plan = ProbePlan(_kind(config), config.n_bands, config.seeds, config.model_of(n_epochs=config.n_epochs))
    require_evaluation(config, config.seeds)
    stated = _state_cost(config, plan)
    say(cost.describe_cost(stated))
    if config.dry_run:
        return RunReport(cost=stated)
    if config.dataset is None:
        create_store()
    found = Probe(config, plan).run(config.retentions)
    return RunReport(
        cost=stated, regions=[probed.as_json() for probed in found], said=[probed.fitted.describe() for probed in found]
    )


def list_(_config: ListConfig) -> ListReport:
    """List the regions that were fitted, the newest first."""
    rows = [
        {
            "rater": name, "retention": row.measurements["retention"], "drop_top_ratio": row.drop_top_ratio,
            "mean_rank": row.mean_rank, "std_rank": row.std_rank, "gain": row.gain, "gain_low": row.gain_low,
            "gain_high": row.gain_high, "said": row.fitted.describe(),
        }
        for name, row in list_regions(open_store())
    ]  # fmt: skip
    return ListReport(regions=rows)


def _kind(config: RunConfig) -> str:
    """Return the rater's own rule where one rater is named."""
    if config.rater is None:
        return config.kind
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise ConfigError(f"--rater {config.rater}: there is none. Train and promote one, or leave it out.")
    return rater.rule


def _state_cost(config: RunConfig, plan: ProbePlan) -> dict[str, Any]:
    n_pairs = cost.count_pairs(config, config.seeds[0])
    work = cost.work_of_cells(config, plan.arms(config.retentions), (plan.model,), n_pairs).times(len(config.seeds))
    return cost.state_cost(config, work, plan.model, rater=plan.kind)


COMMANDS = {"run": Command(RunConfig, run), "list": Command(ListConfig, list_)}
