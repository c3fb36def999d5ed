"""Pictures that look alike: new pairs compared with all that came before, in blocks of one transaction each.

An incremental index: `distinct_images` holds the first pair of each group, by three bands of its perceptual hash. Only first pairs
are compared with, so a flood of equal pictures costs one row.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from alchemist_core.selection.duplicates import MAX_DISTANCE, assign_firsts
from alchemist_core.store.locks import take_lock
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import AnyRow

BLOCK_PAIRS = 50_000
LAST_COMPARED = """
    SELECT greatest(
        (SELECT coalesce(max(sample_id), 0) FROM alchemist.distinct_images),
        (SELECT coalesce(max(sample_id), 0) FROM alchemist.duplicate_samples)
    )
"""


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """What became of one block of new pairs."""

    n_pairs: int
    n_duplicates: int


def find_duplicates(engine: Engine, *, block_pairs: int = BLOCK_PAIRS) -> BlockCounts | None:
    """Compare the next block of pairs that were never compared; none when there is none. One caller at a time, others wait."""
    with engine.begin() as connection:
        take_lock(connection, "duplicates")
        block = _next_block(connection, block_pairs)
        if block is None:
            return None
        insert = text("""
            INSERT INTO alchemist.distinct_images (sample_id, perceptual_hash)
            SELECT sample_id, perceptual_hash FROM alchemist.samples WHERE sample_id > :after_id AND sample_id <= :last_id
        """)
        n_pairs = connection.execute(insert, block).rowcount
        same_as = {row.sample_id: row.earlier_id for row in connection.execute(load_query("find_same_images"), block)}
        near = connection.execute(load_query("find_near_images"), block | {"max_distance": MAX_DISTANCE})
        first_of = assign_firsts(same_as, ((row.sample_id, row.first_sample_id) for row in near))
        if first_of:
            moved = {"sample_ids": list(first_of), "first_ids": list(first_of.values())}
            connection.execute(load_query("set_duplicates_aside"), moved)
        return BlockCounts(n_pairs, len(first_of))


def count_uncompared(engine: Engine) -> int:
    """Return how many pairs were never compared; an estimate where ids have gaps."""
    statement = text(f"""
        SELECT greatest(0, coalesce((SELECT max(sample_id) FROM alchemist.samples), 0) - ({LAST_COMPARED}))
    """)  # noqa: S608  a constant
    with engine.connect() as connection:
        return int(connection.execute(statement).scalar_one())


def _next_block(connection: Connection, block_pairs: int) -> dict[str, int] | None:
    # Ids are drawn before their transactions commit. This lock waits for those under way, so no lower id can appear later.
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
    connection.execute(text("LOCK TABLE alchemist.samples IN SHARE MODE"))
    after_id = int(connection.execute(text(LAST_COMPARED)).scalar_one())
    statement = text("""
        SELECT max(sample_id) FROM (
            SELECT sample_id FROM alchemist.samples WHERE sample_id > :after_id ORDER BY sample_id LIMIT :n
        ) AS block
    """)
    last_id = connection.execute(statement, {"after_id": after_id, "n": block_pairs}).scalar()
    return None if last_id is None else {"after_id": after_id, "last_id": int(last_id)}


def find_lookalikes(engine: Engine, image_hash: bytes) -> list[AnyRow]:
    """Return other pictures that look like one, nearest first: image_hash, distance, n_pairs and a caption of each."""
    parameters = {"image_hash": image_hash, "max_distance": MAX_DISTANCE}
    with engine.connect() as connection:
        return list(connection.execute(load_query("find_lookalikes"), parameters))


def list_groups(engine: Engine, *, n_groups: int) -> list[dict[str, Any]]:
    """Return the largest groups: first_sample_id, n_samples, n_same_image, max_distance and the first pair's caption."""
    statement = text("""
        SELECT first_sample_id, n_samples, n_same_image, max_distance, samples.caption
        FROM alchemist.duplicate_groups INNER JOIN alchemist.samples ON first_sample_id = sample_id
        ORDER BY n_samples DESC, first_sample_id LIMIT :n
    """)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement, {"n": n_groups}).mappings()]
