"""New images against all earlier ones on a real store: grouped as by the slow oracle, for every division into blocks, and by index."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from alchemist_core.selection.duplicates import MAX_DISTANCE
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.leases import take_lock
from alchemist_core.store.samples import count_uncompared, find_duplicates, find_near_duplicates, list_groups
from tests.given import insert_rows, sha256
from tests.oracles.oracle_duplicates import oracle_firsts
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def lookalikes(n: int, *, seed: int = 0) -> list[int]:
    """Hashes of n images, many of them a few flipped bits away from others, in any of the bands; some equal."""
    draw = random.Random(seed)
    centres = [draw.getrandbits(64) for _ in range(n // 4)]
    found = []
    for _ in range(n):
        value = draw.choice(centres)
        for bit in draw.sample(range(64), draw.choice([0, 0, 1, 1, 2, 3, 5])):
            value ^= 1 << bit
        found.append(value)
    return found


def add(engine: Engine, hashes: list[int | None], *, first_id: int = 1, images: list[str] | None = None) -> None:
    with engine.begin() as connection:
        rows = [
            {
                "sample_id": first_id + i,
                "image_hash": sha256(images[i] if images else f"image {first_id + i}"),
                "perceptual_hash": None if value is None else signed(value),
            }
            for i, value in enumerate(hashes)
        ]
        insert_rows(connection, {"samples": rows})


def compare_all(engine: Engine, block_pairs: int = 50_000) -> None:
    while find_duplicates(engine, block_pairs=block_pairs) is not None:
        pass


def stored(engine: Engine) -> dict[int, int]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT sample_id, first_sample_id FROM alchemist.duplicate_samples")).all()
    return {row.sample_id: row.first_sample_id for row in rows}


@pytest.mark.parametrize("block_pairs", [1, 7, 1_000])
def test_the_groups_are_those_of_the_oracle_whatever_the_blocks(engine: Engine, block_pairs: int) -> None:
    hashes = lookalikes(200)
    add(engine, list(hashes))
    compare_all(engine, block_pairs)
    expected = {i + 1: first + 1 for i, first in oracle_firsts(hashes, MAX_DISTANCE).items()}
    assert len(expected) > 50
    assert stored(engine) == expected
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT sample_id, first_sample_id, distance, is_same_image FROM alchemist.duplicate_samples")
        ).all()
        kept = connection.execute(text("SELECT count(*) FROM alchemist.distinct_images")).scalar_one()
    assert kept + len(rows) == 200
    assert all((hashes[r.sample_id - 1] ^ hashes[r.first_sample_id - 1]).bit_count() == r.distance for r in rows)
    assert not any(row.is_same_image for row in rows)


def test_tonight_is_compared_with_history_and_comparing_again_changes_nothing(
    engine: Engine, database_url: str
) -> None:
    hashes = lookalikes(120, seed=1)
    add(engine, list(hashes[:70]))
    compare_all(engine)
    add(engine, list(hashes[70:]), first_id=71)
    assert count_uncompared(engine) == 50
    compare_all(engine)
    assert stored(engine) == {i + 1: first + 1 for i, first in oracle_firsts(hashes, MAX_DISTANCE).items()}
    before = table_checksums(database_url)
    assert find_duplicates(engine) is None
    assert table_checksums(database_url) == before


def test_the_same_bytes_are_one_image_even_where_no_hash_is_known(engine: Engine) -> None:
    add(engine, [None, 5, None, 5, None], images=["a", "b", "a", "b", "c"])
    compare_all(engine)
    assert stored(engine) == {3: 1, 4: 2}
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM alchemist.duplicate_groups ORDER BY first_sample_id")).all()
    assert [(r.first_sample_id, r.n_samples, r.n_same_image, r.later_sample_ids) for r in rows] == [
        (1, 2, 2, [3]),
        (2, 2, 2, [4]),
    ]


def test_a_flood_of_equal_images_leaves_one_row_in_the_index(engine: Engine) -> None:
    add(engine, [0] * 500)
    compare_all(engine, 100)
    assert stored(engine) == dict.fromkeys(range(2, 501), 1)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.distinct_images")).scalar_one() == 1


def test_near_duplicates_of_an_image_are_found_also_behind_another_first(engine: Engine) -> None:
    """2 is in the group of 1; 3 is a near-duplicate of 2 but not of 1."""
    add(engine, [0b0, 0b11, 0b111, 0b1 << 40, 0b11111 << 50])
    compare_all(engine)
    assert stored(engine) == {2: 1, 4: 1}
    found = find_near_duplicates(engine, sha256("image 2"))
    assert [(bytes(row.image_hash), row.distance) for row in found] == [(sha256("image 3"), 1), (sha256("image 1"), 2)]


def test_a_nights_lookup_goes_by_the_bands_and_not_over_history(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                """
            INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format, perceptual_hash)
            SELECT sha256(CAST(i AS text)::bytea), sha256('c'), sha256(CAST(i AS text)::bytea), 'c', 1, 1, 'JPEG',
                ('x' || substr(md5(CAST(i AS text)), 1, 16))::bit(64)::bigint
            FROM generate_series(1, 30000) AS i;
            INSERT INTO alchemist.distinct_images (sample_id, perceptual_hash) SELECT sample_id, perceptual_hash FROM alchemist.samples;
            ANALYZE alchemist.distinct_images;
        """.replace("::", "\\:\\:")
            )
        )
        from alchemist_core.store.queries import load_query

        sql = "EXPLAIN " + load_query("find_near_images").text
        plan = "\n".join(
            connection.execute(text(sql), {"after_id": 29990, "last_id": 30000, "max_distance": 2}).scalars()
        )
    assert plan.count("ix_distinct_images_band_") >= 3
    assert "Seq Scan on distinct_images" not in plan


def test_a_sample_that_is_being_ingested_with_a_lower_id_is_waited_for(engine: Engine) -> None:
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as ingesting:
            insert_rows(ingesting, {"samples": [{"sample_id": 1, "perceptual_hash": 0}]})
            add(engine, [1], first_id=2)
            second = thread.submit(find_duplicates, engine)
            wait_until_blocked(ingesting, second)
        counts = second.result()
    assert counts is not None
    assert (counts.n_pairs, counts.n_duplicates) == (2, 1)
    assert stored(engine) == {2: 1}
    assert count_uncompared(engine) == 0


def test_who_compares_waits_for_another_who_does(engine: Engine) -> None:
    add(engine, [0, 0])
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            take_lock(other, "duplicates")
            second = thread.submit(find_duplicates, engine)
            wait_until_blocked(other, second)
        assert second.result() is not None


def test_a_block_ends_where_it_is_full_and_the_next_begins_behind_it(engine: Engine) -> None:
    add(engine, [1 << (3 * i) for i in range(5)])
    assert count_uncompared(engine) == 5
    blocks = [find_duplicates(engine, block_pairs=2) for _ in range(4)]
    assert [None if block is None else block.n_pairs for block in blocks] == [2, 2, 1, None]
    assert count_uncompared(engine) == 0


@pytest.mark.parametrize(("n_bits", "is_near"), [(0, True), (1, True), (2, True), (3, False)])
def test_two_bits_of_64_are_the_most_that_near_duplicates_differ_in(engine: Engine, n_bits: int, is_near: bool) -> None:
    add(engine, [0, 2**n_bits - 1])
    compare_all(engine)
    assert stored(engine) == ({2: 1} if is_near else {})


def test_the_largest_groups_come_first_and_of_equals_the_first_seen(engine: Engine) -> None:
    add(engine, [0, 0xFF << 20, 0xFF << 40, 0, 0xFF << 20, 0xFF << 40, 0xFF << 40])
    compare_all(engine)
    groups = list_groups(engine, n_groups=2)
    assert [(group["first_sample_id"], group["n_samples"], group["caption"]) for group in groups] == [
        (3, 3, "pair 3"),
        (1, 2, "pair 1"),
    ]
