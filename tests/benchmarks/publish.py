"""Publishing at size: from a manifest to committed membership, and for how long readers could notice the change.

`python -m tests.benchmarks.publish [--pool 30000000] [--retention 0.2]` starts its own embedded Postgres and removes it afterwards. It
writes `.alchemist/bench/publish.json`. Alone on the machine: the corpus of 30 million takes minutes and 30 GB.
"""

import argparse
import statistics
import time

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.store.manifests import Manifest, hash_rows
from alchemist_core.store.subsets import publish_subset
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_pool import Pool
from tests.peak_memory import peak_mib
from tests.stored_version import add_version
from tests.subset_reader import reading

MINUTES, SWAPS = 5, 1_000
MEMBERS = "SELECT pair_hash FROM alchemist.samples WHERE pair_hash64 % 1000 BETWEEN 0 AND :share"


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=int, default=30_000_000)
    parser.add_argument("--retention", type=float, default=0.2)
    given = parser.parse_args()
    with own_store() as engine:
        Pool(engine).grow(given.pool)
        rows = measure(engine, given.retention)
    write_rows("publish", rows)


def measure(engine: Engine, retention: float) -> list[Row]:
    """Publish one large version, then swap two small ones."""
    manifest = read_members(engine, retention)
    large = add_version(engine, "large", manifest)
    before = peak_mib(reset=True)
    began = time.perf_counter()
    publish_subset(engine, large, manifest, actor="bench")
    took = time.perf_counter() - began
    grown_mib = peak_mib() - before
    return [
        Row("publish: manifest to committed membership", round(took, 2), "s", f"< {MINUTES * 60} s", took < MINUTES * 60,
            f"{len(manifest):,} members"),
        Row("publish: members a second", round(len(manifest) / took), "rows/s", None, None),
        Row("publish: memory beyond the manifest", round(grown_mib, 1), "MiB", "< 512", grown_mib < 512),
        *swap_times(engine, manifest),
    ]  # fmt: skip


def swap_times(engine: Engine, manifest: Manifest) -> list[Row]:
    """Time publishes and rollbacks of versions whose membership is there, under the eyes of a reader who looks for a mixed one."""
    sizes = (1_000, 800)
    smalls = [Manifest(manifest.pair_hash_K32[:n], manifest.rank_K[:n], manifest.score_K[:n]) for n in sizes]
    versions = [add_version(engine, "small", small) for small in smalls]
    for version, small in zip(versions, smalls, strict=True):
        publish_subset(engine, version, small, actor="bench")
    took = []
    with reading(engine.url.render_as_string(hide_password=False), "small") as found:
        for turn in range(SWAPS):
            version, small, action = versions[turn % 2], smalls[turn % 2], ("rollback", "publish")[turn % 2]
            began = time.perf_counter()
            publish_subset(engine, version, small, actor="bench", action=action)
            took.append(1000 * (time.perf_counter() - began))
    whole = {(version.subset_id, version.subset_id, n) for version, n in zip(versions, sizes, strict=True)}
    n_mixed = len({seen[:3] for seen in found.seen} - whole)
    low, high = np.quantile(took, (0.5, 0.99))
    return [
        Row("publish, rollback: mixed versions that a reader saw", n_mixed, "versions", "0", n_mixed == 0,
            f"{found.n_reads:,} reads during {SWAPS:,} swaps"),
        Row("publish, rollback: median", round(float(low), 2), "ms", None, None, f"{SWAPS:,} swaps"),
        Row("publish, rollback: 99 %", round(float(high), 2), "ms", None, None, f"mean {statistics.fmean(took):.2f} ms"),
    ]  # fmt: skip


def read_members(engine: Engine, retention: float) -> Manifest:
    """Select samples by their hash, like a random selection."""
    with engine.connect() as connection:
        streamed = connection.execution_options(yield_per=100_000).execute(
            text(MEMBERS), {"share": round(1000 * 2 * retention) - 1}
        )
        hashes = np.concatenate([hash_rows([bytes(row.pair_hash) for row in part]) for part in streamed.partitions()])
    order = np.argsort(np.ascontiguousarray(hashes[:, :8]).view(">u8").ravel())
    return Manifest(hashes[order], np.linspace(0, 1, len(hashes)), np.zeros(len(hashes)))


if __name__ == "__main__":
    main()
