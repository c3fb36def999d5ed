"""Rank scales and snapshots: what may be drawn at a moment, frozen so that a selection can be repeated for ever."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, insert, select

from alchemist_core.data.manifests import hash_rows
from alchemist_core.errors import AlchemistError, DataError
from alchemist_core.selection.ranks import RankScale, fit_rank_scale
from alchemist_core.store import tables
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.tables import Dataset, Night, RankSnapshot, Rater, Takedown


@dataclass(frozen=True, slots=True)
class EligiblePairs:
    """Aligned arrays of the eligible set, in the order of pair_hash."""

    pair_hash_N32: NDArray[np.uint8]
    pair_hash64_N: NDArray[np.int64]
    score_N: NDArray[np.float64]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.score_N)

    def find(self, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return where pairs of the set stand, ascending; those that it does not hold are left out."""
        wanted_K = np.ascontiguousarray(pair_hash_K32[:, :8]).view(">i8").ravel()
        return np.flatnonzero(np.isin(self.pair_hash64_N, wanted_K))

    def sha256(self) -> str:
        """Hash the set: every pair's hash with its score."""
        digest = hashlib.sha256(self.pair_hash_N32)
        digest.update(self.score_N.astype("<f8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An eligible set, its rank scale and each pair's rank (0 = highest score)."""

    snapshot_id: int | None
    rater: RaterRow
    pairs: EligiblePairs
    scale: RankScale
    rank_N: NDArray[np.float64]
    eligible_hash: str


def take_snapshot(
    engine: Engine, rater: RaterRow, dataset_names: Sequence[str], *, rescale: bool = False, should_store: bool = True
) -> Snapshot:
    """Freeze what may be drawn now; an unchanged eligible set gives the snapshot that exists.

    Args:
        engine: The store.
        rater: Whose scores rank the pairs.
        dataset_names: Training datasets to draw from.
        rescale: Fit a new rank scale to today's scores instead of keeping the rater's first one.
        should_store: False for a preview, which writes nothing.

    Raises:
        AlchemistError: If nothing is selectable.
    """
    with engine.begin() as connection:
        night_ids = _decided_nights(connection, rater.rater_id, dataset_names)
        last_takedown_id = connection.execute(select(func.coalesce(func.max(Takedown.takedown_id), 0))).scalar_one()
        pairs = _read_eligible(connection, rater.rater_id, night_ids, last_takedown_id)
        if not len(pairs):
            raise AlchemistError(
                f"Nothing is selectable in {', '.join(dataset_names)} under rater {rater.name}: no night has passed its checks. "
                "Run alchemist score, alchemist check --suite scores and alchemist publish night first."
            )
        scale_id, scale = _rank_scale(
            connection, rater.rater_id, pairs.score_N, rescale=rescale, should_store=should_store
        )
        eligible_hash = pairs.sha256()
        values: dict[str, Any] = {
            "rank_scale_id": scale_id, "dataset_names": sorted(dataset_names), "night_ids": night_ids,
            "last_takedown_id": last_takedown_id, "n_eligible": len(pairs), "eligible_hash": eligible_hash,
        }  # fmt: skip
        snapshot_id = _store_snapshot(connection, values) if should_store else None
    return Snapshot(snapshot_id, rater, pairs, scale, scale.rank(pairs.score_N), eligible_hash)


def reload_snapshot(engine: Engine, snapshot_id: int) -> Snapshot:
    """Read a snapshot again: the eligible set, its scale and the ranks.

    Raises:
        DataError: If the eligible set is not what was frozen.
    """
    scale_table = tables.RankScale
    columns = (
        Rater.name, scale_table.rater_id, scale_table.knot_scores, scale_table.knot_ranks,
        RankSnapshot.night_ids, RankSnapshot.last_takedown_id, RankSnapshot.eligible_hash,
    )  # fmt: skip
    statement = (
        select(*columns)
        .join(scale_table, scale_table.rank_scale_id == RankSnapshot.rank_scale_id)
        .join(Rater, Rater.rater_id == scale_table.rater_id)
        .where(RankSnapshot.snapshot_id == snapshot_id)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one()
        pairs = _read_eligible(connection, row.rater_id, row.night_ids, row.last_takedown_id)
    if pairs.sha256() != row.eligible_hash:
        raise DataError(
            f"Snapshot {snapshot_id} no longer gives the eligible set that was frozen: scores or locations were changed by hand."
        )
    rater = find_rater(engine, row.name)
    assert rater is not None
    scale = RankScale(np.array(row.knot_scores), np.array(row.knot_ranks))
    return Snapshot(snapshot_id, rater, pairs, scale, scale.rank(pairs.score_N), row.eligible_hash)


def _decided_nights(connection: Connection, rater_id: int, dataset_names: Sequence[str]) -> list[int]:
    statement = (
        select(Night.night_id)
        .join(Dataset, Dataset.dataset_id == Night.dataset_id)
        .where(Night.rater_id == rater_id, Night.state.in_(("selectable", "released")))
        .where(Dataset.name.in_(dataset_names), Dataset.role == "train")
        .order_by(Night.night_id)
    )
    return list(connection.execute(statement).scalars())


def _read_eligible(connection: Connection, rater_id: int, night_ids: list[int], last_takedown_id: int) -> EligiblePairs:
    parameters = {"rater_id": rater_id, "night_ids": night_ids, "last_takedown_id": last_takedown_id}
    rows = connection.execute(load_query("eligible_pairs"), parameters).all()
    hashes, hashes64, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return EligiblePairs(
        hash_rows([bytes(value) for value in hashes]),
        np.array(hashes64, dtype=np.int64),
        np.array(scores, dtype=np.float64),
    )


def _rank_scale(
    connection: Connection, rater_id: int, score_N: NDArray[np.float64], *, rescale: bool, should_store: bool
) -> tuple[int | None, RankScale]:
    """Return the rater's newest scale; the first selection (or a rescale) fits one."""
    scale_table = tables.RankScale
    newest = (
        select(scale_table.rank_scale_id, scale_table.knot_scores, scale_table.knot_ranks)
        .where(scale_table.rater_id == rater_id)
        .order_by(scale_table.rank_scale_id.desc())
        .limit(1)
    )
    row = None if rescale else connection.execute(newest).one_or_none()
    if row is not None:
        return row.rank_scale_id, RankScale(np.array(row.knot_scores), np.array(row.knot_ranks))
    scale = fit_rank_scale(score_N)
    if not should_store:
        return None, scale
    values = {
        "knot_scores": scale.knot_scores.tolist(),
        "knot_ranks": scale.knot_ranks.tolist(),
        "n_reference": len(score_N),
    }
    statement = insert(scale_table).values(rater_id=rater_id, **values).returning(scale_table.rank_scale_id)
    return connection.execute(statement).scalar_one(), scale


def _store_snapshot(connection: Connection, values: dict[str, Any]) -> int:
    same = [getattr(RankSnapshot, name) == values[name] for name in ("rank_scale_id", "dataset_names", "eligible_hash")]
    known = connection.execute(select(RankSnapshot.snapshot_id).where(*same)).scalar()
    if known is not None:
        return known
    return connection.execute(insert(RankSnapshot).values(values).returning(RankSnapshot.snapshot_id)).scalar_one()
