"""Publishing at size: from a manifest to committed membership, and how long readers could notice the change.

`python -m tests.benchmarks.publish [--pool 30000000] [--retention 0.2]`: on an embedded Postgres of its own, removed afterwards. Rows are
written to `.alchemist/bench/publish.json`. Alone on the machine: the pool of 30 million takes minutes and 30 GB.
"""

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.data.manifests import Manifest, hash_rows
from alchemist_core.local.postgres import start_postgres, stop_postgres
from alchemist_core.store.engine import make_engine
from alchemist_core.store.migrate import migrate
from alchemist_core.store.subsets import find_subset, publish_subset, store_subset
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_pool import Pool

MINUTES, SWAPS = 5, 200
MEMBERS = "SELECT pair_hash FROM alchemist.samples WHERE pair_hash64 % 1000 BETWEEN 0 AND :share"


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=int, default=30_000_000)
    parser.add_argument("--retention", type=float, default=0.2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alchemist-bench-publish-") as folder:
        Path(folder).chmod(0o755)
        server = start_postgres(Path(folder))
        try:
            migrate(server.url())
            engine = make_engine(server.url())
            Pool(engine).grow(given.pool)
            write_rows("publish", measure(engine, given.retention))
            engine.dispose()
        finally:
            stop_postgres(Path(folder))


def measure(engine: Engine, retention: float) -> list[Row]:
    """Publish one large version, then swap two small ones."""
    manifest = read_members(engine, retention)
    add_version(engine, "large", manifest)
    before = peak_mib(reset=True)
    began = time.perf_counter()
    publish_subset(engine, find_subset(engine, "large"), manifest, actor="bench")
    took = time.perf_counter() - began
    grown_mib = peak_mib() - before
    return [
        Row("publish: manifest to committed membership", round(took, 2), "s", f"< {MINUTES * 60} s", took < MINUTES * 60,
            f"{len(manifest):,} members"),
        Row("publish: members a second", round(len(manifest) / took), "rows/s", None, None),
        Row("publish: memory beyond the manifest", round(grown_mib, 1), "MiB", "< 512", grown_mib < 512),
        *swap_times(engine, manifest),
    ]  # fmt: skip


def peak_mib(*, reset: bool = False) -> float:
    """Return the most memory that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(kib) / 1024


def swap_times(engine: Engine, manifest: Manifest) -> list[Row]:
    """Time publishes and rollbacks of versions whose membership is there: what a reader could notice is one commit of these."""
    small = Manifest(manifest.pair_hash_K32[:1_000], manifest.rank_K[:1_000], manifest.score_K[:1_000])
    for _ in range(2):
        add_version(engine, "small", small)
    took = []
    for turn in range(SWAPS):
        row = find_subset(engine, "small", version=1 + turn % 2)
        began = time.perf_counter()
        publish_subset(engine, row, small, actor="bench", action="publish" if turn < 2 else "rollback")
        took.append(1000 * (time.perf_counter() - began))
    low, high = np.quantile(took[2:], (0.5, 0.99))
    return [
        Row("rollback: median", round(float(low), 2), "ms", None, None, f"{SWAPS} swaps"),
        Row("rollback: 99 %", round(float(high), 2), "ms", None, None, f"mean {statistics.fmean(took[2:]):.2f} ms"),
    ]


def read_members(engine: Engine, retention: float) -> Manifest:
    """Take pairs by their hash, as a random draw would."""
    with engine.connect() as connection:
        streamed = connection.execution_options(yield_per=100_000).execute(
            text(MEMBERS), {"share": round(1000 * 2 * retention) - 1}
        )
        hashes = np.concatenate([hash_rows([bytes(row.pair_hash) for row in part]) for part in streamed.partitions()])
    order = np.argsort(np.ascontiguousarray(hashes[:, :8]).view(">u8").ravel())
    return Manifest(hashes[order], np.linspace(0, 1, len(hashes)), np.zeros(len(hashes)))


def add_version(engine: Engine, name: str, manifest: Manifest) -> None:
    """Store a version's row; what it was drawn from does not matter here."""
    with engine.begin() as connection:
        connection.execute(text("""
            INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference)
            SELECT 1, '{1}', '{0}', 1 WHERE NOT EXISTS (SELECT FROM alchemist.rank_scales)"""))  # fmt: skip
        connection.execute(text("""
            INSERT INTO alchemist.rank_snapshots (rank_scale_id, dataset_names, night_ids, n_eligible, eligible_hash)
            SELECT min(rank_scale_id), '{pool}', '{}', 1, 'e' FROM alchemist.rank_scales
            WHERE NOT EXISTS (SELECT FROM alchemist.rank_snapshots)"""))  # fmt: skip
        snapshot_id = connection.execute(text("SELECT min(snapshot_id) FROM alchemist.rank_snapshots")).scalar_one()
    store_subset(
        engine, name=name, snapshot_id=snapshot_id, strategy="random", retention=0.2, seed=0, spec={}, spec_hash=str(time.time_ns()),
        n_samples=len(manifest), manifest_sha256="m", manifest_uri="m.parquet", created_by="bench",
    )  # fmt: skip


if __name__ == "__main__":
    main()
