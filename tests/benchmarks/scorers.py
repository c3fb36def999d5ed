"""Scores by name: how fast scores that were computed elsewhere are imported, beside a bare COPY of the same rows.

`python -m tests.benchmarks.scorers [--rows 10000000]` starts its own embedded Postgres, in ALCHEMIST_BENCH_FOLDER, and removes it
afterwards. It writes `.alchemist/bench/scorers.json`. Alone on the machine: ten million samples take minutes to make, and 12 GB.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from alchemist_core.cli.imports import ImportScoresConfig, ImportScoresResult, scores
from alchemist_core.settings import load_settings
from alchemist_core.store.copy import copy_columns, copy_out
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, at_least, write_rows
from tests.benchmarks.score_pool import Pool
from tests.peak_memory import peak_mib

ROWS_PER_S, MEMORY_MIB, CHUNK = 150_000, 512, 250_000
KEYS = ("sample_id", "pair_hash")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="number of scores to import")
    given = parser.parse_args()
    with own_store() as engine, TemporaryDirectory(dir=load_settings().home) as folder:
        began = time.perf_counter()
        pool = Pool(engine)
        pool.grow(given.rows)
        print(f"{pool.n:,} samples were made in {time.perf_counter() - began:.0f} s", flush=True)
        rows = imports(pool, Path(folder))
    write_rows("scorers", rows)


def imports(pool: Pool, folder: Path) -> list[Row]:
    """Import a score for each sample, by each key, and once more; the file by pair_hash is in the order of the hashes."""
    ids, hashes = read_samples(pool.engine)
    score = np.random.default_rng(0).normal(size=len(ids)).astype(np.float32)
    files = {key: folder / f"{key}.parquet" for key in KEYS}
    pq.write_table(pa.table({"sample_id": ids, "score": score}), files["sample_id"])
    order = np.argsort(hashes)
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(ids), [None, pa.py_buffer(hashes[order].tobytes())])
    pq.write_table(pa.table({"pair_hash": fixed, "score": score[order]}), files["pair_hash"])
    del hashes, order, fixed
    pool.settle()
    copied_s = bare_copy(pool.engine, ids, score)
    # To load the modules that an import needs.
    pq.write_table(pa.table({"sample_id": ids[:9], "score": score[:9]}), folder / "few.parquet")
    timed_import(folder / "few.parquet", "sample_id", name="bench_few")
    found = [Row("bare COPY of the same rows", round(len(ids) / copied_s), "rows/s", None, None, f"{len(ids):,} rows")]
    for key, path in files.items():
        pool.settle()
        first, took, mib = timed_import(path, key)
        assert (first.n_new, first.n_matched) == (len(ids), len(ids))
        detail = f"{first.n_new:,} rows in {took:.1f} s; {took / copied_s:.1f} times the bare COPY"
        found.append(at_least(f"import by {key}", len(ids) / took, ROWS_PER_S, "rows/s", detail))
        found.append(Row(f"import by {key}: memory", round(mib), "MiB", f"< {MEMORY_MIB}", mib < MEMORY_MIB))
        again, took, _ = timed_import(path, key)
        is_unchanged = (again.n_new, again.n_other, again.n_same) == (0, 0, len(ids))
        name = f"import by {key}, a second time: new rows"
        found.append(Row(name, again.n_new, "rows", "0", is_unchanged, f"{took:.1f} s"))
    return found


def read_samples(engine: Engine) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the ids and hashes of all samples, in the order of the ids."""
    statement = text("SELECT sample_id, pair_hash FROM alchemist.samples ORDER BY sample_id")
    with engine.connect() as connection:
        rows = copy_out(connection, statement, {}, {"sample_id": ">i8", "pair_hash": "S32"})
    return rows["sample_id"].astype(np.int64), np.ascontiguousarray(rows["pair_hash"])


def bare_copy(engine: Engine, ids: NDArray[np.int64], score: NDArray[np.float32]) -> float:
    """COPY the rows into a table with the indexes and constraints of a partition; return its seconds."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alchemist.copied (LIKE alchemist.scores_1 INCLUDING ALL)"))
    began = time.perf_counter()
    with engine.begin() as connection:
        for start in range(0, len(ids), CHUNK):
            part = slice(start, start + CHUNK)
            rater_id = np.ones(len(ids[part]), np.int32)
            columns: dict[str, NDArray[Any]] = {"rater_id": rater_id, "score": score[part], "sample_id": ids[part]}
            copy_columns(connection, "alchemist.copied", columns)
    took = time.perf_counter() - began
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE alchemist.copied"))
    return took


def timed_import(path: Path, key: str, *, name: str | None = None) -> tuple[ImportScoresResult, float, float]:
    """Import a file; return the result, the seconds, and the memory that it took beside what the process had."""
    before = peak_mib(reset=True)
    began = time.perf_counter()
    config = ImportScoresConfig.model_validate({"from_": str(path), "name": name or f"bench_{key}", "key": key})
    result = scores(config)
    return result, time.perf_counter() - began, peak_mib() - before


if __name__ == "__main__":
    main()
