"""Membership of a subset version in the store: one partition, filled once, wholly or not at all. Letters: K members."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sqlalchemy import Connection, Engine, text

from alchemist_core.data.manifests import Manifest
from alchemist_core.errors import DataError
from alchemist_core.store.copy_in import copy_columns
from alchemist_core.store.locks import take_lock, try_lock
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import SubsetSample

CHUNK_ROWS = 250_000
"""Members that are encoded at a time: 12 MB on their way to the server."""
# In the order of the key, so that its index is only appended to.
STORE = text("""
    INSERT INTO alchemist.subset_samples (subset_id, sample_id, rank)
    SELECT :subset_id, samples.sample_id, members.rank FROM members INNER JOIN alchemist.samples USING (pair_hash)
    ORDER BY samples.sample_id
""")


def store_members(engine: Engine, subset_id: int, manifest: Manifest) -> None:
    """COPY a manifest's members into the version's partition; a filled one is left as it is, for membership never changes.

    Raises:
        DataError: If a member is not in the store; the partition then stays empty.
    """
    with _sole_filler(engine, subset_id) as connection:
        with connection.begin():
            # On its own: attaching locks the parent against other attachments, and the COPY behind it may take minutes.
            connection.execute(text("SELECT alchemist.add_partition('subset_samples', :id)"), {"id": subset_id})
        with connection.begin():
            if not has_members(connection, subset_id):
                _fill(connection, subset_id, manifest)


def has_members(connection: Connection, subset_id: int) -> bool:
    """Tell whether a version's membership is in the store."""
    statement = SubsetSample.__table__.select().where(SubsetSample.subset_id == subset_id).limit(1)
    return connection.execute(statement).first() is not None


def lock_members(connection: Connection, subset_id: int) -> bool:
    """Let nobody store a version's membership before this transaction ends; False where somebody is just doing it."""
    return try_lock(connection, f"members {subset_id}")


def drop_members(connection: Connection, subset_id: int) -> None:
    """Take a version's membership, which `lock_members` keeps as it is, out of the store; its manifest can put it back."""
    connection.execute(text("SELECT alchemist.drop_partition('subset_samples', :id)"), {"id": subset_id})


@contextmanager
def _sole_filler(engine: Engine, subset_id: int) -> Iterator[Connection]:
    """Give a connection under whose lock, over several transactions, nobody else fills or drops the version's partition."""
    # The lock lasts as long as its transaction, so it has a connection of its own.
    with engine.connect() as connection, engine.connect() as holder:
        with holder.begin():
            # Made and committed first: a row that is only being made would let `lock_members` wait.
            take_lock(holder, f"members {subset_id}")
        with holder.begin():
            take_lock(holder, f"members {subset_id}")
            yield connection


def count_taken_down(connection: Connection, subset_id: int) -> int:
    """Count the stored members whose picture has been taken down since."""
    return int(connection.execute(load_query("count_taken_down"), {"subset_id": subset_id}).scalar_one())


def _copy_aside(connection: Connection, manifest: Manifest) -> None:
    connection.execute(text("CREATE TEMPORARY TABLE members (pair_hash bytea, rank float8) ON COMMIT DROP"))
    # 32 bytes as one value: a column of bytea, to numpy.
    pair_hash_K = np.ascontiguousarray(manifest.pair_hash_K32).view("V32").ravel()
    for start in range(0, len(manifest), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        columns = {"pair_hash": pair_hash_K[chunk], "rank": manifest.rank_K[chunk]}
        copy_columns(connection, "members", columns)
    # Without it the planner expects a few rows and looks each of millions up by the index.
    connection.execute(text("ANALYZE members"))


def _fill(connection: Connection, subset_id: int, manifest: Manifest) -> None:
    _copy_aside(connection, manifest)
    n_stored = connection.execute(STORE, {"subset_id": subset_id}).rowcount
    if n_stored != len(manifest):
        raise DataError(
            f"The manifest names {len(manifest):,} members, {n_stored:,} of them are in this store: not published. "
            "Was it selected from another store? Select again here."
        )
