"""Tune a selection: fit the rank window of strategy auto, or search for the best of several recipes, each against a random subset."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from alchemist_core.config import Command, Config, Formerly, Result, Seeds, Words
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost
from alchemist_core.experiments.arms import Arm, parse_arm
from alchemist_core.experiments.config import Ratio, Ratios, TrialsConfig
from alchemist_core.experiments.halving import HalvingPlan, afford_recipes, plan_halving
from alchemist_core.experiments.recipes import BALANCED, RECIPES, RecipeSearch, flags_of, write_recipe
from alchemist_core.experiments.results import RANDOM
from alchemist_core.experiments.trial import (
    create_for_scenes,
    require_evaluation,
    warn_of_shared_evaluation,
    warn_of_unread_sections,
)
from alchemist_core.experiments.tuning import Tuning, TuningPlan
from alchemist_core.rating.config import ScoringRule
from alchemist_core.report.arm_names import arm_title
from alchemist_core.store.engine import open_store
from alchemist_core.store.rank_windows import list_windows
from alchemist_core.store.raters import find_rater
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig


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
            or "No rank windows. Fit one: alchemist tune-selection run --rater NAME --dataset NAME --evaluation NAME"
        )


def _refuse_auto(given: object) -> object:
    """Refuse the word of `alchemist select`: every recipe of a search is compared at the same number of steps."""
    if given == "auto":
        raise ValueError(
            "recipes are compared at one retention: give a fraction, and let a recipe repeat what it accepts "
            "(--recipes 'RATER/head_gsample;accept=auto;fill=repeat')"
        )
    return given


class SearchConfig(TrialsConfig):
    """Which recipes, at which retention, on which seeds."""

    recipes: Words = Field(
        RECIPES,
        min_length=1,
        description="Recipes, separated by commas, as the arms of alchemist experiment run: RATER/STRATEGY, RATER+SCORE/STRATEGY for the "
        "mean of the ranks by both, SCORE/STRATEGY; ;OPTION=VALUE sets options of alchemist select. With the default recipes, a small "
        "--budget compares the first of them",
    )
    name: str = Field("recipe", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="Name of the result's file")
    retention: Annotated[Ratio, BeforeValidator(_refuse_auto)] = Field(
        0.5,
        description="Fraction of the eligible samples to keep, such as 0.5 or 50%; a recipe with accept=auto;fill=repeat takes the "
        "accepted ones among them",
    )
    seeds: Seeds = Field(
        (0, 1, 2, 3),
        min_length=1,
        description="Seeds that choose the recipe, separated by commas; a small budget uses the first of them",
    )
    confirmation_seeds: Seeds = Field(
        (4, 5, 6, 7),
        min_length=2,
        description="Other seeds, on which the chosen recipe is compared with a random subset: the promised gain is that of these seeds",
    )
    budget: int | None = Field(
        None,
        ge=1,
        description="Largest number of models to train, without the raters; a smaller one searches with fewer seeds; none: no bound",
    )
    num_train_epochs: int = Field(10, ge=1, le=10_000, description="Epochs of each model")
    dry_run: bool = Field(False, description="Only print the plan and the cost")


class SearchResult(Result):
    """The recipe to select with, and its gain."""

    cost: dict[str, Any]
    n_trainings: int
    # Recipes and seeds of each round.
    rounds: list[tuple[int, int]]
    recipes: list[str] = Field(default_factory=list)
    recipe: dict[str, Any] | None = None
    select: str | None = None
    file: str | None = None

    def summary(self) -> str:
        """Return the plan, the decision, and the options of the selection."""
        rounds = ", ".join(
            f"{n_recipes} recipes on {n_seeds} seed{'s' if n_seeds > 1 else ''}" for n_recipes, n_seeds in self.rounds
        )
        plan = f"{self.n_trainings} models at most: {rounds}; then the best on the seeds that confirm it."
        if self.recipe is None:
            return f"{plan}\nNothing was trained (--dry-run)."
        needs = "".join(f"\n  needs {need}" for need in self.recipe["needs"])
        return f"{plan}\n{self.recipe['said']}\nSelect with: {self.select}{needs}\nfile: {self.file}"


def search(config: SearchConfig) -> SearchResult:
    """Search for the best recipe: halve the recipes, double the seeds, and compare the winner with a random subset on other seeds."""
    recipes, plan = _plan_search(config)
    create_for_scenes(config)
    require_evaluation(config, (*config.seeds, *config.confirmation_seeds))
    warn_of_shared_evaluation(config, config.seeds, config.confirmation_seeds)
    warn_of_unread_sections(config)
    model = config.model_of(num_train_epochs=config.num_train_epochs)
    searching = RecipeSearch(config, recipes, config.retention, model)
    stated = _state_search(config, plan, searching, model)
    say(cost.describe_cost(stated))
    planned = {
        "cost": stated, "n_trainings": plan.n_trainings * config.trainings, "rounds": list(plan.rounds), "recipes": list(recipes),
    }  # fmt: skip
    if config.dry_run:
        return SearchResult(**planned)
    found = searching.run(plan)
    return SearchResult(
        **planned, recipe=found.as_json(), select=f"alchemist select {flags_of(found.options)}",
        file=write_recipe(config.name, found),
    )  # fmt: skip


def _plan_search(config: SearchConfig) -> tuple[tuple[str, ...], HalvingPlan]:
    """Return the recipes, of the default ones as many as the budget can compare, and the plan.

    The budget counts models: each of several trainings of a recipe is one.
    """
    recipes = tuple(config.recipes)
    if RANDOM in recipes:
        raise ConfigError(f"Every recipe is compared with {RANDOM} anyway: omit it from --recipes.")
    if repeated := sorted({word for word in recipes if recipes.count(word) > 1}):
        raise ConfigError(f"Repeated in --recipes: {', '.join(map(arm_title, repeated))}. Give each recipe once.")
    for word in recipes:
        _require_selection(parse_arm(word, retention=config.retention))
    if config.budget is not None and recipes == RECIPES:
        budget = config.budget // config.trainings
        recipes = recipes[: afford_recipes(recipes, config.seeds, config.confirmation_seeds, budget, BALANCED)]
    plan = plan_halving(
        len(recipes), config.seeds, config.confirmation_seeds, budget=config.budget, trainings=config.trainings,
        has_fallback=BALANCED in recipes,
    )  # fmt: skip
    if left_out := config.recipes[len(recipes) :]:
        say(f"--budget {config.budget} compares {len(recipes)} recipes; it leaves out: {', '.join(left_out)}.")
    return recipes, plan


def _require_selection(arm: Arm) -> None:
    """Refuse a recipe whose gain no selection has.

    Raises:
        ConfigError: It is a control, or trains on the validation dataset, too.
    """
    if arm.trains != "subset":
        raise ConfigError(
            f"Recipe {arm_title(arm.word)} does not train on a selection alone, so no options of alchemist select have its gain. Omit it, "
            "or compare it by alchemist experiment run --arms."
        )


def _state_search(
    config: SearchConfig, plan: HalvingPlan, searching: RecipeSearch, model: DownstreamConfig
) -> dict[str, Any]:
    """Time the models of the plan, and the raters of every seed."""
    n_pairs = cost.count_pairs(config, plan.search_seeds[0])
    n_models = plan.n_trainings * config.trainings
    raters = cost.work_of_cells(config, searching.arms, (model,), n_pairs)
    n_seeds = len(plan.search_seeds) + len(plan.confirmation_seeds)
    rankings = cost.work_of_loss_rankings(config, searching.arms, (model,), plan.search_seeds[0])
    work = rankings.times(n_seeds) + cost.Work(
        n_models, n_models * model.steps(round(config.retention * n_pairs)), raters.n_raters * n_seeds, raters.n_rater_steps * n_seeds
    )  # fmt: skip
    rater = cost.dearest_rater(kind for arm, _ in searching.arms for kind in arm.raters)
    return cost.state_cost(config, work, model, rater=rater)


def run(config: RunConfig) -> RunResult:
    """Find the best rank window: train models on bands of ranks and on random subsets, fit a curve to their losses, and test its window."""
    create_for_scenes(config)
    plan = TuningPlan(
        _kind(config), config.n_bands, config.seeds, config.model_of(num_train_epochs=config.num_train_epochs)
    )
    require_evaluation(config, config.seeds)
    warn_of_shared_evaluation(config, config.seeds, config.seeds)
    warn_of_unread_sections(config)
    stated = _state_cost(config, plan)
    say(cost.describe_cost(stated))
    if config.dry_run:
        return RunResult(cost=stated)
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


COMMANDS = {"run": Command(RunConfig, run), "search": Command(SearchConfig, search), "list": Command(ListConfig, list_)}
