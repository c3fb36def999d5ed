"""Scorers: three in one pass, a vision-language model whose server misbehaves, imports beside a bare COPY, semantic duplicates.

`python -m tests.benchmarks.scorers [--parts passes,vlm,imports,semantic] [--rows 10000000] [--semantic-rows 100000,1000000]
[--semantic-dim 512]` starts its own embedded Postgres, in ALCHEMIST_BENCH_FOLDER, and removes it afterwards. It writes
`.alchemist/bench/scorers.json`; parts that are not measured keep their rows. Alone on the machine: ten million samples take minutes to
make, and 12 GB.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from alchemist_core.cli.imports import ImportScoresConfig, ImportScoresResult, scores
from alchemist_core.scorers import vlm
from alchemist_core.scorers.registration import register
from alchemist_core.settings import load_settings
from alchemist_core.shards import decoding
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.copy import copy_columns, copy_out
from tests.benchmarks import embeddings
from tests.benchmarks.jpeg_corpus import write_corpus
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, at_least, write_rows
from tests.benchmarks.score_pool import Pool
from tests.peak_memory import peak_mib
from tests.scorers import score_by_vlm
from tests.scorers.vlm_server import serving

ROWS_PER_S, MEMORY_MIB, CHUNK = 150_000, 512, 250_000
KEYS = ("sample_id", "pair_hash")


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="passes,vlm,imports,semantic", help="what to measure, separated by commas")
    parser.add_argument("--images", type=int, default=3000, help="images of three scorers in one pass")
    parser.add_argument("--samples", type=int, default=1000, help="samples of the vision-language model")
    parser.add_argument("--rows", type=int, default=10_000_000, help="number of scores to import")
    parser.add_argument(
        "--semantic-rows", default="100000,1000000", help="numbers of synthetic embeddings, separated by commas"
    )
    parser.add_argument("--semantic-dim", type=int, default=512, help="numbers of each")
    given = parser.parse_args()
    measure: dict[str, Callable[[], list[Row]]] = {
        "passes": lambda: passes(given.images),
        "vlm": lambda: ask_model(given.samples),
        "imports": lambda: measure_imports(given.rows),
        "semantic": lambda: semantic([int(size) for size in given.semantic_rows.split(",")], given.semantic_dim),
    }
    for part in given.parts.split(","):
        # After each part, so that a long one does not lose the others.
        write_rows("scorers", [*_kept(part), *(row._replace(name=f"{part}: {row.name}") for row in measure[part]())])


def _kept(part: str) -> list[Row]:
    """Return the rows of other parts that were measured before."""
    path = load_settings().home / "bench" / "scorers.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Row(**row) for row in found if not row["name"].startswith(f"{part}: ")]


# --- Three scorers in one pass ------------------------------------------------------------------------------------------------


def passes(n_images: int) -> list[Row]:
    """Score images of 512 px with three scorers of one side, in one pass and in three; count the decodes."""
    kinds = ("Redness", "Brightness", "Contrast")
    with own_store() as engine, pytest.MonkeyPatch.context() as patch:
        # In this process, where decodes can be counted.
        patch.setenv("ALCHEMIST_DECODE_WORKERS", "0")
        load_settings.cache_clear()
        root = load_settings().home / "images"
        write_corpus(root, side=512, n_pairs=n_images, shard_pairs=500)
        ingest(IngestConfig(dataset="images", root=str(root), perceptual_hash=False))
        decode, n_decoded = decoding.decode_views, 0

        def count(*arguments: Any, **options: Any) -> Any:
            nonlocal n_decoded
            n_decoded += 1
            return decode(*arguments, **options)

        patch.setattr(decoding, "decode_views", count)
        found: dict[str, tuple[int, float]] = {}
        for number, how in enumerate(("one pass", "three passes")):
            names = [f"{kind.lower()}_{number}" for kind in kinds]
            for name, kind in zip(names, kinds, strict=True):
                use = f"tests.benchmarks.pixel_scorers:{kind}"
                register(engine, name, use, {"copy_number": number}, run_id=None, is_shadow=number == 0)
            n_decoded, began = 0, time.perf_counter()
            for config in [{"rater": "nightly"}] if number == 0 else [{"scorer": name} for name in names]:
                score(ScoreConfig.model_validate(config | {"heuristics": False}))
            found[how] = n_decoded, time.perf_counter() - began
        statement = text("""
            SELECT count(*) AS n, count(*) FILTER (WHERE one.score <> three.score) AS n_other
            FROM alchemist.scores AS one
            INNER JOIN alchemist.scores AS three ON one.rater_id + 3 = three.rater_id AND one.sample_id = three.sample_id
        """)
        with engine.connect() as connection:
            n, n_other = connection.execute(statement).one()
    (n_once, once_s), (n_thrice, thrice_s) = found["one pass"], found["three passes"]
    detail = f"{n_images:,} images of 512 px, three scorers of 64 px"
    return [
        Row("decodes in one pass", n_once, "images", f"{n_images}", n_once == n_images, detail),
        Row("decodes in three passes", n_thrice, "images", None, None, f"{thrice_s:.1f} s"),
        Row(
            "time of one pass",
            round(once_s / thrice_s, 3),
            "of three",
            "< 0.6",
            once_s / thrice_s < 0.6,
            f"{once_s:.1f} s",
        ),
        Row(
            "scores that differ between the two", n_other, "scores", "0", (n, n_other) == (3 * n_images, 0), f"of {n:,}"
        ),
    ]


# --- A vision-language model --------------------------------------------------------------------------------------------------

ALWAYS = ("not json", "refusal", "content filter", "400", "out of bounds")
ONCE = ("slow", "429", "500", "503", "cut", "reset", "html", "no choices", "other schema", "refusal text")


def misbehave(sample: int, n_before: int) -> str:
    """Every fifth sample never gets a score; of the others, most get it at their second request."""
    if sample % 5 == 0:
        return ALWAYS[sample // 5 % len(ALWAYS)]
    return "late" if n_before >= sample % 2 else ONCE[sample % len(ONCE)]


def ask_model(n_samples: int) -> list[Row]:
    """Score samples by servers that misbehave in every way; the process is killed halfway, and another one continues."""
    return [*_ask_model(n_samples, knows_keys=False), *_ask_model(n_samples, knows_keys=True)]


def _ask_model(n_samples: int, *, knows_keys: bool) -> list[Row]:
    server_of = serving(misbehave, knows_keys=knows_keys)
    with TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch, server_of as server:
        patch.setenv("ALCHEMIST_HOME", home)
        patch.setattr(vlm, "BACKOFF_S", 0.001)
        load_settings.cache_clear()
        began = time.perf_counter()
        command = [sys.executable, "-m", "tests.scorers.score_by_vlm", server.url, str(n_samples)]
        with subprocess.Popen(command, env=os.environ | {"ALCHEMIST_HOME": home}, stderr=subprocess.DEVNULL) as process:
            while server.n_requests.total() < 0.8 * n_samples and process.poll() is None:
                time.sleep(0.01)
            is_killed = process.poll() is None
            process.send_signal(signal.SIGKILL)
        while server.n_open:
            time.sleep(0.01)
        n_before, answered = server.n_requests.total(), sum(n > 0 for n in server.n_paid.values())
        rated = score_by_vlm.score(server.url, range(n_samples))
        seconds = time.perf_counter() - began
        n_scored, n_refused = int(np.isfinite(rated.score_PM).all(1).sum()), len(rated.faults)
        # A sample whose valid answer came after others that were no answers is paid for once.
        n_twice = sum(
            n > 1
            for sample, n in server.n_paid.items()
            if sample % 5 and ONCE[sample % len(ONCE)] not in ("other schema", "refusal text")
        )
        n_requests = server.n_requests.total()
    load_settings.cache_clear()
    which = "server with idempotency keys" if knows_keys else "server without idempotency keys"
    most, why = (
        (0, "answers that were lost are given again")
        if knows_keys
        else (4, "at most those under way at the kill: 4 at a time")
    )
    return [
        Row(f"samples scored, or quarantined with a reason, {which}", n_scored + n_refused, "samples", f"{n_samples}",
            n_scored + n_refused == n_samples and is_killed, f"{n_scored:,} scored, {n_refused:,} quarantined; {seconds:.0f} s"),
        Row(f"requests, {which}", n_requests, "requests", None, None, f"{n_before:,} before the kill, {answered:,} samples answered"),
        Row(f"samples whose valid answer was paid twice, {which}", n_twice, "samples", f"<= {most}", n_twice <= most, why),
    ]  # fmt: skip


# --- Semantic duplicates ------------------------------------------------------------------------------------------------------


def semantic(sizes: Sequence[int], dim: int) -> list[Row]:
    """Find copies of real images, then measure time and memory at several sizes, and the law of growth between the last two."""
    corpus = Path(os.environ.get("ALCHEMIST_TEST_CORPUS", embeddings.CORPUS))
    rows = embeddings.find_copies(corpus, 400) if corpus.is_dir() else []
    seconds: list[float] = []
    for size in sizes:
        with own_store() as engine:
            found = embeddings.compare(engine, size, dim)
        rows += [row._replace(name=f"{row.name}, {size:,}") for row in found]
        print(*found, sep="\n", flush=True)
        # The last one is whitened, as is the default.
        seconds.append([float(row.value or 0) for row in found if row.name.startswith("first run")][-1])
    if len(sizes) > 1:
        power = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
        rows.append(
            Row(
                "growth of the first run's time",
                round(power, 2),
                "power of N",
                None,
                None,
                f"{seconds[-2]} s, then {seconds[-1]} s",
            )
        )
    return rows


# --- Imports ------------------------------------------------------------------------------------------------------------------


def measure_imports(n_rows: int) -> list[Row]:
    """Make samples, then import a score for each."""
    with own_store() as engine, TemporaryDirectory(dir=load_settings().home) as folder:
        began = time.perf_counter()
        pool = Pool(engine)
        pool.grow(n_rows)
        print(f"{pool.n:,} samples were made in {time.perf_counter() - began:.0f} s", flush=True)
        return imports(pool, Path(folder))


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
