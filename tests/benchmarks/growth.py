"""The law of growth: what a night costs in stores of several sizes, and the exponent of time and memory of each part.

`python -m tests.benchmarks.growth [--sizes 1000000 10000000 30000000]` starts its own embedded Postgres in ALCHEMIST_BENCH_FOLDER and
removes it afterwards. Each part is measured in its own process, at each size with the same night of 300,000 samples more. It writes
`.alchemist/bench/growth.json`. Alone on the machine: an hour and 40 GB at full size; a few minutes with `--sizes 100000 300000 1000000`.

An exponent is the slope of the logarithm of a figure over that of the store's size: 1 is linear, 0 does not grow. What a night does must
not grow with the store; what reads the whole store must not grow faster than it, and what streams needs the same memory at every size.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.cli.db import BackupConfig, backup
from alchemist_core.cli.drift import DriftConfig, check_drift
from alchemist_core.cli.duplicates import FindConfig
from alchemist_core.cli.duplicates import find as find_duplicates
from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.prices import Prices
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.browsing import Conditions, browse, scored_by
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_measurements, read_nights
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import take_snapshot
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_store import Bench
from tests.peak_memory import held_mib, peak_mib

SIZES = (1_000_000, 10_000_000, 30_000_000)
MOST_TIME, MOST_MEMORY = 1.05, 0.05
NAME = "grown"


class Part(NamedTuple):
    """What is measured, and whether its memory may grow with the store."""

    work: Callable[[Engine], Any]
    streams: bool


def _select(engine: Engine) -> None:
    select(
        SelectConfig.model_validate({"dataset": "pool,tonight", "name": NAME, "policy": {"strategy": "shift_gsample"}})
    )


def _snapshot(engine: Engine) -> None:
    rater = find_rater(engine, "production")
    assert rater is not None
    take_snapshot(engine, rater, ["pool", "tonight"])


def _backup(_engine: Engine) -> None:
    folder = load_settings().home / "backup"
    backup(BackupConfig(folder=folder))
    shutil.rmtree(folder)


def _explore(engine: Engine) -> None:
    rater = find_rater(engine, "production")
    assert rater is not None
    browse(engine, scored_by(rater.rater_id), Conditions())


PARTS: dict[str, Part] = {
    "drift of the night": Part(lambda _engine: check_drift(DriftConfig(dataset="tonight")), streams=True),
    "duplicates": Part(lambda _engine: find_duplicates(FindConfig()), streams=True),
    "snapshot with the night": Part(_snapshot, streams=False),
    "selection": Part(_select, streams=False),
    "publishing": Part(lambda _engine: publish(PublishSubsetConfig(name=NAME)), streams=False),
    "explorer: page of ranks": Part(_explore, streams=True),
    "exporter: a scrape": Part(lambda engine: read_measurements(engine, Prices()), streams=True),
    "list of nights": Part(lambda engine: read_nights(engine, None), streams=True),
    "backup": Part(_backup, streams=True),
}
"""In the order in which a night does them; the night itself is loaded before, by this process."""


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--work", choices=sorted(PARTS))
    given = parser.parse_args()
    if given.work is not None:
        work(given.work)
        return
    with own_store() as engine:
        rows = measure(engine, given.sizes)
    # Outside, because the store's home is deleted.
    write_rows("growth", rows)


def work(name: str) -> None:
    """Do one part in this process, and print its seconds and memory."""
    engine = open_store()
    base = held_mib()
    began = time.perf_counter()
    PARTS[name].work(engine)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib() - base}))


def measure(engine: Engine, sizes: Sequence[int]) -> list[Row]:
    """Grow the store from size to size, and measure every part at each."""
    bench = Bench(engine, 1.0)
    bench.load_night()
    decide(engine)
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in ("night: claims, reads, commits", *PARTS)}
    for size in sorted(sizes):
        bench.pool.grow(size)
        bench.pool.begin_date()
        whole, commits = bench.load_night()
        # More than was asked for: the nights of this benchmark stay in the store.
        size = count_samples(engine)  # noqa: PLW2901
        found["night: claims, reads, commits"][size] = {"seconds": whole, "peak_mib": 0.0}
        for number, name in enumerate(PARTS):
            # Drift is of a night that is not decided yet.
            if number == 1:
                decide(engine)
            found[name][size] = run(name)
            print(f"{size:,} {name}: {found[name][size]}", flush=True)
        print(f"{size:,} night: {whole:.2f} s, of which commits {commits:.2f} s", flush=True)
    return [row for name, figures in found.items() for row in rows_of(name, figures)]


def count_samples(engine: Engine) -> int:
    """Count the samples of the store."""
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM alchemist.samples")).scalar_one())


def decide(engine: Engine) -> None:
    """Make the loaded nights selectable, as their checks would."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE alchemist.nights SET state = 'selectable', decided_by = 'b', decided_at = now() WHERE state = 'scored'"
            )
        )


def run(name: str) -> dict[str, float]:
    """Measure one part in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.growth", "--work", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def rows_of(name: str, figures: Mapping[int, Mapping[str, float]]) -> list[Row]:
    """Make the rows of one part: the exponent of its time and, where it has a limit, of its memory."""
    listed = ", ".join(f"{size:,}: {one['seconds']:.2f} s, {one['peak_mib']:.0f} MiB" for size, one in figures.items())
    times = exponent({size: one["seconds"] for size, one in figures.items()})
    rows = [Row(f"{name}: exponent of time", round(times, 3), "", f"≤ {MOST_TIME}", times <= MOST_TIME, listed)]
    memory = exponent({size: one["peak_mib"] for size, one in figures.items()})
    if name in PARTS:
        is_ok = memory <= MOST_MEMORY if PARTS[name].streams else None
        target = f"≤ {MOST_MEMORY}" if PARTS[name].streams else None
        rows.append(Row(f"{name}: exponent of memory", round(memory, 3), "", target, is_ok, listed))
    return rows


def exponent(figures: Mapping[int, float]) -> float:
    """Return the slope of log(figure) over log(size); 0 with a single size.

    >>> round(exponent({10: 5.0, 100: 50.0, 1000: 500.0}), 6), exponent({10: 3.0})
    (1.0, 0.0)
    """
    if len(figures) < 2:
        return 0.0
    size, figure = (np.log(np.maximum(values, 1e-3)) for values in (list(figures), list(figures.values())))
    return float(np.polyfit(size, figure, 1)[0])


if __name__ == "__main__":
    Path(load_settings().home).mkdir(parents=True, exist_ok=True)
    main()
