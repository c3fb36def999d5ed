"""Pairs and where their bytes lie, for stages that read images."""

from collections.abc import Sequence

from sqlalchemy import Engine, text

from alchemist_core.store.copy_in import copy_rows
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow


def read_training_pairs(engine: Engine, dataset_id: int, *, max_pairs: int | None = None) -> Sequence[AnyRow]:
    """Return a dataset's distinct pairs in the order of pair_hash, each with its first live location."""
    with engine.connect() as connection:
        return connection.execute(
            load_query("training_pairs"), {"dataset_id": dataset_id, "max_pairs": max_pairs}
        ).all()


def read_pair_locations(engine: Engine, pair_hash_K: Sequence[bytes]) -> Sequence[AnyRow]:
    """Return the first live location of each pair; pairs without one (taken down, shard retired) are absent."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE wanted (pair_hash bytea) ON COMMIT DROP"))
        copy_rows(connection, "wanted", ("pair_hash",), ((pair_hash,) for pair_hash in pair_hash_K))
        connection.execute(text("ANALYZE wanted"))
        return connection.execute(load_query("pair_locations")).all()
