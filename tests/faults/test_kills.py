"""After any kill, running the commands again ends in the state of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from alchemist_core.errors import StoreError
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.store.backups import checksum, table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres, stop_postgres
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.faults]
N_SHARDS = 100

CHAIN = (
    ("score", "--dataset", "scenes"),
    ("night", "publish", "--dataset", "scenes"),
    ("select", "--dataset", "scenes", "--retention", "0.5"),
    ("subset", "publish", "scenes-auto-r50"),
    ("materialize", "scenes-auto-r50", "--shard-size", "20"),
    (
        "train-downstream", "scenes-auto-r50", "--preset", "tiny", "--num-train-epochs", "2", "--checkpointing-steps", "3",
    ),
    ("evaluate", "scenes-auto-r50"),
)  # fmt: skip


def environment(store: TrainedStore) -> dict[str, str]:
    given = {
        "ALCHEMIST_DATABASE_URL": store.url,
        "ALCHEMIST_HOME": str(store.home),
        "ALCHEMIST_LEASE_TTL_S": "6",
        "OMP_NUM_THREADS": "1",
        # Ledger rows contain the code version; fixed here, so that a commit during the test changes nothing.
        "ALCHEMIST_CODE_VERSION": "as tested",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")} | given


def start(words: tuple[str, ...], store: TrainedStore) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alchemist_core", *words]
    return subprocess.Popen(
        command, env=environment(store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(words: tuple[str, ...], store: TrainedStore) -> None:
    process = start(words, store)
    _, text = process.communicate(timeout=300)
    assert process.returncode == 0, f"{words}: {text}"


def run_chain(store: TrainedStore) -> tuple[dict[str, str], list[float]]:
    """Run every command once; returns the checksums and how long each took."""
    seconds = []
    for words in CHAIN:
        began = time.monotonic()
        finish(words, store)
        seconds.append(time.monotonic() - began)
    return table_checksums(store.url), seconds


def written_bytes(store: TrainedStore) -> dict[str, bytes]:
    folder = store.home / "artifacts" / "materialized"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tar")}


@pytest.mark.parametrize("seed", range(3))
def test_stages_killed_at_random_moments_end_as_if_nothing_had_happened(
    copy_trained: Callable[[], TrainedStore], seed: int
) -> None:
    undisturbed, disturbed = copy_trained(), copy_trained()
    expected, seconds = run_chain(undisturbed)
    rng, n_kills = random.Random(seed), 0
    for words, duration in zip(CHAIN, seconds, strict=True):
        for _ in range(2):
            process = start(words, disturbed)
            time.sleep(duration * rng.uniform(0.1, 0.7))
            n_kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
        finish(words, disturbed)
    assert n_kills >= 7
    assert table_checksums(disturbed.url) == expected
    assert written_bytes(disturbed) == written_bytes(undisturbed)


def test_postgres_killed_while_a_shard_is_scored_loses_nothing(trained_once: TrainedStore, tmp_path: Path) -> None:
    home = tmp_path / "own-server"
    home.mkdir()
    tmp_path.chmod(0o755)
    home.chmod(0o755)
    draw_scenes(home / "scenes", n_train=10 * N_SHARDS, n_validation=120, n_test=40, shard_size=10, side=32)
    try:
        checksums = []
        for name, is_disturbed in (("calm", False), ("hit", True)):
            store = TrainedStore(start_postgres(home).create_database(name), home / name)
            prepare(store, home / "scenes")
            if is_disturbed:
                kill_server_while_scoring(home, store)
            finish(CHAIN[0], store)
            checksums.append(checksum(store.url))
        assert checksums[0] == checksums[1]
    finally:
        stop_postgres(home)


def prepare(store: TrainedStore, corpus: Path) -> None:
    """Fill an empty database; on a given server its schema is made by `db migrate` alone."""
    finish(("db", "migrate"), store)
    finish(("ingest", "--dataset", "scenes", "--root", str(corpus / "train")), store)
    finish(("ingest", "--dataset", "v", "--root", str(corpus / "validation"), "--role", "validation"), store)
    words = "train-rater --preset tiny --dataset scenes --validation v --proxy-warmup-steps 5 --max-train-steps 5 --batch-size 16"
    finish(tuple(words.split()), store)
    finish(("rater", "promote", "--without-acceptance", "a few steps, for tests"), store)


def kill_server_while_scoring(home: Path, store: TrainedStore) -> None:
    """Kill the server after the first shard's commit and before the last one's: the command must notice."""
    process = start(CHAIN[0], store)
    assert wait_for_ledger(store, at_least=1) < N_SHARDS, "scoring was over before the kill"
    server = start_postgres(home)
    os.kill(int((server.data_dir / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == StoreError.exit_code, said
    assert "Traceback" not in said
    assert len(said.partition("error: ")[2].strip().splitlines()) == 1, "one line, no page of SQL"
    assert "run the same command again" in said
    started = start_postgres(home)
    assert make_url(started.url()).port == make_url(store.url).port, "a restarted server keeps its port"
    assert 1 <= wait_for_ledger(store, at_least=1) < N_SHARDS, "committed shards stay, the others are not half there"


def wait_for_ledger(store: TrainedStore, *, at_least: int) -> int:
    engine, deadline = make_engine(store.url), time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            with engine.connect() as connection:
                n_shards = connection.execute(text("SELECT count(*) FROM alchemist.shard_scores")).scalar_one()
            if n_shards >= at_least:
                return int(n_shards)
            time.sleep(0.02)
    finally:
        engine.dispose()
    raise AssertionError("no shard was scored within two minutes")
