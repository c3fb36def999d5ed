"""Selection at size: from Postgres to committed membership, selections and previews of a snapshot, and a selection that only streams.

`python -m tests.benchmarks.select_scale [--pool 30000000] [--stream 100000000] [--retention 0.2]` starts its own embedded Postgres and
removes it afterwards; each figure is measured in its own process. It writes `.alchemist/bench/select_scale.json`. Alone on the
machine: most of the time is needed to make the corpus of 30 million, and 30 GB of disk (in ALCHEMIST_BENCH_FOLDER).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from alchemist_core.settings import load_settings
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_pool import Pool

COMMIT_S, NEXT_S, DRAW_S, PREVIEW_S, TIMES, GIB = 300, 30, 30, 2, 3, 1024
NIGHT = 300_000
"""Samples of the night after which the selection is repeated."""


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=int, default=30_000_000)
    parser.add_argument("--stream", type=int, default=100_000_000)
    parser.add_argument("--retention", type=float, default=0.2)
    given = parser.parse_args()
    with own_store() as engine:
        began = time.perf_counter()
        pool = Pool(engine)
        pool.grow(given.pool)
        print(f"a pool of {given.pool:,} pairs was made in {time.perf_counter() - began:.0f} s", flush=True)
        rows = [*committed(given.retention), *committed_next(pool, given.retention)]
        rows += [*drawn(given.retention), *previewed(given.retention)]
        rows += streamed(given.stream, given.retention, load_settings().home)
    write_rows("select_scale", rows)


def run(*words: object) -> dict[str, Any]:
    """Run one part of the work in its own process."""
    command = [sys.executable, "-m", "tests.benchmarks.select_work", *map(str, words)]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    facts["process_s"] = round(time.perf_counter() - began, 2)
    print(" ".join(map(str, words)), facts, flush=True)
    return facts


def committed(retention: float) -> list[Row]:
    """From Postgres, nothing kept, to membership that readers see."""
    facts = run("commit", retention)
    seconds = facts["select_s"] + facts["publish_s"]
    detail = f"{facts['k']:,} of {facts['n']:,}; select {facts['select_s']:.1f} s, publish {facts['publish_s']:.1f} s"
    return [
        Row(
            "select: Postgres to committed membership",
            round(seconds, 1),
            "s",
            f"< {COMMIT_S} s",
            seconds < COMMIT_S,
            detail,
        ),
        Row("select: peak memory of that", round(facts["peak_mib"]), "MiB", "< 4096", facts["peak_mib"] < 4 * GIB),
    ]


def committed_next(pool: Pool, retention: float) -> list[Row]:
    """The same after another night: only that night is read from Postgres."""
    pool.add_scored_night(NIGHT)
    facts = run("commit", retention)
    seconds = facts["select_s"] + facts["publish_s"]
    detail = f"{facts['k']:,} of {facts['n']:,}; select {facts['select_s']:.1f} s, publish {facts['publish_s']:.1f} s"
    name = f"select: the same after a night of {NIGHT:,}"
    return [Row(name, round(seconds, 1), "s", f"< {NEXT_S} s", seconds < NEXT_S, detail)]


def drawn(retention: float) -> list[Row]:
    """From the stored ranks: snapshot and selection of exactly k members."""
    facts = run("draw", retention)
    seconds, times = facts["snapshot_s"] + facts["draw_s"], facts["members_s"] / facts["argpartition_s"]
    detail = f"{facts['k']:,} of {facts['n']:,}; snapshot, verified, {facts['snapshot_s']:.2f} s, draw {facts['draw_s']:.2f} s"
    bare = f"draw {facts['members_s']:.2f} s, argpartition {facts['argpartition_s']:.2f} s"
    return [
        Row(
            "select: snapshot and draw from stored ranks",
            round(seconds, 2),
            "s",
            f"< {DRAW_S} s",
            seconds < DRAW_S,
            detail,
        ),
        Row("select: peak memory of that", round(facts["held_mib"]), "MiB", "< 4096", facts["held_mib"] < 4 * GIB),
        Row("select: draw against a bare argpartition", round(times, 2), "times", f"<= {TIMES}", times <= TIMES, bare),
    ]


def previewed(retention: float) -> list[Row]:
    """A second ratio and seed on the same snapshot."""
    facts = run("preview", min(1.5 * retention, 0.7), 9)
    slowest = max(facts["first_s"], facts["again_s"])
    both = f"{facts['first_s']:.2f} s and {facts['again_s']:.2f} s, {facts['process_s']} s with start and imports"
    detail = f"{both}; {facts['k']:,} members, overlap {facts['overlap']}"
    return [
        Row(
            "select: preview of another ratio and seed",
            round(slowest, 2),
            "s",
            f"< {PREVIEW_S} s",
            slowest < PREVIEW_S,
            detail,
        )
    ]


def streamed(n: int, retention: float, home: Path) -> list[Row]:
    """The selection alone, from arrays on disk."""
    with TemporaryDirectory(dir=home) as folder:
        generator = np.random.default_rng(0)
        np.save(Path(folder) / "rank.npy", generator.random(n))
        np.save(Path(folder) / "hash.npy", generator.integers(-(2**63), 2**63, n))
        facts = run("stream", folder, retention)
    detail = f"{facts['k']:,} of {n:,} in {facts['seconds']:.1f} s"
    return [
        Row(
            "select: memory of a draw that streams",
            round(facts["peak_mib"]),
            "MiB",
            "< 4096",
            facts["peak_mib"] < 4 * GIB,
            detail,
        )
    ]


if __name__ == "__main__":
    main()
