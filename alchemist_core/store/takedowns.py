"""Takedowns: recorded once, effective in every later read; and where the pictures have gone before."""

from collections.abc import Sequence

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.store.audit import record_event
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow, Sample, Takedown


def find_images(engine: Engine, *, url: str | None = None, sample: str | None = None) -> list[bytes]:
    """Return the pictures (sha256 of their bytes) that a URL, or a sample as DATASET/SHARD/KEY, names."""
    dataset, _, place = (sample or "").partition("/")
    parameters = {"url": url, "dataset": dataset or None, "place": place or None}
    with engine.connect() as connection:
        return [bytes(image_hash) for image_hash in connection.execute(load_query("find_images"), parameters).scalars()]


def take_down(engine: Engine, image_hashes: Sequence[bytes], reason: str, *, actor: str) -> tuple[int, int]:
    """Record takedowns, all or none: returns how many are new, and how many pairs the store has of these pictures."""
    with engine.begin() as connection:
        n_new = 0
        for image_hash in image_hashes:
            statement = insert(Takedown).values(image_hash=image_hash, reason=reason, requested_by=actor)
            if connection.execute(statement.on_conflict_do_nothing()).rowcount == 1:
                n_new += 1
                record_event(connection, actor, "takedown", f"image {image_hash.hex()}", after={"reason": reason})
        pairs = select(func.count()).select_from(Sample).where(Sample.image_hash.in_(image_hashes))
        return n_new, connection.execute(pairs).scalar_one()


def reason_of_takedown(engine: Engine, sample_id: int) -> str | None:
    """Return why a pair's picture was taken down; None where it was not."""
    statement = select(Takedown.reason).join(Sample, Sample.image_hash == Takedown.image_hash)
    with engine.connect() as connection:
        return connection.execute(statement.where(Sample.sample_id == sample_id)).scalar_one_or_none()


def find_reach(engine: Engine, image_hashes: Sequence[bytes]) -> list[AnyRow]:
    """Return the stored subset versions that contain the pictures, with their models and materialized folders."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("find_takedown_reach"), {"image_hashes": list(image_hashes)})
        return list(rows)
