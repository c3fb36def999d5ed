"""Where a pool comes from: the nights that it is of, and its arrays, kept or read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from alchemist_core.config import fingerprint
from alchemist_core.selection.ranks import RankScale
from alchemist_core.store.eligible import EligiblePairs, Moment
from alchemist_core.store.pool_reading import read_pool
from alchemist_core.store.queries import load_query
from alchemist_core.store.snapshot_cache import find_pool, keep_pool, rank_pool


@dataclass(frozen=True, slots=True)
class NightFacts:
    """A night that pairs of a pool are of."""

    night_id: int
    dataset: str
    crawl_date: date
    created_at: datetime
    # Mean over its tars; none where its pairs came in by a retry.
    bytes_per_pair: float | None


def frozen(engine: Engine) -> Connection:
    """Connect so that all statements see one snapshot of the store."""
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def read_nights(connection: Connection, rater_id: int, **which: list[Any]) -> tuple[NightFacts, ...]:
    """Return the decided nights of `dataset_names`, or those of `night_ids`."""
    parameters = {"rater_id": rater_id, "dataset_names": None, "night_ids": None} | which
    return tuple(NightFacts(*row) for row in connection.execute(load_query("decided_nights"), parameters))


class PoolRequest:
    """A pool that is wanted: as of a moment, of some nights."""

    def __init__(self, moment: Moment, nights: Sequence[NightFacts], *, should_verify: bool) -> None:
        """Ask for a pool.

        Args:
            moment: What it depends on.
            nights: What its pairs are of.
            should_verify: Whether a kept one is compared with its hashes before it is used; a preview does without.
        """
        self._moment, self._nights, self._should_verify = moment, nights, should_verify
        self._found = ""

    def get(self, connection: Connection, *, may_be_kept: bool) -> tuple[str, EligiblePairs]:
        """Return the eligible hash and the pool: the kept one, else read from the store and kept.

        Args:
            connection: From `frozen`.
            may_be_kept: Whether one that was read before will do.
        """
        self._found = self._key(connection)
        kept = find_pool(self._found, should_verify=self._should_verify) if may_be_kept else None
        if kept is not None:
            return kept
        pairs = read_pool(connection, self._moment)
        eligible_hash = pairs.sha256()
        keep_pool(self._found, eligible_hash, pairs)
        return eligible_hash, pairs

    def rank(self, pairs: EligiblePairs, scale: RankScale) -> NDArray[np.float64]:
        """Return the ranks of the pool that was got."""
        return rank_pool(self._found, pairs, scale, should_verify=self._should_verify)

    def _key(self, connection: Connection) -> str:
        # With the times at which nights were made: numbers alone are the same in every new database.
        made = [[night.dataset, night.crawl_date.isoformat(), night.created_at.isoformat()] for night in self._nights]
        if self._moment.is_fixed:
            return fingerprint([asdict(self._moment), made])
        # What the server has counted of changes tells a new state from an old one, some seconds late: enough for a preview.
        statement = text("""
            SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables
            WHERE schemaname = 'alchemist' AND relname IN ('samples', 'heuristic_scores') ORDER BY relname
        """)
        changes = [list(row) for row in connection.execute(statement)]
        return fingerprint([asdict(self._moment), made, changes])
