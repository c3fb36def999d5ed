"""A platform that is killed at every crash point of every command, one after another, ends as an undisturbed one.

A chain of commands on one store; each command dies at each of its crash points, at a call that the seed selects, and is then run to its
end. Seeds differ in the calls. The summary goes to `.alchemist/bench/faults.json`.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine
from tests.benchmarks.rows import Row, write_rows
from tests.faults.crash_points import POINTS, CrashPoint, command_of, points_of

pytestmark = [pytest.mark.db, pytest.mark.faults]

SEEDS = range(int(os.environ.get("ALCHEMIST_TEST_CRASH_SEEDS", "8")))
NAME, TRAINED = (
    "scenes-auto-r50",
    ("--preset", "tiny", "--num-train-epochs", "2", "--batch-size", "16", "--checkpointing-steps", "2"),
)
CHAIN = (
    # Dated, so that midnight during the test changes nothing.
    ("ingest", "--dataset", "v", "--root", "CORPUS/validation", "--role", "validation", "--crawl-date", "2026-01-01"),
    ("ingest", "--dataset", "t", "--root", "CORPUS/test", "--role", "evaluation", "--crawl-date", "2026-01-01"),
    ("ingest", "--dataset", "scenes", "--root", "CORPUS/train"),
    (
        "train-rater", "--preset", "tiny", "--dataset", "scenes", "--validation", "v", "--proxy-warmup-steps", "4",
        "--max-train-steps", "6", "--batch-size", "16", "--checkpointing-steps", "3",
    ),
    ("rater", "promote", "--without-acceptance", "a few steps, for tests"),
    ("score", "--dataset", "scenes"),
    ("duplicates", "find"),
    ("night", "publish", "--dataset", "scenes"),
    ("select", "--dataset", "scenes", "--retention", "0.5"),
    ("subset", "publish", NAME),
    ("materialize", NAME, "--shard-size", "10"),
    ("train-downstream", NAME, *TRAINED),
    ("evaluate", NAME),
    ("report", "--dataset", "scenes"),
)  # fmt: skip
# What a reader may see of a subset while commands die: the complete published version, or none.
PARTIAL = """
SELECT count(*) FROM alchemist.subsets
WHERE state = 'published' AND n_samples <> (
    SELECT count(*) FROM alchemist.subset_samples WHERE subset_samples.subset_id = subsets.subset_id
)
"""


class Store(NamedTuple):
    url: str
    home: Path

    def checksums(self) -> dict[str, str]:
        return table_checksums(self.url)

    def scalar(self, sql: str) -> int:
        engine = make_engine(self.url)
        with engine.begin() as connection:
            found = connection.execute(text(sql))
            value = int(found.scalar_one()) if found.returns_rows else found.rowcount
        engine.dispose()
        return value

    def copies(self) -> dict[str, bytes]:
        folder = self.home / "artifacts" / "materialized"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Forks:
    """The process that forks commands, with all imports done."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(
        self, words: tuple[str, ...], store: Store, *, point: CrashPoint | None = None, call: int = 0
    ) -> tuple[int, dict[str, int]]:
        environment = {
            "ALCHEMIST_DATABASE_URL": store.url, "ALCHEMIST_HOME": str(store.home), "ALCHEMIST_DECODE_WORKERS": "0",
            # Ledger rows contain the code version; fixed here, so that a commit during the test changes nothing.
            "ALCHEMIST_CODE_VERSION": "as tested",
        }  # fmt: skip
        order = {"words": words, "environment": environment, "point": point, "call": call}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer["status"], answer["counts"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    made = Forks(tmp_path_factory.mktemp("forks") / "log")
    yield made
    made.close()


@pytest.fixture(scope="module")
def crash_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    draw_scenes(root, n_train=60, n_validation=40, n_test=20, shard_size=15, side=32)
    return root


@pytest.fixture
def fresh_store(make_database: Callable[..., str], tmp_path: Path) -> Iterator[Store]:
    yield Store(make_database(), tmp_path / "home")
    shutil.rmtree(tmp_path / "home")


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """Faults by their result; written at the end."""
    found: Counter[str] = Counter()
    yield found
    lost = found["tables that differ"]
    rows = [
        Row("faults tried", found["tried"], "crashes", "≥ 500", found["tried"] >= 500, f"{len(SEEDS)} seeds"),
        Row("faults survived", found["survived"], "crashes", None, found["survived"] == found["tried"]),
        Row("tables that differ from the undisturbed ones", lost, "tables", "0", lost == 0, "rows lost or doubled"),
        Row("partial subsets seen", found["partial"], "subsets", "0", found["partial"] == 0),
    ]
    rows += [
        Row(f"crashes in {command}", found[command], "crashes", None, None, f"{len(points)} named moments")
        for command, points in POINTS.items()
    ]
    write_rows("faults", rows)


@pytest.fixture(scope="module")
def calm(
    forks: Forks, crash_corpus: Path, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, str]], list[dict[str, int]], dict[str, bytes]]:
    """The undisturbed chain: the checksums after each command, how often each moment passed, the copied bytes."""
    store = Store(make_database(), tmp_path_factory.mktemp("calm"))
    checksums, counts = [], []
    for words in with_corpus(crash_corpus):
        status, counted = forks.run(words, store)
        assert status == 0, words
        checksums.append(store.checksums())
        counts.append(counted)
    return checksums, counts, store.copies()


def with_corpus(corpus: Path) -> list[tuple[str, ...]]:
    return [tuple(word.replace("CORPUS", str(corpus)) for word in words) for words in CHAIN]


def test_every_named_moment_is_passed_and_there_are_enough_of_them(calm: tuple) -> None:
    n_points = sum(len(points) for points in POINTS.values())
    passed = {(command_of(words), name) for words, counts in zip(CHAIN, calm[1], strict=True) for name in counts}
    missed = [
        (command, point.title) for command, points in POINTS.items() for point in points
        if (command, point.function) not in passed
    ]  # fmt: skip
    assert missed == []
    assert n_points >= 16


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_that_dies_at_every_named_moment_ends_as_an_undisturbed_one(
    seed: int, forks: Forks, calm: tuple, crash_corpus: Path, fresh_store: Store, tally: Counter[str]
) -> None:
    rng, store = random.Random(seed), fresh_store
    checksums, counts, copies = calm
    for words, expected, counted in zip(with_corpus(crash_corpus), checksums, counts, strict=True):
        crashes = crash_everywhere(words, store, forks, counted, rng)
        tally["tried"] += crashes
        tally[command_of(words)] += crashes
        tally["partial"] += store.scalar(PARTIAL)
        status, _ = forks.run(words, store)
        assert status == 0, words
        found = store.checksums()
        differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        tally["tables that differ"] += len(differing)
        assert not differing, words
        tally["survived"] += crashes
    assert store.copies() == copies
    assert tally["partial"] == 0


def crash_everywhere(
    words: tuple[str, ...], store: Store, forks: Forks, counts: dict[str, int], rng: random.Random
) -> int:
    """Kill a command at each of its crash points; return how often it died: a repeated command skips finished work."""
    n_crashes = 0
    for point in points_of(words):
        status, _ = forks.run(words, store, point=point, call=rng.randint(1, counts.get(point.function, 1)))
        assert status in {0, -9}, (words, point)
        n_crashes += status == -9
        # As if the time that a lease takes to expire had passed.
        store.scalar("UPDATE alchemist.leases SET expires_at = now() - interval '1 second' WHERE expires_at > now()")
    return n_crashes
