"""A killed experiment resumes: no finished arm is trained again, and the table equals that of an undisturbed experiment."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from tests.faults.test_kills import finish, start
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.faults]
# Four arms of three seeds.
N_MODELS = 12
KILLED_AT = (2, 5, 8)


def command(corpus: Path) -> tuple[str, ...]:
    given = {
        "experiment": "rank_window", "dataset": "scenes", "evaluation": "t", "rater": "production", "truth": corpus / "truth.parquet",
        "arms": "random,planted,minus_loss,full", "retentions": "0.3", "tuning-seeds": "", "seeds": "2,3,4", "num-train-epochs": "6",
        "model": "batch_size=32,checkpointing_steps=5",
    }  # fmt: skip
    return ("experiment", "run", *(word for name, value in given.items() for word in (f"--{name}", str(value))))


def trained(store: TrainedStore) -> dict[str, tuple[object, ...]]:
    engine = make_engine(store.url)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT identity_hash, model_id, run_id, created_at FROM alchemist.models")
        ).all()
    engine.dispose()
    return {row[0]: tuple(row[1:]) for row in rows}


def files(store: TrainedStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.home / "artifacts/experiments/rank_window").iterdir()}


def test_a_killed_experiment_repeats_no_finished_arm_and_gives_the_same_table(
    copy_trained: Callable[[], TrainedStore], corpus: Path
) -> None:
    undisturbed, disturbed = copy_trained(), copy_trained()
    for store in (undisturbed, disturbed):
        finish(("score", "--dataset", "scenes"), store)
        finish(("night", "publish", "--dataset", "scenes"), store)
    finish(command(corpus), undisturbed)
    rng = random.Random(0)
    for n_wanted in KILLED_AT:
        before = trained(disturbed)
        process = start(command(corpus), disturbed)
        while len(trained(disturbed)) < n_wanted:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = trained(disturbed)
        assert {identity: after.get(identity) for identity in before} == before
        assert len(after) < N_MODELS
    before = trained(disturbed)
    finish(command(corpus), disturbed)
    after = trained(disturbed)
    assert {identity: after[identity] for identity in before} == before
    assert len(after) == N_MODELS
    assert after.keys() == trained(undisturbed).keys()
    assert files(disturbed) == files(undisturbed)
    assert table_checksums(disturbed.url) == table_checksums(undisturbed.url)
