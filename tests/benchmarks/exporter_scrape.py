"""A scrape of the exporter with 30 million scores and a million shards in the ledger.

`python -m tests.benchmarks.exporter_scrape [--pairs 30000000] [--shards 1000000]` starts its own embedded Postgres and removes it
afterwards. It writes `.alchemist/bench/exporter_scrape.json`. Alone on the machine: five minutes and 8 GB at full size.
"""

import argparse
import statistics
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, text

from alchemist_core.cli.exporter import StoreCollector, with_expectations
from alchemist_core.prices import Prices
from alchemist_core.project import Project
from alchemist_core.store.overviews import read_measurements
from alchemist_core.telemetry import Measurements
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows

FULL = Path(__file__).parents[1] / "infra" / "large_store.sql"
MAX_SERIES, MAX_SECONDS, N_SCRAPES = 500, 1.0, 20


def main() -> None:
    """Fill, measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30_000_000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    given = parser.parse_args()
    with own_store() as engine:
        fill(engine, given.pairs, given.shards)
        rows = measure(engine, f"{given.pairs:,} scores, {given.shards:,} shards")
    write_rows("exporter_scrape", rows)


def fill(engine: Engine, n_pairs: int, n_shards: int) -> None:
    """Everything that the exporter reads, and scores that it must not read."""
    with engine.begin() as connection:
        connection.execute(text(FULL.read_text().replace("N_SHARDS", str(n_shards)).replace("::", "\\:\\:")))
        connection.execute(text("SELECT alchemist.add_partition('scores', 1)"))
        scores = (
            "INSERT INTO alchemist.scores (rater_id, score, sample_id) SELECT 1, i, i FROM generate_series(1, :n) AS i"
        )
        connection.execute(text(scores), {"n": n_pairs})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def measure(engine: Engine, detail: str) -> list[Row]:
    """Scrape some times, as Prometheus would."""
    registry = CollectorRegistry()

    def read() -> Measurements:
        return with_expectations(read_measurements(engine, Prices(core_hour=0.1)), Project())

    registry.register(StoreCollector(read))
    seconds, page = [], b""
    for _ in range(N_SCRAPES):
        began = time.perf_counter()
        page = generate_latest(registry)
        seconds.append(time.perf_counter() - began)
    n_series = len([line for line in page.decode().splitlines() if not line.startswith("#")])
    return [
        Row("exporter: median scrape", round(statistics.median(seconds), 3), "s", f"< {MAX_SECONDS:g} s",
            statistics.median(seconds) < MAX_SECONDS, detail),
        Row("exporter: slowest scrape", round(max(seconds), 3), "s", f"< {MAX_SECONDS:g} s", max(seconds) < MAX_SECONDS, detail),
        Row("exporter: series", n_series, "series", f"< {MAX_SERIES}", n_series < MAX_SERIES, detail),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
