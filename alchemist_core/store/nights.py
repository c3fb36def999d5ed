"""Nights: one revision of a crawl date of a dataset under one rater. Write, audit, publish: only decided nights are selectable."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection, Engine, select, text, update

from alchemist_core.store.tables import AnyRow, Night, utc_now


def hold_open_night(connection: Connection, dataset_id: int, crawl_date: date, rater_id: int) -> int:
    """Return the open revision of a night, opened if there is none; it cannot be decided before this transaction ends."""
    where = (Night.dataset_id == dataset_id, Night.crawl_date == crawl_date, Night.rater_id == rater_id)
    find = select(Night.night_id).where(*where, Night.state == "scored").with_for_update(read=True)
    if (night_id := connection.execute(find).scalar()) is not None:
        return night_id
    open_next = text("""
        INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision)
        SELECT :dataset_id, :crawl_date, :rater_id, coalesce(max(revision), 0) + 1
        FROM alchemist.nights WHERE dataset_id = :dataset_id AND crawl_date = :crawl_date AND rater_id = :rater_id
        ON CONFLICT DO NOTHING
    """)
    connection.execute(open_next, {"dataset_id": dataset_id, "crawl_date": crawl_date, "rater_id": rater_id})
    return hold_open_night(connection, dataset_id, crawl_date, rater_id)


def open_nights(
    engine: Engine, *, dataset_ids: Sequence[int], crawl_date: date | None, rater_id: int
) -> Sequence[AnyRow]:
    """Return the nights that wait for a decision: night_id, dataset_id, crawl_date, revision."""
    statement = (
        select(Night.night_id, Night.dataset_id, Night.crawl_date, Night.revision)
        .where(Night.state == "scored", Night.dataset_id.in_(dataset_ids), Night.rater_id == rater_id)
        .order_by(Night.night_id)
    )
    if crawl_date is not None:
        statement = statement.where(Night.crawl_date == crawl_date)
    with engine.connect() as connection:
        return connection.execute(statement).all()


def decide_night(connection: Connection, night_id: int, *, state: str, actor: str, reason: str | None = None) -> bool:
    """Decide an open night (`selectable` or `held`); False when it was decided before."""
    values = {"state": state, "reason": reason, "decided_by": actor, "decided_at": utc_now()}
    statement = update(Night).where(Night.night_id == night_id, Night.state == "scored").values(values)
    return connection.execute(statement).rowcount == 1
