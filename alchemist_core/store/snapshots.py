"""Rank scales and snapshots of the eligible samples at a moment, stored so that a selection can be repeated at any time.

Letters: N scored samples of the nights, eligible or excluded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, insert, select, text

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.config import EligibleOptions
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.selection.fusion import signals_of, ways_to_score
from alchemist_core.selection.ranks import RankScale, fit_rank_scale
from alchemist_core.store import tables
from alchemist_core.store.eligible import (
    EligibleRequest,
    EligibleSamples,
    Moment,
    NightFacts,
    datasets_of,
    frozen,
    read_eligible,
    read_nights,
)
from alchemist_core.store.embeddings import find_compared
from alchemist_core.store.flags import known_flags
from alchemist_core.store.leases import take_lock
from alchemist_core.store.raters import RaterRow, find_rater, rater_option
from alchemist_core.store.tables import Dataset, RankSnapshot, Rater, Shard, Takedown

N_ORDERED = 200_000
"""Scores of a rater that are kept in order, the highest; between one and three times as many, while the corpus grows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The scored samples of a moment, the rank scale, and each sample's rank (0 = highest score). Those not excluded are eligible."""

    snapshot_id: int | None
    rater: RaterRow
    pairs: EligibleSamples
    scale: RankScale
    rank_N: NDArray[np.float64]
    eligible_hash: str
    nights: tuple[NightFacts, ...]
    # Of each score of a fusion; none without one.
    signal_scales: tuple[RankScale, ...] = ()

    @property
    def n_eligible(self) -> int:
        """Return the number of eligible samples; the retention is a share of it."""
        return self.pairs.count_open()

    def dataset_of(self, place: slice | NDArray[np.int64] = slice(None)) -> tuple[list[str], NDArray[np.int64]]:
        """Return the names of the datasets, and the index of each sample's dataset in that list."""
        return datasets_of(self.nights, self.pairs.night_N[place])


def take_snapshot(
    engine: Engine,
    rater: RaterRow,
    dataset_names: Sequence[str],
    *,
    options: EligibleOptions | None = None,
    rescale: bool = False,
    should_store: bool = True,
) -> Snapshot:
    """Store a snapshot of the samples that are eligible now; if nothing changed, return the existing snapshot.

    Args:
        engine: The store.
        rater: The rater whose scores rank the samples.
        dataset_names: Training datasets to select from.
        options: Options that decide which samples are eligible. None: only duplicates are excluded.
        rescale: Fit a new rank scale to today's scores, instead of using the newest stored one.
        should_store: Whether to write to the store; False for a preview.

    Raises:
        ConfigError: Nothing is selectable, or nothing eligible.
        ConfigError: A dataset is unknown, one to select from is not a training dataset, or one to decontaminate against is one.
    """
    with frozen(engine) as connection:
        _require_training_data(connection, dataset_names)
        nights = read_nights(connection, rater.rater_id, dataset_names=list(dataset_names))
        moment = _moment(connection, rater.rater_id, nights, options or EligibleOptions())
    signals = _signal_scales(engine, moment, rescale=rescale, should_store=should_store) if nights else []
    with frozen(engine) as connection:
        scales = [scale for _, scale in signals]
        moment = replace(moment, signal_scale_ids=tuple(scale_id or 0 for scale_id, _ in signals))
        pool = EligibleRequest(moment, nights, should_verify=should_store, scales=scales)
        # Captions and heuristics can change, so a selection that is stored reads them again instead of using kept files.
        may_be_kept = not should_store or moment.is_fixed
        eligible_hash, pairs = pool.get(connection, may_be_kept=may_be_kept)
    if not nights:
        raise ConfigError(
            f"Nothing is selectable in {', '.join(dataset_names)} under rater {rater.name}: none of its nights is published. "
            f"{_how_to_publish(rater)}"
        )
    _require_samples(pairs, moment)
    if not pairs.count_open():
        # Refused before anything is stored: a snapshot without an eligible sample has no use.
        raise ConfigError(
            f"No sample is eligible: conditions, duplicates and takedowns exclude all {len(pairs):,} scored samples. Loosen --where or "
            "--decontaminate, or score more shards."
        )
    with engine.begin() as connection:
        scale_id, scale = _rank_scale(connection, moment, pairs.score_N, rescale=rescale, should_store=should_store)
        if should_store and moment.score == RATER_SCORE:
            _order_highest(connection, moment.rater_id, scale, len(pairs))
        values: dict[str, Any] = {
            "rank_scale_id": scale_id, "dataset_names": sorted(dataset_names), "night_ids": list(moment.night_ids),
            "last_takedown_id": moment.last_takedown_id, "n_eligible": pairs.count_open(),
            "eligible_hash": eligible_hash, "options": _effective(moment, pairs),
        }  # fmt: skip
        snapshot_id = _store_snapshot(connection, values) if should_store else None
    rank_N = pool.rank(pairs, scale)
    return Snapshot(snapshot_id, rater, pairs, scale, rank_N, eligible_hash, nights, tuple(scales))


def reload_snapshot(engine: Engine, snapshot_id: int) -> Snapshot:
    """Load a stored snapshot: the samples, the rank scale and the ranks.

    Raises:
        DataError: The eligible samples differ from those of the snapshot.
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
        scales = _load_scales(connection, moment.signal_scale_ids)
        pool = EligibleRequest(moment, nights, should_verify=True, scales=scales)
        eligible_hash, pairs = pool.get(connection, may_be_kept=True)
    if eligible_hash != row.eligible_hash:
        raise DataError(
            f"The eligible samples differ from those of snapshot {snapshot_id}: scores or locations were changed by hand, "
            "or captions, heuristics or URLs that the selection reads have changed. Select again."
        )
    rater = find_rater(engine, row.name)
    assert rater is not None
    scale = RankScale(np.array(row.knot_scores), np.array(row.knot_ranks))
    rank_N = pool.rank(pairs, scale)
    return Snapshot(snapshot_id, rater, pairs, scale, rank_N, eligible_hash, nights, tuple(scales))


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
        last_retirement_id=_last_retirement(connection), keeps_best=options.keeps_best,
        last_flag_id=_last_flag(connection, options.where), with_datasets=options.with_datasets, **_semantic(connection, options),
    )  # fmt: skip


def _semantic(connection: Connection, options: EligibleOptions) -> dict[str, Any]:
    """Return the fields of a moment that say which semantic duplicates and clusters count.

    Raises:
        ConfigError: No scorer's samples were compared, or not those of this one, or only at a higher threshold.
    """
    if not options.needs_comparison:
        return {}
    centroids = find_compared(connection, options.semantic_scorer)
    threshold = options.semantic_threshold or centroids.threshold
    if threshold < centroids.threshold:
        raise ConfigError(
            f"--semantic-threshold {threshold:g} is below {centroids.threshold:g}, from which on semantic duplicates were found. Give at "
            "least that, or find them again: alchemist duplicates find-semantic --restart --threshold "
            f"{threshold:g} --{'' if centroids.is_whitened else 'no-'}whiten"
        )
    return {
        "semantic_rater_id": centroids.rater_id, "last_semantic_block_id": centroids.last_block_id,
        "semantic_threshold": threshold if options.is_semantic else 0.0, "with_clusters": options.with_clusters,
        "follows_firsts": options.is_semantic,
    }  # fmt: skip


def _last_flag(connection: Connection, where: str | None) -> int:
    """Return the newest flag if the condition names one, so that other selections do not depend on flags."""
    if where is None:
        return 0
    from alchemist_core.store.conditions import names_in  # noqa: PLC0415  imports sqlglot

    flags = known_flags(connection)
    return flags.last_flag_id if names_in(where) & flags.labels.keys() else 0


def _last_retirement(connection: Connection) -> int:
    return connection.execute(select(func.max(Shard.retirement_id))).scalar() or 0


def _require_training_data(connection: Connection, names: Sequence[str]) -> None:
    statement = select(Dataset.name, Dataset.role).where(Dataset.removed_at.is_(None))
    role_of = {row.name: row.role for row in connection.execute(statement)}
    for name in names:
        if name not in role_of:
            raise ConfigError(
                f"Dataset {name!r} is not registered (registered: {', '.join(sorted(role_of)) or 'none'})."
            )
        if role_of[name] != "train":
            article = "an" if role_of[name] == "evaluation" else "a"
            raise ConfigError(
                f"{name} is {article} {role_of[name]} dataset. Only training datasets can be selected from: remove it from --dataset."
            )


def _effective(moment: Moment, pairs: EligibleSamples) -> dict[str, Any]:
    """Return the options to store. A condition that excludes no sample is dropped, so that SQL can select from the snapshot too."""
    has_condition = bool((pairs.excluded_N == Exclusion.PREDICATE).any())
    names = set() if has_condition else {"where", "last_flag_id"}
    return {name: value for name, value in moment.options().items() if name not in names}


def _last_evaluation_shard(connection: Connection, names: Sequence[str]) -> int:
    for name in names:
        registered = select(Dataset.role).where(Dataset.name == name, Dataset.removed_at.is_(None))
        role = connection.execute(registered).scalar()
        if role in (None, "train"):
            found = "is not registered" if role is None else "is a training dataset"
            raise ConfigError(f"--decontaminate {name}: it {found}. Give a validation or evaluation dataset.")
    newest = select(func.coalesce(func.max(Shard.shard_id), 0)).join(Dataset, Dataset.dataset_id == Shard.dataset_id)
    return int(connection.execute(newest.where(Dataset.name.in_(names))).scalar_one()) if names else 0


def _rank_scale(
    connection: Connection, moment: Moment, score_N: NDArray[np.float64], *, rescale: bool, should_store: bool
) -> tuple[int | None, RankScale]:
    """Return the newest rank scale of this score under the rater. The first selection fits it; a rescale fits a new one."""
    scale_table = tables.RankScale
    newest = (
        select(scale_table.rank_scale_id, scale_table.knot_scores, scale_table.knot_ranks)
        .where(scale_table.rater_id == moment.rater_id, scale_table.score == moment.score)
        .order_by(scale_table.rank_scale_id.desc())
        .limit(1)
    )
    if should_store:
        # Without a lock, two concurrent first selections would each store a scale.
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


def _order_highest(connection: Connection, rater_id: int, scale: RankScale, n: int) -> None:
    """Keep the highest scores in order, for pages by rank; the index of a corpus that has grown is made anew."""
    share = N_ORDERED / n
    lowest = -np.inf if share >= 1 else float(np.interp(share, scale.knot_ranks[::-1], scale.knot_scores[::-1]))
    given = {"rater_id": rater_id, "lowest": lowest, "most_rows": 3 * N_ORDERED}
    connection.execute(
        text("SELECT alchemist.order_highest_scores(:rater_id, CAST(:lowest AS real), :most_rows)"), given
    )


def _signal_scales(
    engine: Engine, moment: Moment, *, rescale: bool, should_store: bool
) -> list[tuple[int | None, RankScale]]:
    """Return the rank scale of each score that a moment fuses, with its id; empty if it fuses none.

    A fusion keeps the scales that its own scale was fitted with, also when its scores got newer ones, so that its ranks stay the same.
    """
    if len(signals := signals_of(moment.score)) == 1:
        return []
    if not rescale:
        with engine.connect() as connection:
            known = _pinned_scales(connection, moment)
            if known:
                scales = _load_scales(connection, known)
                return [(scale_id, scale) for scale_id, scale in zip(known, scales, strict=True)]
    return [
        _signal_scale(engine, replace(moment, score=score), rescale=rescale, should_store=should_store)
        for score in signals
    ]


def _pinned_scales(connection: Connection, moment: Moment) -> tuple[int, ...]:
    """Return the scales with which the newest scale of a fusion was fitted; none before its first selection."""
    scale_table = tables.RankScale
    statement = (
        select(RankSnapshot.options["signal_scale_ids"])
        .join(scale_table, scale_table.rank_scale_id == RankSnapshot.rank_scale_id)
        .where(scale_table.rater_id == moment.rater_id, scale_table.score == moment.score)
        .order_by(scale_table.rank_scale_id.desc(), RankSnapshot.snapshot_id)
        .limit(1)
    )
    return tuple(connection.execute(statement).scalar_one_or_none() or ())


def _signal_scale(engine: Engine, moment: Moment, *, rescale: bool, should_store: bool) -> tuple[int | None, RankScale]:
    """Return the newest rank scale of one score; the first fusion with it fits the scale, and a rescale fits a new one."""
    with frozen(engine) as connection:
        pairs = read_eligible(connection, moment)
    _require_samples(pairs, moment)
    with engine.begin() as connection:
        return _rank_scale(connection, moment, pairs.score_N, rescale=rescale, should_store=should_store)


def _how_to_publish(rater: RaterRow) -> str:
    of_rater = rater_option(rater.name, rater.state)
    return (
        f"Run alchemist score{of_rater}, alchemist check --suite scores, alchemist night check-drift{of_rater} and alchemist night "
        f"publish{of_rater} first."
    )


def _require_samples(pairs: EligibleSamples, moment: Moment) -> None:
    """Refuse a selection if the published nights hold no sample with the scores that rank; they may hold others."""
    if len(pairs):
        return
    gone = "of the published nights every sample was taken down, or its shard was retired or replaced."
    lack = (
        f"no sample of the published nights has the scores of --rank-by {moment.score}. {ways_to_score(moment.score)}"
    )
    raise ConfigError(f"Nothing is selectable: {lack if pairs.n_unscored else gone}")


def _load_scales(connection: Connection, scale_ids: Sequence[int]) -> list[RankScale]:
    """Return stored rank scales, in the order of their ids."""
    scale_table = tables.RankScale
    statement = select(scale_table.rank_scale_id, scale_table.knot_scores, scale_table.knot_ranks)
    rows = connection.execute(statement.where(scale_table.rank_scale_id.in_(set(scale_ids))))
    found = {row.rank_scale_id: RankScale(np.array(row.knot_scores), np.array(row.knot_ranks)) for row in rows}
    return [found[scale_id] for scale_id in scale_ids]


def _store_snapshot(connection: Connection, values: dict[str, Any]) -> int:
    same = [getattr(RankSnapshot, name) == values[name] for name in ("rank_scale_id", "dataset_names", "eligible_hash")]
    known = connection.execute(select(RankSnapshot.snapshot_id).where(*same)).scalar()
    if known is not None:
        return known
    return connection.execute(insert(RankSnapshot).values(values).returning(RankSnapshot.snapshot_id)).scalar_one()


def read_dataset_names(engine: Engine, snapshot_id: int) -> list[str]:
    """Return the datasets of a snapshot."""
    statement = select(RankSnapshot.dataset_names).where(RankSnapshot.snapshot_id == snapshot_id)
    with engine.connect() as connection:
        return list(connection.execute(statement).scalar_one())
