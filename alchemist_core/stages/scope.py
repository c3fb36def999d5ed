"""Which datasets and crawl dates a scoring command means."""

from datetime import date

from sqlalchemy import Engine

from alchemist_core.store.ledger import ScoringScope
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.registry import find_dataset, list_datasets


def scoring_scope(engine: Engine, rater: RaterRow, *, dataset: str | None, crawl_date: date | None) -> ScoringScope:
    """Return the named dataset, or every registered training dataset, under a rater."""
    rows = [find_dataset(engine, dataset)] if dataset else list_datasets(engine, role="train")
    return ScoringScope(rater.rater_id, tuple(row.dataset_id for row in rows), crawl_date)
