"""Rank scales and snapshots: what may be drawn at a moment, frozen so that a selection can be repeated for ever.

Letters: N samples of the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, insert, select

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.selection.config import EligibleOptions
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.selection.ranks import RankScale, fit_rank_scale
from alchemist_core.store import tables
from alchemist_core.store.eligible import EligibleRequest, EligibleSamples, Moment, NightFacts, frozen, read_nights
from alchemist_core.store.leases import take_lock
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.tables import Dataset, RankSnapshot, Rater, Shard, Takedown


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pool, its rank scale, and each sample's rank (0 = highest score); eligible are the samples that nothing excludes."""

    snapshot_id: int | None
    rater: RaterRow
    pairs: EligibleSamples
    scale: RankScale
    rank_N: NDArray[np.float64]
    eligible_hash: str
    nights: tuple[NightFacts, ...]

    @property
    def n_eligible(self) -> int:
        """Count the eligible samples: of them a retention is a share."""
        return self.pairs.count_open()

    def dataset_of(self, place: slice | NDArray[np.int64] = slice(None)) -> tuple[list[str], NDArray[np.int64]]:
        """Return the datasets by name, and for samples of the pool the number of theirs in that list."""
        names = sorted({night.dataset for night in self.nights})
        number = np.zeros(1 + max((night.night_id for night in self.nights), default=0), np.int64)
        for night in self.nights:
            number[night.night_id] = names.index(night.dataset)
        return names, number[self.pairs.night_N[place]]


def take_snapshot(
    engine: Engine,
    rater: RaterRow,
    dataset_names: Sequence[str],
    *,
    options: EligibleOptions | None = None,
    rescale: bool = False,
    should_store: bool = True,
) -> Snapshot:
    """Freeze what may be drawn now; an unchanged pool gives the snapshot that exists.

    Args:
        engine: The store.
        rater: Whose scores rank the samples.
        dataset_names: Training datasets to draw from.
        options: What decides which samples are eligible; none: duplicates are left out, no more.
        rescale: Fit a new rank scale to today's scores instead of keeping the rater's first one.
        should_store: False for a preview, which writes nothing to the store.

    Raises:
        ConfigError: If nothing is selectable.
        ConfigError: If a dataset is unknown; if one to draw from is no training dataset, or one to decontaminate against is one.
    """
    with frozen(engine) as connection:
        _require_training_data(connection, dataset_names)
        nights = read_nights(connection, rater.rater_id, dataset_names=list(dataset_names))
        options = options or EligibleOptions()
        moment = _moment(connection, rater.rater_id, nights, options)
        pool = EligibleRequest(moment, nights, should_verify=should_store)
        # What a condition or a heuristic reads may change at any time: a stored selection sees it as it is.
        may_be_kept = not should_store or moment.is_fixed
        eligible_hash, pairs = pool.get(connection, may_be_kept=may_be_kept)
    if not len(pairs):
        raise ConfigError(
            f"Nothing is selectable in {', '.join(dataset_names)} under rater {rater.name}: no night has passed its checks, or no "
            f"pair has the score {moment.score!r}. "
            "Run alchemist score, alchemist check --suite scores and alchemist night publish first."
        )
    if should_store and not pairs.count_open():
        # Before anything is stored: a snapshot without a sample serves nobody.
        raise ConfigError(
            f"No pair is eligible: conditions, duplicates and takedowns leave out all {len(pairs):,} scored pairs. Loosen --where or "
            "--decontaminate, or score more shards."
        )
    with engine.begin() as connection:
        scale_id, scale = _rank_scale(connection, moment, pairs.score_N, rescale=rescale, should_store=should_store)
        values: dict[str, Any] = {
            "rank_scale_id": scale_id, "dataset_names": sorted(dataset_names), "night_ids": list(moment.night_ids),
            "last_takedown_id": moment.last_takedown_id, "n_eligible": pairs.count_open(),
            "eligible_hash": eligible_hash, "options": _effective(moment, pairs),
        }  # fmt: skip
        snapshot_id = _store_snapshot(connection, values) if should_store else None
    rank_N = pool.rank(pairs, scale)
    return Snapshot(snapshot_id, rater, pairs, scale, rank_N, eligible_hash, nights)


def reload_snapshot(engine: Engine, snapshot_id: int) -> Snapshot:
    """Give a snapshot again: the pool, its scale and the ranks.

    Raises:
        DataError: If the pool is not what was frozen.
    """
    scale_table = tables.RankScale
    columns = (
        Rater.name, scale_table.rater_id, scale_table.knot_scores, scale_table.knot_ranks, RankSnapshot.night_ids,
        RankSnapshot.last_takedown_id, RankSnapshot.eligible_hash, RankSnapshot.options,
    )  # fmt: skip
    statement = (
        select(*columns)
        .join(scale_table, scale_table.rank_scale_id == RankSnapshot.rank_scale_id)
        .join(Rater, Rater.rater_id == scale_table.rater_id)
        .where(RankSnapshot.snapshot_id == snapshot_id)
    )
    with frozen(engine) as connection:
        row = connection.execute(statement).one()
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.options.items()
        }
        moment = Moment(row.rater_id, tuple(row.night_ids), row.last_takedown_id, **options)
        nights = read_nights(connection, row.rater_id, night_ids=list(row.night_ids))
        pool = EligibleRequest(moment, nights, should_verify=True)
        eligible_hash, pairs = pool.get(connection, may_be_kept=True)
    if eligible_hash != row.eligible_hash:
        raise DataError(
            f"Snapshot {snapshot_id} no longer gives the eligible set that was frozen: scores or locations were changed by hand, "
            "or what its condition, its heuristic or its cap of sources reads has changed since."
        )
    rater = find_rater(engine, row.name)
    assert rater is not None
    scale = RankScale(np.array(row.knot_scores), np.array(row.knot_ranks))
    rank_N = pool.rank(pairs, scale)
    return Snapshot(snapshot_id, rater, pairs, scale, rank_N, eligible_hash, nights)


def _moment(connection: Connection, rater_id: int, nights: Sequence[NightFacts], options: EligibleOptions) -> Moment:
    last_takedown_id = connection.execute(select(func.coalesce(func.max(Takedown.takedown_id), 0))).scalar_one()
    last_compared_id = 0
    if options.duplicates != "keep":
        newest = select(func.coalesce(func.max(tables.DuplicateSample.sample_id), 0))
        last_compared_id = connection.execute(newest).scalar_one()
    return Moment(
        rater_id, tuple(night.night_id for night in nights), last_takedown_id, options.score, last_compared_id,
        "near" if options.duplicates == "near" else "exact",
        options.decontaminate, _last_evaluation_shard(connection, options.decontaminate), options.where, options.with_sources,
        last_retirement_id=_last_retirement(connection),
    )  # fmt: skip


def _last_retirement(connection: Connection) -> int:
    return connection.execute(select(func.max(Shard.retirement_id))).scalar() or 0


def _require_training_data(connection: Connection, names: Sequence[str]) -> None:
    statement = select(Dataset.name, Dataset.role).where(Dataset.removed_at.is_(None))
    role_of = {row.name: row.role for row in connection.execute(statement)}
    for name in names:
        if name not in role_of:
            raise ConfigError(f"{name} is not registered: there are {', '.join(sorted(role_of)) or 'no datasets'}.")
        if role_of[name] != "train":
            article = "an" if role_of[name] == "evaluation" else "a"
            raise ConfigError(
                f"{name} is {article} {role_of[name]} dataset: only training data may be selected. Leave it out of --dataset."
            )


def _effective(moment: Moment, pairs: EligibleSamples) -> dict[str, Any]:
    """Return a snapshot's options; a condition that leaves nobody out is none, so that SQL draws from the snapshot too."""
    has_condition = bool((pairs.excluded_N == Exclusion.PREDICATE).any())
    return {name: value for name, value in moment.options().items() if name != "where" or has_condition}


def _last_evaluation_shard(connection: Connection, names: Sequence[str]) -> int:
    for name in names:
        registered = select(Dataset.role).where(Dataset.name == name, Dataset.removed_at.is_(None))
        role = connection.execute(registered).scalar()
        if role in (None, "train"):
            found = "is not registered" if role is None else "is a training dataset"
            raise ConfigError(f"--decontaminate {name}: it {found}; needed is a validation or evaluation dataset.")
    newest = select(func.coalesce(func.max(Shard.shard_id), 0)).join(Dataset, Dataset.dataset_id == Shard.dataset_id)
    return int(connection.execute(newest.where(Dataset.name.in_(names))).scalar_one()) if names else 0


def _rank_scale(
    connection: Connection, moment: Moment, score_N: NDArray[np.float64], *, rescale: bool, should_store: bool
) -> tuple[int | None, RankScale]:
    """Return the newest scale of this score under the rater; the first selection fits one, and a rescale if scores have moved."""
    scale_table = tables.RankScale
    newest = (
        select(scale_table.rank_scale_id, scale_table.knot_scores, scale_table.knot_ranks)
        .where(scale_table.rater_id == moment.rater_id, scale_table.score == moment.score)
        .order_by(scale_table.rank_scale_id.desc())
        .limit(1)
    )
    if should_store:
        # Two first selections at once would each freeze a scale of their own.
        take_lock(connection, "rank_scales")
    row = connection.execute(newest).one_or_none()
    known = None if row is None else RankScale(np.array(row.knot_scores), np.array(row.knot_ranks))
    if row is not None and known is not None and not rescale:
        return row.rank_scale_id, known
    scale = fit_rank_scale(score_N)
    if row is not None and known is not None and known.is_same_as(scale):
        return row.rank_scale_id, known
    if not should_store:
        return None, scale
    values = {
        "rater_id": moment.rater_id, "score": moment.score, "n_reference": len(score_N),
        "knot_scores": scale.knot_scores.tolist(), "knot_ranks": scale.knot_ranks.tolist(),
    }  # fmt: skip
    return connection.execute(
        insert(scale_table).values(values).returning(scale_table.rank_scale_id)
    ).scalar_one(), scale


def _store_snapshot(connection: Connection, values: dict[str, Any]) -> int:
    same = [getattr(RankSnapshot, name) == values[name] for name in ("rank_scale_id", "dataset_names", "eligible_hash")]
    known = connection.execute(select(RankSnapshot.snapshot_id).where(*same)).scalar()
    if known is not None:
        return known
    return connection.execute(insert(RankSnapshot).values(values).returning(RankSnapshot.snapshot_id)).scalar_one()


def read_dataset_names(engine: Engine, snapshot_id: int) -> list[str]:
    """Return the datasets that a snapshot draws from."""
    statement = select(RankSnapshot.dataset_names).where(RankSnapshot.snapshot_id == snapshot_id)
    with engine.connect() as connection:
        return list(connection.execute(statement).scalar_one())
