"""Takedowns: recorded once, effective in every later read."""

from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.store.audit import record_event
from alchemist_core.store.tables import Sample, Subset, SubsetSample, Takedown


def take_down(engine: Engine, image_hash: bytes, reason: str, *, actor: str) -> tuple[bool, int, list[str]]:
    """Record a takedown.

    Returns:
        Whether it is new, how many pairs have the image, and the published subsets that contain one of them.
    """
    with engine.begin() as connection:
        statement = insert(Takedown).values(image_hash=image_hash, reason=reason, requested_by=actor)
        is_new = connection.execute(statement.on_conflict_do_nothing()).rowcount == 1
        if is_new:
            record_event(connection, actor, "takedown", f"image {image_hash.hex()}", after={"reason": reason})
        pairs = select(Sample.sample_id).where(Sample.image_hash == image_hash)
        n_pairs = connection.execute(select(func.count()).select_from(pairs.subquery())).scalar_one()
        containing = (
            select(Subset.name)
            .join(SubsetSample, SubsetSample.subset_id == Subset.subset_id)
            .where(Subset.state == "published", SubsetSample.sample_id.in_(pairs))
            .distinct()
            .order_by(Subset.name)
        )
        return is_new, n_pairs, list(connection.execute(containing).scalars())
