"""Datasets and crawl dates that a scoring command covers, and whether a night is completely scored."""

from datetime import date

from sqlalchemy import Engine

from alchemist_core.config import counted
from alchemist_core.errors import CheckFailedError
from alchemist_core.store.ledger import ScoringScope, count_unscored
from alchemist_core.store.nights import NightRow, night_options, night_title
from alchemist_core.store.raters import RaterRow, rater_option
from alchemist_core.store.registry import DatasetRow, find_dataset, list_datasets


def scoring_scope(engine: Engine, rater: RaterRow, *, dataset: str | None, crawl_date: date | None) -> ScoringScope:
    """Return the named dataset, or every registered training dataset, under a rater."""
    rows = datasets_in_scope(engine, dataset)
    return ScoringScope(rater.rater_id, tuple(row.dataset_id for row in rows), crawl_date)


def datasets_in_scope(engine: Engine, dataset: str | None) -> list[DatasetRow]:
    """Return the named dataset, or every registered training dataset."""
    return list_datasets(engine, role="train") if dataset is None else [find_dataset(engine, dataset)]


def require_complete(engine: Engine, night: NightRow, rater: RaterRow) -> None:
    """Require that all shards of a night are scored.

    Raises:
        CheckFailedError: Some shards are unscored.
    """
    n_left, _ = count_unscored(engine, ScoringScope(rater.rater_id, (night.dataset_id,), night.crawl_date))
    if n_left:
        raise CheckFailedError(
            f"Night {night_title(night)} is not complete: {counted(n_left, 'shard')} without scores of rater {rater.name}. "
            f"Run alchemist score {night_options(night)}{rater_option(rater.name, rater.state)} first."
        )
