"""The cost of twenty analysts to a scoring night: the same night alone and with their queries, in turns.

`python -m tests.benchmarks.analysts`, alone on the machine, about 4 minutes; writes `.alchemist/bench/analysts.json`. With `--pairs 1024
--rounds 1` it only shows that it works, in two minutes. Each analyst logs in
as alchemist_reader, runs one of the common queries, waits for five seconds, and runs the next.
"""

import argparse
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError

from alchemist_core.store.engine import make_engine
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_pipeline import N_PAIRS, measure_rate, own_store, prepare

N_ANALYSTS, THINK_S, ROUNDS, SIDE = 20, 5.0, 3, 64
TIMEOUT_S = 60.0
"""What the role allows a statement; sql/roles.sql."""
QUESTIONS = (
    "SELECT * FROM alchemist.nightly_overview",
    "SELECT * FROM alchemist.subset_overview",
    "SELECT count(*) FROM alchemist.scores",
    "SELECT rank, score, caption FROM alchemist.current_scores JOIN alchemist.samples USING (sample_id) LIMIT 50",
    "SELECT width_bucket(score, -5, 5, 40) AS bin, count(*) FROM alchemist.scores GROUP BY bin",
    "SELECT format, count(*), avg(width) FROM alchemist.samples GROUP BY format",
    "SELECT * FROM alchemist.sample_history WHERE sample_id = (SELECT max(sample_id) FROM alchemist.samples)",
)
RUNAWAY = "SELECT count(*) FROM generate_series(1, 100000000) AS a CROSS JOIN generate_series(1, 1000) AS b"


class Analysts:
    """Twenty sessions that run queries until they are stopped."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.seconds: list[float] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(N_ANALYSTS)]

    def __enter__(self) -> "Analysts":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng, engine = np.random.default_rng(number), make_engine(self._url)
        with engine.connect() as connection:
            is_over = False
            while not is_over:
                began = time.perf_counter()
                try:
                    connection.execute(text(QUESTIONS[rng.integers(len(QUESTIONS))])).all()
                except OperationalError as error:
                    # A question that the role's limit ends has taken that long, and counts.
                    if "statement timeout" not in str(error):
                        raise
                connection.rollback()
                self.seconds.append(time.perf_counter() - began)
                is_over = self._stop.wait(THINK_S * 2 * rng.random())
        engine.dispose()


@contextmanager
def reader_url(engine: Engine) -> Iterator[str]:
    """Give the reader a password for as long as it is needed."""
    password = secrets.token_urlsafe(12)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER ROLE alchemist_reader PASSWORD '{password}'"))
    url = make_url(engine.url).set(username="alchemist_reader", password=password)
    yield url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text("ALTER ROLE alchemist_reader PASSWORD NULL"))


def main() -> None:
    """Measure nights in turns, then a runaway query."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=N_PAIRS[SIDE], help="pairs of a night (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="nights alone and nights beside (default: %(default)s)"
    )
    given = parser.parse_args()
    alone, beside, asked = [], [], []
    with own_store() as engine, reader_url(engine) as url:
        prepare(SIDE, given.pairs)
        for _ in range(given.rounds):
            alone.append(measure_rate(engine, SIDE, given.pairs, 1, has_heuristics=True))
            with Analysts(url) as analysts:
                beside.append(measure_rate(engine, SIDE, given.pairs, 1, has_heuristics=True))
            asked += analysts.seconds
        cancelled_s = measure_runaway(url)
    nights = f"{given.rounds} rounds of {given.pairs:,} pairs"
    slower = 1 - statistics.median(beside) / statistics.median(alone)
    write_rows("analysts", [
        Row("a night beside 20 analysts is slower by", round(slower, 4), "ratio", "< 0.2", slower < 0.2,
            f"{statistics.median(alone):,.0f} pairs/s alone, {statistics.median(beside):,.0f} beside; {nights}"),
        Row("longest question", round(max(asked), 3), "s", f"< {TIMEOUT_S:g}", max(asked) < TIMEOUT_S,
            f"{len(asked)} questions, median {statistics.median(asked) * 1e3:.0f} ms"),
        Row("a runaway query is cancelled after", round(cancelled_s, 1), "s", f"≤ {TIMEOUT_S + 1:g}", cancelled_s <= TIMEOUT_S + 1),
    ])  # fmt: skip


def measure_runaway(url: str) -> float:
    """Ask what would take hours; the role's limit ends it."""
    engine, began = make_engine(url), time.perf_counter()
    with engine.connect() as connection, pytest.raises(OperationalError, match="statement timeout"):
        connection.execute(text(RUNAWAY)).all()
    engine.dispose()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
