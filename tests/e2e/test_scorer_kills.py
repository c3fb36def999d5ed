"""A night of an installed scorer through Airflow, whose job is killed twenty times, ends with the tables of an undisturbed one."""

import itertools
import os
import random
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, text

from alchemist_core.local import stack
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres
from tests.shards.conftest import real_corpus

from .calm import alchemist

__all__ = ["real_corpus"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]
N_KILLS, NIGHT, SHARD_SAMPLES = 20, "2026-01-01", 100
# Ten lines of a scorer, and one that makes it slow enough to be killed between two shards.
SCORER = '''
import time
from pathlib import Path

import numpy as np
from alchemist_core.scorers import Batch, Scorer

class Redness(Scorer):
    """How red an image is: the mean of red less that of green and blue, from -255 to 255."""
    image_side = 16

    def score(self, batch: Batch):
        time.sleep(0.004 * len(batch) * Path(__file__).with_name("slow").exists())
        mean = batch.image_BHWC.mean((1, 2), dtype=np.float32)
        return mean[:, 0] - mean[:, 1:].mean(1)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with an entry point."""
    folder = tmp_path / "packages"
    info = folder / "redness_scorer-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "redness_scorer.py").write_text(SCORER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redness-scorer\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[alchemist.scorers]\nredness = redness_scorer:Redness\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a stack until the test ends; leases are short, so that a dead holder is detected soon."""
    monkeypatch.setenv("ALCHEMIST_LEASE_TTL_S", "5")
    # So that a commit in the checkout meanwhile is no difference.
    monkeypatch.setenv("ALCHEMIST_CODE_VERSION", "test")
    load_settings.cache_clear()
    tmp_path.chmod(0o755)
    yield tmp_path / "stack"
    stack.down(tmp_path / "stack")


@pytest.fixture
def crawl(real_corpus: Path, tmp_path: Path) -> Path:
    """The real tars, cut into small shards."""
    folder = tmp_path / "crawl"
    folder.mkdir()
    for source in sorted(real_corpus.glob("0*.tar")):
        with tarfile.open(source) as tar:
            members = iter(tar)
            # An image, its caption and its metadata.
            for number in itertools.count():
                if not (some := list(itertools.islice(members, 3 * SHARD_SAMPLES))):
                    break
                with tarfile.open(folder / f"{source.stem}-{number:03d}.tar", "w") as small:
                    for member in some:
                        small.addfile(member, tar.extractfile(member))
    return folder


def running_score(engine: Engine) -> tuple[int, int] | None:
    """Return the newest running run of `score` and its process."""
    query = "SELECT run_id, pid FROM alchemist.runs WHERE stage = 'score' AND state = 'running' ORDER BY run_id DESC LIMIT 1"
    with engine.connect() as connection:
        row = connection.execute(text(query)).first()
        return None if row is None else (row.run_id, row.pid)


def count_shards(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM alchemist.shard_scores")).scalar_one())


class Killer:
    """Kills each job of `score` some seconds after it began, and notes how many shards were scored then."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._rng, self._last = engine, random.Random(2028), 0
        self.states: list[int] = []

    def kill_one(self, ended: Iterator[bool]) -> None:
        """Wait for the next job and kill it, unless the DAG run ends before."""
        while (job := running_score(self._engine)) is None or job[0] <= self._last:
            if next(ended):
                return
            time.sleep(0.1)
        self._last, pid = job
        time.sleep(self._rng.uniform(0, 10))
        if running_score(self._engine) == job:
            os.kill(pid, signal.SIGKILL)
            self.states.append(count_shards(self._engine))
            print(f"{len(self.states)}: killed run {self._last} at {self.states[-1]} shards", flush=True)


def has_ended(airflow: AirflowClient, run_id: str) -> Iterator[bool]:
    """Yield, every two seconds of asking, whether the DAG run has ended."""
    while True:
        is_over = airflow.call("GET", f"/api/v2/dags/nightly_rescore/dagRuns/{quote(run_id, safe='')}")["state"] in (
            "success",
            "failed",
        )
        asked = time.monotonic()
        while time.monotonic() < asked + 2:
            yield is_over


def test_the_night_of_an_installed_scorer_killed_twenty_times_ends_as_if_nothing_had_happened(
    home: Path, package: Path, crawl: Path
) -> None:
    stack.up(home)
    server = start_postgres(home)
    night = ("--dataset", "web", "--root", str(crawl), "--crawl-date", NIGHT)
    calm, calm_url = home.parent / "calm", server.create_database("calm")
    alchemist(calm_url, calm, "db", "migrate")
    for url, place in ((calm_url, calm), (server.url(), home)):
        alchemist(url, place, "scorer", "register", "redness", "--nightly")
    for command in (
        ("ingest", *night), ("duplicates", "find"), ("score", "--dataset", "web", "--rater", "nightly"),
        ("night", "check-drift", "--dataset", "web"), ("night", "publish", "--dataset", "web"),
    ):  # fmt: skip
        alchemist(calm_url, calm, *command)
    engine, airflow = make_engine(server.url()), stack.client(home)
    killer = Killer(engine)
    (package / "slow").touch()
    while len(killer.states) < N_KILLS:
        run_id = airflow.trigger("nightly_rescore", {"dataset": "web", "root": str(crawl)}, partition_key=NIGHT)
        ended = has_ended(airflow, run_id)
        while len(killer.states) < N_KILLS and not next(ended):
            killer.kill_one(ended)
    (package / "slow").unlink()
    try:
        airflow.wait("nightly_rescore", run_id, timeout_s=300, on_progress=print)
    except AirflowError:
        # The last kill used up the retries of its run.
        run_id = airflow.trigger("nightly_rescore", {"dataset": "web", "root": str(crawl)}, partition_key=NIGHT)
        airflow.wait("nightly_rescore", run_id, timeout_s=300, on_progress=print)
    n_shards = len(list(crawl.glob("*.tar")))
    between = {state for state in killer.states if 0 < state < n_shards}
    engine.dispose()
    assert len(between) >= 5, f"kills must fall between commits, not before or behind all of them: {killer.states}"
    assert table_checksums(server.url()) == table_checksums(calm_url)
