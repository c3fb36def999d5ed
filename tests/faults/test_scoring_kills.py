"""Scoring that is killed, paused and run in many processes ends in the state of one undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.scorers.registration import register
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine, open_store
from tests.trained_store import TrainedStore, use_store

pytestmark = [pytest.mark.db, pytest.mark.faults]
N_SHARDS, SHARD_PAIRS, N_KILLS, KILLS_A_ROUND = 80, 25, 50, 5
LEASE_TTL_S = 3
FIXED = {"OMP_NUM_THREADS": "1", "ALCHEMIST_CODE_VERSION": "test"}
START_S = 0.2
"""What a forked run takes until its first shard is claimed, about."""


SCORERS = """
import numpy as np
from alchemist_core.scorers import Batch, Scorer

class Redness(Scorer):
    image_side = 16

    def score(self, batch: Batch):
        mean = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean[:, 0] - mean[:, 1:].mean(1)

class Words(Scorer):
    image_side, is_padded, outputs = 16, False, ("letters", "words")

    def score(self, batch: Batch):
        return np.array([[len(text), len(text.split())] for text in batch.captions], np.float32)
"""


class Forks:
    """The forking process of `scoring_forks`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.scoring_forks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **FIXED},
            start_new_session=True,
        )  # fmt: skip

    def start(self, store: TrainedStore, *, slot: int = 0, rater: str = "production", **settings: object) -> int:
        """Start a scoring run; returns its pid."""
        environment = {"ALCHEMIST_DATABASE_URL": store.url, "ALCHEMIST_HOME": str(store.home)}
        environment |= {f"ALCHEMIST_{name.upper()}": str(value) for name, value in settings.items()}
        order = {"environment": environment, "slot": slot, "dataset": "many", "rater": rater}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._read()

    def finish(self) -> int:
        """Wait for the run's end; returns its exit status."""
        return self._read()

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture
def forks() -> Iterator[Callable[[], Forks]]:
    made: list[Forks] = []

    def make() -> Forks:
        made.append(Forks())
        return made[-1]

    yield make
    for each in made:
        os.killpg(each.process.pid, signal.SIGKILL)  # Its run too, which may be stopped.
        each.process.communicate()


@pytest.fixture(scope="module")
def unscored(
    trained_once: TrainedStore, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> TrainedStore:
    """A template with a trained rater and a dataset of many small unscored shards; never opened again."""
    root = tmp_path_factory.mktemp("many")
    draw_scenes(root, n_train=N_SHARDS * SHARD_PAIRS, n_validation=40, n_test=20, shard_size=SHARD_PAIRS, side=32)
    store = TrainedStore(make_database(template=make_url(trained_once.url).database), trained_once.home)
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, store)
        ingest(IngestConfig(dataset="many", root=str(root / "train")))
        open_store().dispose()
    return store


@pytest.fixture
def fresh(unscored: TrainedStore, make_database: Callable[..., str], tmp_path: Path) -> Callable[[], TrainedStore]:
    home = tmp_path / "home"
    shutil.copytree(unscored.home, home)
    return lambda: TrainedStore(make_database(template=make_url(unscored.url).database), home)


def ask(store: TrainedStore, statement: str) -> int:
    engine = make_engine(store.url)
    try:
        with engine.begin() as connection:
            return int(connection.execute(text(statement)).scalar_one())
    finally:
        engine.dispose()


def count_scored(store: TrainedStore) -> int:
    return ask(store, "SELECT count(*) FROM alchemist.shard_scores")


def let_leases_expire(store: TrainedStore) -> None:
    """How far the database's clock jumps while a lease lasts."""
    ask(
        store,
        "WITH u AS (UPDATE alchemist.leases SET expires_at = clock_timestamp() RETURNING 1) SELECT count(*) FROM u",
    )


def score_undisturbed(forks: Forks, store: TrainedStore, **settings: object) -> float:
    began = time.monotonic()
    forks.start(store, **settings)
    assert forks.finish() == 0
    return time.monotonic() - began


def kill_at_random(forks: Forks, store: TrainedStore, rng: random.Random, duration: float, **settings: object) -> bool:
    """Start scoring and kill it; false where it was over before."""
    n_raters = ask(store, "SELECT count(*) FROM alchemist.raters WHERE is_shadow OR state = 'production'")
    left_ratio = 1 - count_scored(store) / N_SHARDS / n_raters
    pid = forks.start(store, **settings)
    time.sleep(START_S + rng.random() * left_ratio * (duration - START_S))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    is_hit = forks.finish() == -signal.SIGKILL
    let_leases_expire(store)
    return is_hit


@pytest.mark.timeout(900)
def test_scoring_killed_fifty_times_at_random_moments_ends_as_if_nothing_had_happened(
    fresh: Callable[[], TrainedStore], forks: Callable[[], Forks]
) -> None:
    process, rng = forks(), random.Random(2026)
    undisturbed = fresh()
    duration = {n_workers: score_undisturbed(process, fresh(), decode_workers=n_workers) for n_workers in (0, 1)}
    score_undisturbed(process, undisturbed, decode_workers=0)
    expected, n_kills, states = table_checksums(undisturbed.url), 0, set()
    while n_kills < N_KILLS:
        store, settings = fresh(), {"decode_workers": rng.randrange(2)}
        for _ in range(KILLS_A_ROUND):
            n_kills += kill_at_random(process, store, rng, duration[settings["decode_workers"]], **settings)
            states.add(count_scored(store))
        score_undisturbed(process, store, **settings)
        assert table_checksums(store.url) == expected
        assert count_scored(store) == N_SHARDS
    assert len(states - {0, N_SHARDS}) >= 10, "kills must fall between commits, not before or behind all of them"


@pytest.mark.timeout(900)
def test_a_night_of_scorers_killed_twenty_times_ends_as_if_nothing_had_happened(
    fresh: Callable[[], TrainedStore], forks: Callable[[], Forks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rater and two scorers of a package beside, one with two outputs, in one pass."""
    (tmp_path / "redness_scorer.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process, rng = forks(), random.Random(2027)

    def night() -> TrainedStore:
        store = fresh()
        with pytest.MonkeyPatch.context() as patch:
            use_store(patch, store)
            for name in ("Redness", "Words"):
                register(open_store(), name.lower(), f"redness_scorer:{name}", {}, run_id=None, is_shadow=True)
            open_store().dispose()
        return store

    undisturbed = night()
    duration = score_undisturbed(process, undisturbed, rater="nightly")
    expected, n_kills, states = table_checksums(undisturbed.url), 0, set()
    assert count_scored(undisturbed) == 4 * N_SHARDS
    while n_kills < 20:
        store = night()
        for _ in range(KILLS_A_ROUND):
            n_kills += kill_at_random(process, store, rng, duration, rater="nightly")
            states.add(count_scored(store))
        score_undisturbed(process, store, rater="nightly")
        assert table_checksums(store.url) == expected
    assert len(states - {0, 4 * N_SHARDS}) >= 5, "kills must fall between commits, not before or behind all of them"


@pytest.mark.timeout(400)
def test_a_run_that_was_paused_beyond_its_lease_stores_nothing_more(
    fresh: Callable[[], TrainedStore], forks: Callable[[], Forks]
) -> None:
    paused, other, undisturbed, store = forks(), forks(), fresh(), fresh()
    score_undisturbed(other, undisturbed)
    pid = paused.start(store, lease_ttl_s=LEASE_TTL_S)
    deadline = time.monotonic() + 60
    while count_scored(store) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(pid, signal.SIGSTOP)
    n_done = count_scored(store)
    assert n_done < N_SHARDS
    assert ask(store, "SELECT count(*) FROM alchemist.leases WHERE resource LIKE 'shard:%'") > 0
    other.start(store, slot=1, lease_ttl_s=LEASE_TTL_S)
    assert other.finish() == 0
    assert count_scored(store) == N_SHARDS
    os.kill(pid, signal.SIGCONT)
    assert paused.finish() != 0
    assert table_checksums(store.url) == table_checksums(undisturbed.url)


def test_two_ranks_of_torchrun_share_the_shards_and_score_each_once(
    fresh: Callable[[], TrainedStore], forks: Callable[[], Forks]
) -> None:
    undisturbed, store = fresh(), fresh()
    score_undisturbed(forks(), undisturbed)
    command = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "alchemist_core",
        "score",
        "--dataset",
        "many",
    ]
    given = {"ALCHEMIST_DATABASE_URL": store.url, "ALCHEMIST_HOME": str(store.home), **FIXED}
    subprocess.run([sys.executable, *command], env={**os.environ, **given}, check=True, timeout=240)
    assert table_checksums(store.url) == table_checksums(undisturbed.url)
    assert (
        ask(store, "SELECT count(DISTINCT slot) FROM alchemist.runs WHERE stage = 'score' AND state = 'succeeded'") == 2
    )
    assert count_scored(store) == N_SHARDS
    assert (
        ask(store, "SELECT count(*) FROM (SELECT sample_id FROM alchemist.scores GROUP BY 1 HAVING count(*) > 1) AS d")
        == 0
    )
