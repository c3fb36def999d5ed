"""Semantic duplicates on a real store: grouped as by the slow oracle, for every division into blocks and nights, and after a kill."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.duplicates import FindSemanticConfig, ListSemanticConfig, find_semantic, list_semantic
from alchemist_core.embeddings import duplicates
from alchemist_core.embeddings.clusters import fit_centroids
from alchemist_core.embeddings.duplicates import find_semantic_duplicates
from alchemist_core.embeddings.reading import Embeddings, open_embeddings, unit_vectors
from alchemist_core.embeddings.upkeep import remove_taken_down
from alchemist_core.errors import ConfigError, DataError, StoreError
from alchemist_core.files import artifact_path
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.embeddings import find_centroids, insert_centroids, read_clustered, store_block
from alchemist_core.store.samples import take_down
from tests.embeddings.stored import RATER, add_embeddings
from tests.given import sha256
from tests.oracles.oracle_semantic import oracle_semantic

pytestmark = pytest.mark.db
DIM = 16


def lookalikes(n: int, *, seed: int = 0, spread: float = 0.15) -> np.ndarray:
    """Embeddings of n samples, of which many lie around a few others; none has length 1."""
    draw = np.random.default_rng(seed)
    centre_ND = draw.normal(size=(n // 4, DIM))
    vector_ND = centre_ND[draw.integers(0, len(centre_ND), n)]
    return (
        (vector_ND + spread * draw.normal(size=(n, DIM)) * draw.random((n, 1))) * draw.uniform(1, 3, (n, 1))
    ).astype(np.float16)


def find(**fields: object) -> tuple[int, int]:
    result = find_semantic(FindSemanticConfig.model_validate(fields))
    return result.n_compared, result.n_duplicates


def stored(engine: Engine) -> dict[int, int]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT sample_id, first_sample_id FROM alchemist.semantic_duplicates")).all()
    return {row.sample_id: row.first_sample_id for row in rows}


def expected(vector_ND: np.ndarray, threshold: float = 0.95) -> dict[int, int]:
    return {row + 1: first + 1 for row, first in oracle_semantic(vector_ND, threshold).items()}


@pytest.mark.parametrize("rows_a_block", [pytest.param(1, marks=pytest.mark.slow), 37, 1000])
def test_in_one_cluster_the_groups_are_those_of_the_oracle_whatever_the_blocks(
    engine: Engine, rows_a_block: int
) -> None:
    vector_ND = lookalikes(200)
    add_embeddings(engine, vector_ND, n_files=4)
    wanted = expected(vector_ND)
    assert 50 < len(wanted) < 180
    assert find(clusters=1, memory_gib=rows_a_block * 8 * DIM / 2**30) == (200, len(wanted))
    assert stored(engine) == wanted
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT sample_id, first_sample_id, similarity FROM alchemist.semantic_duplicates")
        )
        unit_ND = unit_vectors(vector_ND).astype(np.float64)
        for row in rows:
            assert row.similarity == pytest.approx(
                unit_ND[row.sample_id - 1] @ unit_ND[row.first_sample_id - 1], abs=1e-5
            )


def test_every_step_and_tile_gives_the_same_groups(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vector_ND = lookalikes(150, seed=3)
    add_embeddings(engine, vector_ND)
    for name, value in (("STEP", 7), ("TILE", 5), ("CHUNK_BYTES", 11 * 2 * DIM)):
        monkeypatch.setattr(duplicates, name, value)
    find(clusters=1, memory_gib=40 * 8 * DIM / 2**30)
    assert stored(engine) == expected(vector_ND)


def test_tonight_is_compared_with_history_and_comparing_again_changes_nothing(
    engine: Engine, database_url: str
) -> None:
    vector_ND = lookalikes(160, seed=1)
    add_embeddings(engine, vector_ND[:100])
    find(clusters=1)
    centroids = find_centroids(engine, RATER)
    add_embeddings(engine, vector_ND[100:], first_id=101)
    assert find()[0] == 60
    assert stored(engine) == expected(vector_ND)
    before = table_checksums(database_url)
    assert find() == (0, 0)
    assert table_checksums(database_url) == before
    after = find_centroids(engine, RATER)
    assert centroids is not None
    assert after is not None
    assert (after.sha256, after.uri) == (centroids.sha256, centroids.uri), "centroids are frozen"


def test_only_the_clusters_of_the_samples_of_a_chunk_are_read_however_far_apart_their_ids_are(engine: Engine) -> None:
    add_embeddings(engine, lookalikes(60))
    find(clusters=2)
    read = read_clustered(engine, RATER, np.array([1, 60, 10**12]))
    assert read.sample_id_B.tolist() == [1, 60]


def test_a_takedown_while_samples_are_compared_costs_only_what_was_taken_down(engine: Engine) -> None:
    add_embeddings(engine, lookalikes(60))
    find(clusters=1)
    add_embeddings(engine, lookalikes(60, seed=1), first_id=61)
    embeddings = Embeddings(engine, RATER)
    # Of the six files of 20 samples, one that was compared and one that was not lose a sample, and the last loses all.
    gone = {5, 65, *range(101, 121)}
    take_down(engine, [sha256(f"image {sample_id}") for sample_id in gone], "asked", actor="ann")
    assert remove_taken_down(engine) == (22, [])
    left = [sample_id for sample_id in range(1, 121) if sample_id not in gone]
    for should_verify in (False, True):
        blocks = embeddings.blocks(should_verify=should_verify, n_rows=7)
        assert [sample_id for block in blocks for sample_id in block.sample_id_B.tolist()] == left
    assert embeddings.read(np.arange(200)).sample_id_B.tolist() == left
    centroids = find_centroids(engine, RATER)
    assert centroids is not None
    assert find_semantic_duplicates(engine, embeddings, centroids).n_compared == 39
    assert find() == (0, 0)


def test_shards_whose_samples_alternate_are_compared_in_the_order_of_the_samples(engine: Engine) -> None:
    vector_ND = lookalikes(120, seed=2)
    odd, even = vector_ND[::2], vector_ND[1::2]
    add_embeddings(engine, even, ids=range(2, 121, 2))
    add_embeddings(engine, odd, ids=range(1, 120, 2))
    find(clusters=1, memory_gib=17 * 8 * DIM / 2**30)
    assert stored(engine) == expected(vector_ND)


def test_clusters_find_most_pairs_none_that_is_not_near_and_the_second_nearest_finds_more(engine: Engine) -> None:
    vector_ND = lookalikes(600, seed=4, spread=0.35)
    add_embeddings(engine, vector_ND)
    whole = expected(vector_ND, 0.9)
    found = {}
    for probes in (1, 2, 30):
        find(clusters=30, probes=probes, threshold=0.9, restart=True)
        found[probes] = stored(engine)
        unit_ND = unit_vectors(vector_ND)
        assert all(unit_ND[one - 1] @ unit_ND[first - 1] >= 0.8999 for one, first in found[probes].items())
    assert found[30] == whole, "every cluster is compared"
    recalls = [len(found[probes].keys() & whole.keys()) / len(whole) for probes in (1, 2)]
    assert 0.6 < recalls[0] < recalls[1] <= 1


def test_a_flood_of_equal_embeddings_is_one_group_and_a_zero_is_near_nothing(engine: Engine) -> None:
    vector_ND = np.ones((300, DIM), np.float16)
    vector_ND[[10, 20]] = 0
    add_embeddings(engine, vector_ND)
    find(clusters=1)
    assert stored(engine) == dict.fromkeys(set(range(2, 301)) - {11, 21}, 1)
    (group,) = list_semantic(ListSemanticConfig()).groups
    assert (group["first_sample_id"], group["n_samples"]) == (1, 298)
    assert (
        "297 samples are semantic duplicates of sample 1 (cosine at least 1.000)"
        in list_semantic(ListSemanticConfig()).summary()
    )


KILL = """
import os, signal
from alchemist_core.embeddings import duplicates
from alchemist_core.store import embeddings as rows
from alchemist_core.cli.duplicates import FindSemanticConfig, find_semantic

real, n = rows.copy_columns, 0
def copy_columns(connection, table, columns):
    global n
    n += 1
    if n == 6:  # the semantic duplicates of the third block: its clusters are copied already
        os.kill(os.getpid(), signal.SIGKILL)
    return real(connection, table, columns)
rows.copy_columns = copy_columns
find_semantic(FindSemanticConfig(clusters=1, memory_gib=30 * 128 / 2**30))
"""


def test_a_kill_in_the_middle_of_a_block_loses_that_block_alone_and_the_next_run_finishes(engine: Engine) -> None:
    vector_ND = lookalikes(150, seed=5)
    add_embeddings(engine, vector_ND)
    done = subprocess.run(
        [sys.executable, "-c", KILL], env=dict(os.environ), check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*), max(block_id) FROM alchemist.clusters")).one() == (60, 2)
    assert find()[0] == 90
    assert stored(engine) == expected(vector_ND)


def test_of_two_runs_at_once_the_slower_block_is_refused_and_nothing_is_stored_twice(engine: Engine) -> None:
    add_embeddings(engine, lookalikes(50))
    find(clusters=1)
    row = find_centroids(engine, RATER)
    assert row is not None
    block = duplicates.ComparedBlock(*(np.empty(0, kind) for kind in ("i8", "i4", "i8", "i8", "f4")))
    with pytest.raises(StoreError, match="Another run is finding semantic duplicates"):
        store_block(engine, row._replace(last_block_id=0), block, [])


def test_a_taken_down_sample_is_no_ones_first(engine: Engine) -> None:
    vector_ND = np.repeat(lookalikes(4, seed=6), 2, axis=0)
    add_embeddings(engine, vector_ND)
    take_down(engine, [sha256("image 1")], "asked", actor="ann")
    find(clusters=1)
    assert stored(engine)
    assert 1 not in {*stored(engine), *stored(engine).values()}


def test_a_sample_like_a_taken_down_first_joins_the_others_of_its_group(engine: Engine) -> None:
    vector_ND = np.repeat(lookalikes(4, seed=6)[:1], 4, axis=0)
    add_embeddings(engine, vector_ND[:3])
    find(clusters=1)
    assert stored(engine) == {2: 1, 3: 1}
    take_down(engine, [sha256("image 1")], "asked", actor="ann")
    add_embeddings(engine, vector_ND[3:], first_id=4)
    find()
    assert stored(engine) == {2: 1, 3: 1, 4: 2}


def test_a_restart_that_fails_forgets_nothing_and_a_run_of_before_it_stores_nothing_after_it(engine: Engine) -> None:
    add_embeddings(engine, lookalikes(50))
    find(clusters=1)
    before, row = stored(engine), find_centroids(engine, RATER)
    assert before
    assert row is not None
    with pytest.raises(ConfigError, match="more than the 50 embeddings"):
        find(clusters=51, restart=True)
    assert stored(engine) == before
    # A run that began with these centroids has compared its first block when a restart makes others.
    began = row._replace(last_block_id=0)
    insert_centroids(engine, began._replace(threshold=0.5), is_restart=True)
    block = duplicates.ComparedBlock(*(np.empty(0, kind) for kind in ("i8", "i4", "i8", "i8", "f4")))
    with pytest.raises(StoreError, match="Another run is finding semantic duplicates"):
        store_block(engine, began, block, [])


@pytest.mark.parametrize("other", [{"threshold": 0.9}, {"clusters": 3}, {"probes": 2}, {"seed": 7}])
def test_options_of_earlier_runs_are_kept_until_a_restart(engine: Engine, other: dict[str, float]) -> None:
    add_embeddings(engine, lookalikes(60))
    find(clusters=2, probes=1)
    before = stored(engine)
    with pytest.raises(ConfigError, match=rf"--{next(iter(other))} .*Omit it, or compare all samples again: --restart"):
        find(**other)
    assert stored(engine) == before
    assert find(**{"clusters": 2, "probes": 1} | other, restart=True)[0] == 60


def test_centroids_are_the_same_by_the_same_seed_and_others_by_another() -> None:
    unit_ND = unit_vectors(lookalikes(300))
    first, again, other = (fit_centroids(unit_ND, 8, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not (first == other).all()
    assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(8), abs=1e-5)


def test_changed_centroids_and_too_many_clusters_are_refused(engine: Engine) -> None:
    add_embeddings(engine, lookalikes(40))
    with pytest.raises(ConfigError, match="--clusters 41 is more than the 40 embeddings"):
        find(clusters=41)
    find(clusters=2)
    row = find_centroids(engine, RATER)
    assert row is not None
    artifact_path(row.uri).write_bytes(b"others")
    add_embeddings(engine, lookalikes(5), first_id=41)
    with pytest.raises(DataError, match="were changed"):
        find()
    assert len(Embeddings(engine, RATER)) == len(open_embeddings(engine, "clip")) == 45
