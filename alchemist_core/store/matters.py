"""What waits for a person: nights, questions, failed tasks, raters and subsets, each with the facts that decide."""

from datetime import date, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine

from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import utc_now

N_EACH = 20
SINCE = timedelta(days=30)
"""Older questions, failed tasks and warnings are history."""


class Matter(NamedTuple):
    """Something that waits for a person: a row of `matters_of_people` or `matters_of_nights`."""

    kind: str
    subject: str
    crawl_date: date | None
    version: int | None
    detail: str | None
    page: str | None
    since: datetime | None


def read_matters(engine: Engine) -> list[Matter]:
    """Return what waits, at most `N_EACH` of each kind: questions first, then what stops nights, then the rest."""
    given = {"n_each": N_EACH, "since": utc_now() - SINCE}
    with engine.connect() as connection:
        found = [
            Matter._make(row)
            for name in ("matters_of_people", "matters_of_nights")
            for row in connection.execute(load_query(name), given)
        ]
    return sorted(found, key=lambda matter: ORDER.index(matter.kind))


ORDER = ("question", "held night", "failed check", "failed task", "certified rater", "subset without proof", "drift")
"""Kinds of matters, the most urgent first."""
