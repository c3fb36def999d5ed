"""Nights: one revision of a crawl date of a dataset under one rater. It is scored, checked and decided; only then it is selectable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, DateTime, Engine, Select, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.errors import ConfigError
from alchemist_core.lazy import NDArray
from alchemist_core.notifications import Event, explorer_page, page_of_this_task
from alchemist_core.store.audit import record_event
from alchemist_core.store.copy import copy_out
from alchemist_core.store.engine import read_clock
from alchemist_core.store.leases import take_lock
from alchemist_core.store.notifications import announce
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import rater_option
from alchemist_core.store.tables import Dataset, Night, RankScale, Rater, ScoreDistribution, Shard, ShardScore

# Compiled once, because every commit of a shard runs it and takes only milliseconds.
FIND_OPEN = text("""
    SELECT night_id FROM alchemist.nights
    WHERE dataset_id = :dataset_id AND crawl_date = :crawl_date AND rater_id = :rater_id AND state = 'scored'
    FOR SHARE
""")
OPEN_NEXT = text("""
    INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision)
    SELECT :dataset_id, :crawl_date, :rater_id, coalesce(max(revision), 0) + 1
    FROM alchemist.nights WHERE dataset_id = :dataset_id AND crawl_date = :crawl_date AND rater_id = :rater_id
    ON CONFLICT DO NOTHING
""")


def read_night(text: str) -> tuple[str, date]:
    """Read a night as commands write it.

    >>> read_night("web:2026-01-02")
    ('web', datetime.date(2026, 1, 2))

    Raises:
        ConfigError: It is not DATASET:YYYY-MM-DD.
    """
    name, _, day = text.rpartition(":")
    with suppress(ValueError):
        if name:
            return name, date.fromisoformat(day)
    raise ConfigError(f"{text!r} is not a valid night. Give DATASET:YYYY-MM-DD.")


def hold_open_night(connection: Connection, dataset_id: int, crawl_date: date, rater_id: int) -> int:
    """Return the open revision of a night, opened if there is none; it cannot be decided before this transaction ends."""
    where = {"dataset_id": dataset_id, "crawl_date": crawl_date, "rater_id": rater_id}
    while (night_id := connection.execute(FIND_OPEN, where).scalar()) is None:
        connection.execute(OPEN_NEXT, where)
    return int(night_id)


class NightRow(NamedTuple):
    """A night that is open or held."""

    night_id: int
    dataset_id: int
    dataset: str
    crawl_date: date
    revision: int
    reason: str | None


NIGHT_COLUMNS = (
    Night.night_id, Night.dataset_id, Dataset.name.label("dataset"), Night.crawl_date, Night.revision, Night.reason,
)  # fmt: skip


class ScaleRow(NamedTuple):
    """The knots of a rank scale."""

    knot_scores: list[float]
    knot_ranks: list[float]
    n_reference: int


def night_title(night: NightRow) -> str:
    """Return the title of a night, such as `web 2026-01-01 r1`; every dataset can have a night of the same date."""
    return f"{night.dataset} {night.crawl_date} r{night.revision}"


class NightRevision(NamedTuple):
    """A revision of a night with its measured drift; the fields from `n` on are None before it is measured."""

    night_id: int
    revision: int
    state: str
    reason: str | None
    decided_by: str | None
    decided_at: datetime | None
    n: int | None
    psi: float | None
    ks_distance: float | None
    verdict: str | None
    n_tested: int | None
    reference: str | None
    n_reference: int | None
    histogram: dict[str, Any] | None
    explanation: list[dict[str, Any]] | None


def read_revisions(engine: Engine, dataset_id: int, crawl_date: date, rater_id: int) -> list[NightRevision]:
    """Return the revisions of a night under a rater, the newest first."""
    own = [getattr(Night, name) for name in NightRevision._fields[:6]]
    measured = [getattr(ScoreDistribution, name) for name in NightRevision._fields[6:]]
    statement = (
        select(*own, *measured)
        .outerjoin(ScoreDistribution, ScoreDistribution.night_id == Night.night_id)
        .where(Night.dataset_id == dataset_id, Night.crawl_date == crawl_date, Night.rater_id == rater_id)
        .order_by(Night.revision.desc())
    )
    with engine.connect() as connection:
        return [NightRevision._make(row) for row in connection.execute(statement)]


def open_nights(
    engine: Engine, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> list[NightRow]:
    """Return the undecided nights."""
    return _find_nights(engine, "scored", dataset_ids=dataset_ids, crawl_date=crawl_date, rater_id=rater_id)


def held_nights(
    engine: Engine,
    *,
    dataset_ids: Sequence[int],
    crawl_date: date | None,
    rater_id: int,
    state: Literal["held", "rejected", "scored"] = "held",
) -> list[NightRow]:
    """Return the nights that are held, or those that a person has rejected, or the open ones."""
    return _find_nights(engine, state, dataset_ids=dataset_ids, crawl_date=crawl_date, rater_id=rater_id)


def _find_nights(
    engine: Engine, state: str, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> list[NightRow]:
    statement = (
        select(*NIGHT_COLUMNS)
        .join(Dataset, Dataset.dataset_id == Night.dataset_id)
        .where(Night.state == state, Night.dataset_id.in_(dataset_ids), Night.rater_id == rater_id)
        .order_by(Night.night_id)
    )
    if crawl_date is not None:
        statement = statement.where(Night.crawl_date == crawl_date)
    with engine.connect() as connection:
        return [NightRow._make(row) for row in connection.execute(statement)]


class EarlierNight(NamedTuple):
    """A night before that of a run, which the run takes too."""

    dataset: str
    crawl_date: date


def missed_nights(
    engine: Engine, dataset_ids: Sequence[int], before: date, *, timezone: str, airflow_run: str | None
) -> list[EarlierNight]:
    """Return the earlier nights that no ingest has ended for although a schedule was in use, the oldest first.

    Args:
        engine: The store.
        dataset_ids: Their datasets.
        before: The night of the run that asks.
        timezone: Time zone of crawl dates.
        airflow_run: The run that asks, so that it gets the same nights when it is cleared.
    """
    parameters = {
        "dataset_ids": list(dataset_ids), "before": before, "timezone": timezone, "airflow_run": airflow_run,
    }  # fmt: skip
    return _earlier_nights(engine, "missed_nights", parameters)


def late_nights(engine: Engine, dataset_ids: Sequence[int], before: date) -> list[EarlierNight]:
    """Return the earlier nights with an upload in progress, or with shards that lack scores."""
    return _earlier_nights(engine, "late_nights", {"dataset_ids": list(dataset_ids), "before": before})


def _earlier_nights(engine: Engine, query: str, parameters: dict[str, Any]) -> list[EarlierNight]:
    with engine.connect() as connection:
        return [EarlierNight._make(row) for row in connection.execute(load_query(query), parameters)]


def decide_night(connection: Connection, night_id: int, *, state: str, actor: str, reason: str | None = None) -> bool:
    """Decide an open night (`selectable`, `held` or `rejected`); returns False if it was decided before.

    The notification of a held night is stored in the same transaction; `deliver` sends it afterwards.
    """
    values = {"state": state, "reason": reason, "decided_by": actor, "decided_at": func.clock_timestamp()}
    statement = update(Night).where(Night.night_id == night_id, Night.state == "scored").values(values)
    is_decided = connection.execute(statement).rowcount == 1
    if is_decided and state == "held":
        announce(connection, _held(connection, night_id))
    return is_decided


def _held(connection: Connection, night_id: int) -> Event:
    statement = (
        select(*NIGHT_COLUMNS, Rater.name, Rater.state)
        .join(Dataset, Dataset.dataset_id == Night.dataset_id)
        .join(Rater, Rater.rater_id == Night.rater_id)
        .where(Night.night_id == night_id)
    )
    *columns, rater, state = connection.execute(statement).one()
    night, task = NightRow._make(columns), page_of_this_task("night-check-drift")
    of_rater = rater_option(rater, state)
    return Event(
        kind="held_night",
        key=f"held_night:{night_id}",
        what_happened=f"Night {night_title(night)} is held: {night.reason}.",
        where_to_look=explorer_page("nights", night.dataset, night.crawl_date) or task,
        what_to_do=f"If its scores are right: {release_command(night, of_rater)}. If its data is wrong: {reject_command(night, of_rater)}.",
        facts={"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "rater": rater, "task": task},
    )


def release_command(night: NightRow, of_rater: str) -> str:
    """Return the command that releases a night; `of_rater` is the `rater_option` of its rater."""
    return f"alchemist night release {night_options(night)}{of_rater} --reason WHY"


def reject_command(night: NightRow, of_rater: str) -> str:
    """Return the command that rejects a night; `of_rater` as for `release_command`."""
    return f"alchemist night reject {night_options(night)}{of_rater} --reason WHY"


def night_options(night: NightRow) -> str:
    """Return the options with which a command names a night."""
    return f"--dataset {shlex.quote(night.dataset)} --crawl-date {night.crawl_date}"


class EarlierRejection(NamedTuple):
    """The newest rejection of shards of a night, under another rater or in the revision before a retry; or that this one is held."""

    state: str
    rater: str
    decided_by: str
    reason: str
    n_rejected: int
    n_shards: int

    @property
    def is_whole(self) -> bool:
        """Whether every shard of the night was rejected."""
        return self.n_rejected == self.n_shards


def find_rejection(connection: Connection, night_id: int) -> EarlierRejection | None:
    """Return what was decided before against shards of a night, which holds for this night too; None if nothing was."""
    row = connection.execute(load_query("rejected_elsewhere"), {"night_id": night_id}).one_or_none()
    return None if row is None else EarlierRejection._make(row)


def release_night(connection: Connection, night_id: int, *, actor: str, reason: str) -> bool:
    """Release a held or rejected night, so that it becomes selectable; returns False if another person was faster."""
    return _settle(connection, night_id, ("held", "rejected"), "released", actor=actor, reason=reason)


def reject_night(connection: Connection, night_id: int, *, actor: str, reason: str) -> bool:
    """Reject a held night, or an open one that a check stopped, so that it waits for no decision; False if it was decided meanwhile."""
    return _settle(connection, night_id, ("held", "scored"), "rejected", actor=actor, reason=reason)


def _settle(
    connection: Connection, night_id: int, before: Sequence[str], state: str, *, actor: str, reason: str
) -> bool:
    values = {"state": state, "reason": reason, "decided_by": actor, "decided_at": func.clock_timestamp()}
    statement = update(Night).where(Night.night_id == night_id, Night.state.in_(before)).values(values)
    return connection.execute(statement).rowcount == 1


class AnnouncedNight(NamedTuple):
    """A night that became selectable."""

    night_id: int
    dataset: str
    crawl_date: date
    revision: int
    rater: str
    is_new: bool
    """False if the same Airflow run has announced it before: the run tries again."""


ANNOUNCED_WITHIN = timedelta(days=7)
"""Nights decided earlier are not announced, so that an upgrade does not announce all nights of a store."""


def announce_nights(engine: Engine, actor: str) -> list[AnnouncedNight]:
    """Return the nights that became selectable and that no other run has announced, and record that this one does.

    Args:
        engine: The store.
        actor: The Airflow run, so that its retry gets the same nights again.
    """
    with engine.begin() as connection:
        # Two runs at the same time must not both announce a night.
        take_lock(connection, "announce nights")
        since = read_clock(connection) - ANNOUNCED_WITHIN
        rows = connection.execute(load_query("unannounced_nights"), {"actor": actor, "since": since})
        nights = [AnnouncedNight._make(row) for row in rows]
        for night in nights:
            if night.is_new:
                after = {"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "rater": night.rater}
                record_event(connection, actor, "announce", f"night {night.night_id}", after=after)
    return nights


NIGHT_ROW = {"shard_id": ">i8", "caption_length": ">i4", "score": ">f8"}


@dataclass(frozen=True, slots=True)
class ScoreBand:
    """A group of a night's samples and a range of their scores: where to look for examples."""

    shard_id: int | None
    caption_length: tuple[int, int]
    scores: tuple[float, float]


def read_night_scores(engine: Engine, rater_id: int, night_ids: Sequence[int]) -> NDArray[Any]:
    """Return shard_id, caption_length and score of the nights' distinct samples: 54 bytes a sample while they are read, then 20."""
    parameters = {"rater_id": rater_id, "night_ids": list(night_ids)}
    with engine.connect() as connection:
        # The rows of a night of a million samples are then sorted in memory; JIT compilation takes longer than it saves.
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        connection.execute(text("SET LOCAL jit = off"))
        rows = copy_out(connection, load_query("night_scores"), parameters, NIGHT_ROW)
    return rows[list(NIGHT_ROW)].astype([(name, kind.replace(">", "=")) for name, kind in NIGHT_ROW.items()])


def read_accepted(
    engine: Engine, dataset_id: int, rater_id: int, *, without: Sequence[int]
) -> list[tuple[int, int | None, list[float] | None]]:
    """Return the accepted nights, without those under test: night_id, n and quantiles (None if they were never stored)."""
    parameters = {"dataset_id": dataset_id, "rater_id": rater_id, "without_ids": list(without)}
    with engine.connect() as connection:
        rows = connection.execute(load_query("accepted_distributions"), parameters)
        return [(row.night_id, row.n, row.quantiles) for row in rows]


def read_pooled(engine: Engine, night: NightRow, rater_id: int) -> list[int]:
    """Return the nights directly before this one that were too small to be tested alone, without rejected and held ones."""
    statement = (
        select(Night.night_id, Night.state, ScoreDistribution.verdict)
        .join(ScoreDistribution, ScoreDistribution.night_id == Night.night_id)
        .where(Night.dataset_id == night.dataset_id, Night.rater_id == rater_id, Night.night_id < night.night_id)
        .order_by(Night.night_id.desc())
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    # A rejected or held night that was tested ends the chain, too: the nights before it were tested with it.
    chain = takewhile(lambda row: row.verdict == "pooled", rows)
    return [row.night_id for row in chain if row.state not in ("rejected", "held")]


def newest_scale(engine: Engine, rater_id: int) -> ScaleRow | None:
    """Return the rater's newest rank scale."""
    statement = (
        select(RankScale.knot_scores, RankScale.knot_ranks, RankScale.n_reference)
        .where(RankScale.rater_id == rater_id, RankScale.score == "rater")
        .order_by(RankScale.rank_scale_id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else ScaleRow._make(row)


def store_distribution(connection: Connection, night_id: int, *, measured_at: datetime, **fields: Any) -> None:
    """Store the score distribution of a night; an equal one changes no row, unless the night has newer scores than the row.

    Args:
        connection: The store.
        night_id: The night.
        measured_at: Time of the database's clock before its scores were read.
        fields: Columns of the distribution.
    """
    # As a value, because SQLAlchemy names the tables of this condition without their schema.
    newest = literal(connection.execute(_newest_score(night_id)).scalar_one(), DateTime(timezone=True))
    statement = insert(ScoreDistribution).values(night_id=night_id, created_at=measured_at, **fields)
    changed = [getattr(ScoreDistribution, name).is_distinct_from(statement.excluded[name]) for name in fields]
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["night_id"],
            set_={name: statement.excluded[name] for name in (*fields, "created_at")},
            where=or_(*changed, ScoreDistribution.created_at < newest),
        )
    )


def is_drift_current(engine: Engine, night_id: int) -> bool | None:
    """Return whether a night has no newer scores than its distribution; None for a night that was never measured."""
    is_current = func.coalesce(ScoreDistribution.created_at >= _newest_score(night_id).scalar_subquery(), True)
    with engine.connect() as connection:
        return connection.scalar(select(is_current).where(ScoreDistribution.night_id == night_id))


def _newest_score(night_id: int) -> Select[datetime]:
    return select(func.max(ShardScore.scored_at)).where(ShardScore.night_id == night_id)


def find_examples(
    engine: Engine, rater_id: int, night_ids: Sequence[int], *, band: ScoreBand, n_examples: int
) -> list[str]:
    """Return example samples of a band as DATASET/SHARD/KEY."""
    parameters = {
        "rater_id": rater_id, "night_ids": list(night_ids), "shard_id": band.shard_id,
        "shortest": band.caption_length[0], "longest": band.caption_length[1],
        "lowest": band.scores[0], "highest": band.scores[1], "n_examples": n_examples,
    }  # fmt: skip
    with engine.connect() as connection:
        rows = connection.execute(load_query("night_examples"), parameters)
        return [f"{row.dataset}/{row.uri}/{row.key}" for row in rows]


def shard_uris(engine: Engine, shard_ids: Sequence[int]) -> dict[int, str]:
    """Return shards as DATASET/SHARD."""
    statement = (
        select(Shard.shard_id, Dataset.name, Shard.uri)
        .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
        .where(Shard.shard_id.in_(shard_ids))
    )
    with engine.connect() as connection:
        return {shard_id: f"{name}/{uri}" for shard_id, name, uri in connection.execute(statement)}
