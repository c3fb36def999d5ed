"""Every command started twice at once: the end is that of one run, nothing is doubled, and both report what they did."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.store.engine import make_engine
from tests.faults.test_crash_points import Store, with_corpus

pytestmark = [pytest.mark.db, pytest.mark.faults]

MAINTAIN = tuple(("maintain", what) for what in ("leases", "takedowns", "retention", "statistics"))
LONGEST_S = 240
"""Two commands that block each other would wait for longer; each alone takes seconds."""
ACTS = "SELECT action || ' ' || subject, count(*) FROM alchemist.audit_events GROUP BY 1"
STATES = "SELECT state, count(*) FROM alchemist.runs GROUP BY state"
LEASES = "SELECT resource, 1 FROM alchemist.leases"


class Ended(NamedTuple):
    """The exit code and output of a process."""

    words: tuple[str, ...]
    status: int
    report: dict[str, Any]
    said: str

    @property
    def is_told_to_be_second(self) -> bool:
        """Whether it reports that another process did it, is doing it, or that there was nothing to do."""
        report = self.report
        is_nothing_new = report.get("is_new") is False or any(
            report.get(name) == 0 for name in ("n_shards", "n_nights", "n_pairs")
        )
        return "Following it" in self.said or is_nothing_new or "before" in str(report.get("note"))


def start(words: tuple[str, ...], store: Store) -> subprocess.Popen[str]:
    # Ledger rows contain the code version; fixed here, so that a commit during the test changes nothing.
    own = {
        "ALCHEMIST_DATABASE_URL": store.url,
        "ALCHEMIST_HOME": str(store.home),
        "ALCHEMIST_CODE_VERSION": "as tested",
        "OMP_NUM_THREADS": "1",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")} | own
    command = [sys.executable, "-m", "alchemist_core", *words, "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(words: tuple[str, ...], store: Store, *, n: int) -> list[Ended]:
    """Start so many at once and wait for all."""
    began, ended = time.monotonic(), []
    for process in [start(words, store) for _ in range(n)]:
        out, said = process.communicate(timeout=LONGEST_S)
        lines = out.strip().splitlines() or ["{}"]
        ended.append(Ended(words, process.returncode, json.loads(lines[-1]), said))
    assert time.monotonic() - began < LONGEST_S, words
    return ended


def count(store: Store, sql: str) -> Counter[str]:
    engine = make_engine(store.url)
    with engine.connect() as connection:
        found = Counter({name: int(n) for name, n in connection.execute(text(sql))})
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def twin_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    draw_scenes(root, n_train=60, n_validation=40, n_test=20, shard_size=15, side=32)
    return root


@pytest.fixture(scope="module")
def alone(
    twin_corpus: Path, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[Ended]]:
    """The chain, each command once."""
    store = Store(make_database(), tmp_path_factory.mktemp("alone"))
    return store, [ended for words in (*with_corpus(twin_corpus), *MAINTAIN) for ended in run(words, store, n=1)]


@pytest.fixture(scope="module")
def twice(
    twin_corpus: Path, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[list[Ended]]]:
    """The chain, each command twice at once."""
    store = Store(make_database(), tmp_path_factory.mktemp("twice"))
    return store, [run(words, store, n=2) for words in (*with_corpus(twin_corpus), *MAINTAIN)]


@pytest.mark.timeout(1800)
def test_both_of_two_succeed(alone: tuple[Store, list[Ended]], twice: tuple[Store, list[list[Ended]]]) -> None:
    failed = [(ended.words, ended.said) for pair in (*twice[1], alone[1]) for ended in pair if ended.status != 0]
    assert failed == []


def test_the_end_is_that_of_one(alone: tuple[Store, list[Ended]], twice: tuple[Store, list[list[Ended]]]) -> None:
    assert twice[0].checksums() == alone[0].checksums()
    assert twice[0].copies() == alone[0].copies()
    assert count(twice[0], ACTS) == count(alone[0], ACTS), "no act is noted twice"


def test_no_run_is_lost_and_no_lease_is_left(twice: tuple[Store, list[list[Ended]]]) -> None:
    assert set(count(twice[0], STATES)) == {"succeeded"}
    assert count(twice[0], LEASES) == Counter()


@pytest.mark.parametrize(
    "verb", ["ingest", "train-rater", "score", "select", "materialize", "train-downstream", "evaluate"]
)
def test_of_two_stages_one_works_and_the_other_follows_or_finds_it_done(
    alone: tuple[Store, list[Ended]], twice: tuple[Store, list[list[Ended]]], verb: str
) -> None:
    pairs = [pair for pair in twice[1] if pair[0].words[0] == verb]
    assert pairs
    for pair in pairs:
        assert any(ended.is_told_to_be_second for ended in pair), pair


@pytest.mark.parametrize(
    ("words", "figure"),
    [(("night", "publish"), "n_nights"), (("duplicates", "find"), "n_pairs"), (("subset", "publish"), "is_new")],
)
def test_the_results_of_two_concurrent_commands_add_up_to_that_of_one(
    alone: tuple[Store, list[Ended]], twice: tuple[Store, list[list[Ended]]], words: tuple[str, ...], figure: str
) -> None:
    (once,) = [ended for ended in alone[1] if ended.words[:2] == words]
    (pair,) = [pair for pair in twice[1] if pair[0].words[:2] == words]
    assert sum(int(ended.report[figure]) for ended in pair) == int(once.report[figure]) > 0
