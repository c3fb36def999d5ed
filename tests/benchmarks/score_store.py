"""The score store at size: how fast a night loads, its cost in a larger corpus, and the cost of queries on 30 million scores.

`python -m tests.benchmarks.score_store [--scale 0.01] [--out FILE]` starts its own embedded Postgres and removes it afterwards. Loads use
the platform's own commit (COPY, accounting and ledger row in one fenced transaction); only the corpus is made by SQL.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text

from alchemist_core.store import ledger
from alchemist_core.store.copy import copy_columns
from alchemist_core.store.engine import make_engine, migrate
from alchemist_core.store.ledger import Provenance, ScoringScope, ShardOutcome
from alchemist_core.store.postgres import EmbeddedPostgres, start_postgres, stop_postgres
from alchemist_core.store.queries import load_query
from tests.benchmarks.score_pool import Pool

NIGHT_SHARDS, SHARD_PAIRS, ROUNDS = 30, 10_000, 9
POOLS, QUESTIONED = (0, 1_000_000, 10_000_000), 30_000_000
SCOPE = ScoringScope(rater_id=1, dataset_ids=(2,))
Row = dict[str, Any]


class Bench:
    """One run: the corpus, the size of a night, and the rows so far."""

    def __init__(self, engine: Engine, scale: float) -> None:
        self.engine, self.scale, self.pool = engine, scale, Pool(engine)
        self.n_shards = max(3, round(NIGHT_SHARDS * min(1.0, scale * 10)))
        self.shard_pairs = SHARD_PAIRS
        self.rows: list[Row] = []

    def note(self, name: str, value: float, unit: str, target: str, **facts: Any) -> None:
        """Keep one figure; `is_ok` decides it, else it is for information."""
        is_ok = facts.pop("is_ok", None)
        self.rows.append(
            {"name": name, "value": round(value, 4), "unit": unit, "target": target, "ok": is_ok, "detail": facts}
        )
        print(
            f"{name}: {value:,.3f} {unit} ({target or 'for information'}) {'' if is_ok is None else 'ok' if is_ok else 'MISSED'} {facts}",
            flush=True,
        )

    def load_night(self) -> tuple[float, float]:
        """Score one new night by claims and commits; returns the seconds of all of it, and of the commits alone."""
        self.pool.add_night(self.n_shards, n_pairs=self.shard_pairs)
        rng, committing, began = np.random.default_rng(0), 0.0, time.perf_counter()
        while claimed := ledger.claim_unscored_shard(self.engine, SCOPE, run_id=1, ttl_s=600):
            rows = ledger.read_unscored_pairs(self.engine, claimed.shard.shard_id, 1)
            ids = np.array([row.sample_id for row in rows], np.int64)
            scores = rng.normal(size=len(ids)).astype(np.float32)
            outcome = ShardOutcome(ids, scores, np.empty(0, np.int64), np.empty((0, 0), np.float32))
            started = time.perf_counter()
            ledger.commit_shard(
                self.engine, claimed, SCOPE, outcome=outcome, provenance=Provenance(1, "cpu", "float32")
            )
            committing += time.perf_counter() - started
        return time.perf_counter() - began, committing

    def plain_copy(self, *, is_indexed: bool, is_whole: bool = False) -> float:
        """COPY as many rows into an empty table, with the partition's indexes or none; returns its seconds.

        In a transaction for every shard, as the night is committed, or all at once.
        """
        n_copies, n = (1, self.n_shards * self.shard_pairs) if is_whole else (self.n_shards, self.shard_pairs)
        like = "(LIKE alchemist.scores_1 INCLUDING ALL)" if is_indexed else "(LIKE alchemist.scores_1)"
        scores = np.random.default_rng(0).normal(size=n).astype(np.float32)
        with self.engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE alchemist.copied {like}"))
        began = time.perf_counter()
        for number in range(n_copies):
            ids = np.arange(number * n, (number + 1) * n, dtype=np.int64)
            columns = {"rater_id": np.ones(n, np.int32), "score": scores, "sample_id": ids}
            with self.engine.begin() as connection:
                copy_columns(connection, "alchemist.copied", columns)
        seconds = time.perf_counter() - began
        with self.engine.begin() as connection:
            connection.execute(text("DROP TABLE alchemist.copied"))
        return seconds


def run(bench: Bench) -> None:
    """Measure everything, smallest corpus first."""
    n = bench.n_shards * bench.shard_pairs
    seconds: dict[int, float] = {}
    bench.load_night()  # to warm up; so "a corpus of 0" contains the nights that were measured before
    for size in (round(size * bench.scale) // 1_000 * 1_000 for size in POOLS):
        bench.pool.grow(size)
        rounds = [
            (
                *bench.load_night(),
                bench.plain_copy(is_indexed=True),
                bench.plain_copy(is_indexed=True, is_whole=True),
                bench.plain_copy(is_indexed=False, is_whole=True),
            )
            for _ in range(ROUNDS)
        ]
        whole, commits, indexed, at_once, bare = (statistics.median(values) for values in zip(*rounds, strict=True))
        seconds[size] = whole
        facts = {
            "pool": size,
            "earlier_nights": f"{n:,} to {ROUNDS * n:,}",
            "night": n,
            "rows_per_shard": bench.shard_pairs,
            "rounds": ROUNDS,
        }
        bench.note(
            "score load, share of a COPY into an empty copy of the partition", indexed / commits, "ratio", ">= 0.8",
            is_ok=indexed / commits >= 0.8, load_rows_per_s=round(n / commits), copy_rows_per_s=round(n / indexed),
            one_copy_of_the_night_rows_per_s=round(n / at_once), unindexed_copy_rows_per_s=round(n / bare), **facts,
        )  # fmt: skip
        bench.note("score load", n / commits, "rows/s", ">= 150000", is_ok=n / commits >= 150_000, **facts)
        bench.note("night in the store: claims, reads, commits", whole, "s", "", **facts)
    spread = max(seconds.values()) / min(seconds.values()) - 1
    bench.note("a night's time between the pools", spread, "ratio", "<= 0.10", is_ok=spread <= 0.10, seconds=seconds)
    ask(bench)


def ask(bench: Bench) -> None:
    """Time the questions on 30 million scores, each with the plan it was answered by."""
    size = round(QUESTIONED * bench.scale) // 1_000 * 1_000
    bench.pool.grow_scores(size)
    bench.pool.freeze_scale()
    bench.pool.settle()
    rng = np.random.default_rng(0)
    ids = [int(i) for i in rng.integers(2, round(POOLS[-1] * bench.scale), size=40)]
    timed(
        bench,
        "rank of one sample",
        0.05,
        load_query("rank_sample").text,
        [{"sample_id": i, "rater_id": 1} for i in ids],
    )
    for width in (0.1, 0.01, 0.001):
        pages = [
            {"rater_id": 1, "rank_from": low, "rank_to": low + width, "after_sample_id": i, "n_rows": 100}
            for i, low in zip(ids[:10], rng.uniform(0, 1 - width, size=10).tolist(), strict=True)
        ]
        timed(bench, f"page of 100 from a rank band of {width}", 0.1, load_query("page_rank_band").text, pages)
    timed(bench, "nightly overview", 1.0, "SELECT * FROM alchemist.nightly_overview", [{}] * 3, is_ledger_only=True)


def timed(
    bench: Bench, name: str, limit_s: float, sql: str, asked: list[Mapping[str, Any]], *, is_ledger_only: bool = False
) -> None:
    """Ask a question several times; the slowest counts, and its plan must use an index on the scores (or not read them at all)."""
    seconds = []
    with bench.engine.connect() as connection:
        plan = plan_nodes(connection, sql, asked[0])
        for parameters in asked:
            began = time.perf_counter()
            connection.execute(text(sql), parameters).all()
            seconds.append(time.perf_counter() - began)
    scans = {
        node["Relation Name"]: node["Node Type"] for node in plan if node.get("Relation Name", "").startswith("scores")
    }
    is_indexed = (
        not scans if is_ledger_only else set(scans.values()) <= {"Index Scan", "Index Only Scan"} and bool(scans)
    )
    bench.note(
        name, max(seconds), "s", f"< {limit_s}", is_ok=max(seconds) < limit_s and is_indexed, median=round(statistics.median(seconds), 4),
        n_scores=bench.pool.n, by=scans or "ledgers alone", n_asked=len(asked),
    )  # fmt: skip


def plan_nodes(connection: Connection, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every node of a statement's plan."""
    pending, found = list(connection.execute(text(f"EXPLAIN (FORMAT JSON) {sql}"), parameters).scalar_one()), []
    while pending:
        found.append(pending.pop())
        pending += [found[-1]["Plan"]] if "Plan" in found[-1] else found[-1].get("Plans", [])
    return found


@contextmanager
def own_server() -> Iterator[tuple[EmbeddedPostgres, Engine]]:
    """Start a server in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="alchemist-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        server = start_postgres(home)
        # Checkpoints at our word alone; foreign keys of made rows are not looked up.
        server.run_sql(
            "ALTER SYSTEM SET max_wal_size = '16GB'; ALTER SYSTEM SET checkpoint_timeout = '1h'; SELECT pg_reload_conf()"
        )
        server.run_sql("ALTER ROLE alchemist SUPERUSER")
        migrate(server.url())
        engine = make_engine(server.url())
        try:
            yield server, engine
        finally:
            engine.dispose()
            stop_postgres(home)


def main() -> None:
    """Run it and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    parser.add_argument("--out", type=Path, default=Path(".alchemist/bench/score_store.json"))
    options = parser.parse_args()
    with own_server() as (_, engine):
        bench = Bench(engine, options.scale)
        run(bench)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(bench.rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
