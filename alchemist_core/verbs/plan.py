"""Say what is to be done, and in how many worker slots, before anything is spent."""

from collections.abc import Sequence
from datetime import date

from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.command import Command
from alchemist_core.config import Config, Integers, Report, Words
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import evaluation_dataset, heldout_contract
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.store.engine import open_store
from alchemist_core.store.ledger import count_unscored
from alchemist_core.store.models import find_contract, models_to_compare, read_evaluations
from alchemist_core.store.pairs import read_training_pairs
from alchemist_core.store.raters import find_rater
from alchemist_core.store.subsets import SubsetRow, list_subsets, rater_of_subset
from alchemist_core.store.tables import AnyRow


class PlanScoreConfig(Config):
    """What would be scored."""

    dataset: str | None = Field(None, description="Dataset; none: every registered training dataset")
    crawl_date: date | None = Field(None, description="Crawl date (YYYY-MM-DD); none: all that are unscored")
    rater: str = Field("production", description="Rater by name, or production, or newest")


class PlanScoreReport(Report):
    """Work ahead. `slots` is never empty: mapping over nothing would skip every task behind it."""

    slots: list[int]
    rater: str | None
    n_shards: int
    n_samples: int


class PlanEvaluateConfig(Config):
    """What would be evaluated."""

    evaluation: str | None = Field(None, description="Evaluation dataset; none: the only registered one")
    arms: Words = Field(("subset", "random"), description="Arms that must have a value, comma between them")
    seeds: Integers = Field((0,), description="Seeds that must have a value, comma between them")


class PlanEvaluateReport(Report):
    """Published subsets that no evaluation exists for."""

    subsets: list[str]


def plan_score(config: PlanScoreConfig) -> PlanScoreReport:
    """Count the shards and pairs that the rater has not scored."""
    engine = open_store()
    rater = find_rater(engine, config.rater)
    if rater is None:
        return PlanScoreReport(slots=[0], rater=None, n_shards=0, n_samples=0)
    scope = scoring_scope(engine, rater, dataset=config.dataset, crawl_date=config.crawl_date)
    n_shards, n_samples = count_unscored(engine, scope)
    n_slots = max(1, min(load_settings().score_slots, n_shards))
    return PlanScoreReport(slots=list(range(n_slots)), rater=rater.name, n_shards=n_shards, n_samples=n_samples)


def plan_evaluate(config: PlanEvaluateConfig) -> PlanEvaluateReport:
    """List the published subsets that lack a value of any arm and seed under the current contract."""
    engine = open_store()
    rows = read_training_pairs(engine, evaluation_dataset(engine, config.evaluation).dataset_id)
    wanted = {(arm, seed) for arm in config.arms for seed in config.seeds}
    return PlanEvaluateReport(
        subsets=[
            subset.name
            for subset in list_subsets(engine, state="published")
            if wanted - _evaluated(engine, subset, rows)
        ]
    )


def _evaluated(engine: Engine, subset: SubsetRow, rows: Sequence[AnyRow]) -> set[tuple[str, int]]:
    rater = rater_of_subset(engine, subset)
    contract_id = find_contract(engine, heldout_contract(rater, rows))
    if contract_id is None:
        return set()
    model_ids = [model.model_id for model in models_to_compare(engine, subset.subset_id, rater.name)]
    return {(row.arm, row.seed) for row in read_evaluations(engine, model_ids, contract_id)}


COMMANDS = {"score": Command(PlanScoreConfig, plan_score), "evaluate": Command(PlanEvaluateConfig, plan_evaluate)}
