"""Nights: one revision of a crawl date of a dataset under one rater. Write, audit, publish: only decided nights are selectable."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import date

from sqlalchemy import Connection, Engine, func, select, text, update

from alchemist_core.errors import ConfigError
from alchemist_core.notifications import Event, page_of_this_task
from alchemist_core.store.notifications import announce
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, Dataset, Night, Rater

# Made once: a shard's commit, which looks for its night, takes milliseconds.
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
    raise ConfigError(f"{text!r} is not a night: name it as DATASET:YYYY-MM-DD.")


def hold_open_night(connection: Connection, dataset_id: int, crawl_date: date, rater_id: int) -> int:
    """Return the open revision of a night, opened if there is none; it cannot be decided before this transaction ends."""
    where = {"dataset_id": dataset_id, "crawl_date": crawl_date, "rater_id": rater_id}
    while (night_id := connection.execute(FIND_OPEN, where).scalar()) is None:
        connection.execute(OPEN_NEXT, where)
    return int(night_id)


def night_title(night: AnyRow) -> str:
    """Name a night as people say it: a crawl date alone is one of every dataset."""
    return f"{night.dataset} {night.crawl_date} r{night.revision}"


def open_nights(
    engine: Engine, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> Sequence[AnyRow]:
    """Return the nights that wait for a decision: night_id, dataset_id, dataset, crawl_date, revision, reason."""
    return _find_nights(engine, "scored", dataset_ids=dataset_ids, crawl_date=crawl_date, rater_id=rater_id)


def held_nights(
    engine: Engine, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> Sequence[AnyRow]:
    """Return the nights that are held, with the columns of `open_nights`."""
    return _find_nights(engine, "held", dataset_ids=dataset_ids, crawl_date=crawl_date, rater_id=rater_id)


def _find_nights(
    engine: Engine, state: str, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> Sequence[AnyRow]:
    columns = (
        Night.night_id,
        Night.dataset_id,
        Dataset.name.label("dataset"),
        Night.crawl_date,
        Night.revision,
        Night.reason,
    )
    statement = (
        select(*columns)
        .join(Dataset, Dataset.dataset_id == Night.dataset_id)
        .where(Night.state == state, Night.dataset_id.in_(dataset_ids), Night.rater_id == rater_id)
        .order_by(Night.night_id)
    )
    if crawl_date is not None:
        statement = statement.where(Night.crawl_date == crawl_date)
    with engine.connect() as connection:
        return connection.execute(statement).all()


def late_nights(engine: Engine, dataset_ids: Sequence[int], before: date) -> Sequence[AnyRow]:
    """Return the earlier nights that shards came late for: dataset, crawl_date."""
    parameters = {"dataset_ids": list(dataset_ids), "before": before}
    with engine.connect() as connection:
        return connection.execute(load_query("late_nights"), parameters).all()


def decide_night(connection: Connection, night_id: int, *, state: str, actor: str, reason: str | None = None) -> bool:
    """Decide an open night (`selectable` or `held`); False when it was decided before.

    A held night is announced here, in the same transaction, so that no caller can forget it; `deliver` sends it afterwards.
    """
    values = {"state": state, "reason": reason, "decided_by": actor, "decided_at": func.clock_timestamp()}
    statement = update(Night).where(Night.night_id == night_id, Night.state == "scored").values(values)
    is_decided = connection.execute(statement).rowcount == 1
    if is_decided and state == "held":
        announce(connection, _held(connection, night_id))
    return is_decided


def _held(connection: Connection, night_id: int) -> Event:
    columns = (Dataset.name.label("dataset"), Night.crawl_date, Night.revision, Night.reason, Rater.name.label("rater"))
    statement = (
        select(*columns)
        .join(Dataset, Dataset.dataset_id == Night.dataset_id)
        .join(Rater, Rater.rater_id == Night.rater_id)
        .where(Night.night_id == night_id)
    )
    night = connection.execute(statement).one()
    return Event(
        kind="held_night",
        key=f"held_night:{night_id}",
        what_happened=f"Night {night_title(night)} is held: {night.reason}.",
        where_to_look=page_of_this_task("drift"),
        what_to_do=f"If its scores are right: {release_command(night)}. If its data is wrong: leave it held.",
        facts={"dataset": night.dataset, "crawl_date": night.crawl_date.isoformat(), "rater": night.rater},
    )


def release_command(night: AnyRow) -> str:
    """Return the command that releases a night, as a person types it."""
    return (
        f"alchemist release night --dataset {shlex.quote(night.dataset)} --crawl-date {night.crawl_date} --reason WHY"
    )


def release_night(connection: Connection, night_id: int, *, actor: str, reason: str) -> bool:
    """Let a held night be drawn from after all; False when it is not held any more."""
    values = {"state": "released", "reason": reason, "decided_by": actor, "decided_at": func.clock_timestamp()}
    statement = update(Night).where(Night.night_id == night_id, Night.state == "held").values(values)
    return connection.execute(statement).rowcount == 1
