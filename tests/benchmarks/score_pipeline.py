"""Cost of scoring from tars on disk to committed rows, against decoding and the model alone; and cost of a repeated run.

Run alone on the machine: `python -m tests.benchmarks.score_pipeline`; it writes `.alchemist/bench/score_pipeline.json`.
d is the core-seconds per sample of decoding and measuring alone, m those of the model alone on preloaded images, both on
one core of an idle machine. If both share the cores, throughput cannot exceed cores / (d + m). Busy cores slow each
other down (clock, caches, memory), so d and m are also measured with all cores busy, and the ratio to that bound is reported too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cores import n_own_cores
from alchemist_core.settings import load_settings
from alchemist_core.shards.storage import list_shards
from alchemist_core.shards.workers import Workers
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.scope import scoring_scope
from alchemist_core.stages.score import ScoreConfig, ScoreResult, Scoring, own_slot
from alchemist_core.stages.score import run as score
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.stages.train_rater import run as train_rater
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import migrate, open_store
from alchemist_core.store.postgres import start_postgres, stop_postgres
from alchemist_core.store.raters import find_rater
from tests.benchmarks.decode_alone import DecodeAlone
from tests.benchmarks.jpeg_corpus import WORDS, write_corpus

N_PAIRS = {64: 24_576, 512: 6_144}
SHARD_PAIRS = {64: 1_024, 512: 192, 72: 128, 80: 128}
TARGET = 0.9
COUNTS = (
    "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE relname NOT IN ('runs', 'leases')"
)
Row = dict[str, Any]


def main() -> None:
    """Measure everything and write the rows."""
    rows: list[Row] = []
    out = load_settings().home.resolve() / "bench" / "score_pipeline.json"
    with own_store() as engine:
        for side, n_pairs in N_PAIRS.items():
            prepare(side, n_pairs)
            for has_heuristics in (True, False):
                rows += measure_size(engine, side, n_pairs, has_heuristics=has_heuristics)
        rows += measure_replay(engine)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(f"{row['name']:<44} {row['value']:>10,.3f} {row['unit']:<12} {row['detail']}")


@contextmanager
def own_store(**training: Any) -> Iterator[Engine]:
    """A server and a home that are gone afterwards, with a rater that was hardly trained, of the default size or by other options."""
    with TemporaryDirectory(prefix="alchemist-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        home.chmod(0o755)
        patch.setenv("ALCHEMIST_HOME", str(home))
        url = start_postgres(home).create_database("bench")
        migrate(url)
        patch.setenv("ALCHEMIST_DATABASE_URL", url)
        load_settings.cache_clear()
        try:
            # Two sizes, so that the two corpora share no image.
            for name, side, role in (("t", 72, "train"), ("v", 80, "validation")):
                write_corpus(home / name, side=side, n_pairs=128, shard_pairs=SHARD_PAIRS[side])
                ingest(IngestConfig.model_validate({"dataset": name, "root": str(home / name), "role": role}))
            training = {"proxy_warmup_steps": 2, "max_train_steps": 2, "batch_size": 32} | training
            train_rater(TrainRaterConfig.model_validate({"dataset": "t", "validation": "v", "training": training}))
            yield open_store()
        finally:
            open_store().dispose()
            stop_postgres(home)
    load_settings.cache_clear()


def prepare(side: int, n_pairs: int) -> None:
    """Make and ingest the corpus of one size."""
    root = load_settings().home / f"pictures-{side}"
    write_corpus(root, side=side, n_pairs=n_pairs, shard_pairs=SHARD_PAIRS[side])
    ingest(IngestConfig(dataset=name_of(side), root=str(root)))


def name_of(side: int) -> str:
    return f"pictures-{side}"


def measure_size(engine: Engine, side: int, n_pairs: int, *, has_heuristics: bool) -> list[Row]:
    """Compare one image size, with one and with two scoring processes."""
    cores = n_own_cores()
    decode_s, busy_decode_s = (measure_decode(engine, side, n, has_heuristics=has_heuristics) for n in (1, cores))
    model_s, busy_model_s = (measure_model(engine, n) for n in (1, cores))
    bound, busy_bound = cores / (decode_s + model_s), cores / (busy_decode_s + busy_model_s)
    title = f"{side} px{'' if has_heuristics else ', no heuristics'}"
    rows = [
        row(
            f"{title}: {what} alone",
            one_s * 1e6,
            "µs/sample",
            detail=f"one core; {all_s * 1e6:.0f} with all cores busy",
        )
        for what, one_s, all_s in (("decode", decode_s, busy_decode_s), ("model", model_s, busy_model_s))
    ]
    for n_processes in (1, 2):
        rate = max(measure_rate(engine, side, n_pairs, n_processes, has_heuristics) for _ in range(2))
        detail = (
            f"{rate:,.0f} pairs/s; cores/(d+m) {bound:,.0f} pairs/s, {cores} cores; {n_pairs} pairs; "
            f"{rate / busy_bound:.3f} of {busy_bound:,.0f}, the bound with all cores busy"
        )
        name = f"{title}: {n_processes} process{'es' if n_processes > 1 else ''}"
        rows.append(row(name, rate / bound, "ratio", target=TARGET, is_least=True, detail=detail))
    return rows


def row(name: str, value: float, unit: str, *, target: float | None = None, is_least: bool = True, detail: str) -> Row:
    is_ok = None if target is None else (value >= target if is_least else value <= target)
    return {"name": name, "value": value, "unit": unit, "target": target, "ok": is_ok, "detail": detail}


def measure_decode(engine: Engine, side: int, n_busy: int, *, has_heuristics: bool) -> float:
    """Time the decode of one shard inside each of some worker processes at once; core-seconds a sample."""
    statement = text("""
        SELECT file_offsets[1], file_sizes[1] FROM alchemist.sample_locations
        WHERE shard_id = (SELECT max(shard_id) FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE name = :name)
    """)
    with engine.connect() as connection:
        ranges = [(offset, size) for offset, size in connection.execute(statement, {"name": name_of(side)})]
    uri = list_shards(str(load_settings().home / name_of(side)))[-1].uri
    image_side = 16
    done: list[Any] = []
    with Workers(n_busy, module=DecodeAlone.__module__) as workers:
        workers.await_ready()
        for _ in range(n_busy):
            workers.submit(DecodeAlone(uri, ranges, image_side, has_heuristics), None)
        while len(done) < n_busy:
            done += workers.wait()
    assert all(one.error is None for one in done), done
    return float(np.mean([one.result for one in done])) / len(ranges)


def measure_model(engine: Engine, n_busy: int) -> float:
    """Time the forward of preloaded batches in each of some threads at once; core-seconds a sample."""
    scorer = load_scorer(engine)
    image_BHWC = scorer.make_buffer()
    image_BHWC[:] = np.random.default_rng(0).integers(0, 256, image_BHWC.shape, np.uint8)
    rng = np.random.default_rng(1)
    captions = [" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in image_BHWC]

    def rate(_: int) -> list[float]:
        seconds = []
        for _ in range(12):
            began = time.thread_time()
            scorer.score_batch(image_BHWC, captions)
            seconds.append(time.thread_time() - began)
        return seconds

    with ThreadPoolExecutor(n_busy) as pool:
        return float(np.median([second for part in pool.map(rate, range(n_busy)) for second in part])) / len(captions)


def load_scorer(engine: Engine) -> Any:
    from alchemist_core.files import require_artifact
    from alchemist_core.training.launching import own_device
    from alchemist_core.training.scoring import Scorer

    rater = find_rater(engine, "newest")
    assert rater is not None
    return Scorer.load(require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256), own_device())


def measure_rate(engine: Engine, side: int, n_pairs: int, n_processes: int, has_heuristics: bool) -> float:
    """Score the corpus again with processes that are ready before the clock starts; return samples per second."""
    forget_scores(engine)
    arguments = (name_of(side), str(int(has_heuristics)))
    command = [sys.executable, "-m", "tests.benchmarks.score_pipeline", "work"]
    processes = [
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=rank_of(rank, n_processes),
        )
        for rank in range(n_processes)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    times = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        times.append(json.loads(output))
    began, ended = min(time["began"] for time in times), max(time["ended"] for time in times)
    assert sum(time["n_samples"] for time in times) == n_pairs
    return n_pairs / (ended - began)


def rank_of(rank: int, n_processes: int) -> dict[str, str]:
    """The environment that torchrun gives the processes of one machine."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_processes, "LOCAL_WORLD_SIZE": n_processes}
    return {**os.environ, **{name: str(value) for name, value in ranks.items()}}


def forget_scores(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in ("score_distributions", "shard_scores", "nights", "scores", "heuristic_scores"):
            connection.execute(text(f"DELETE FROM alchemist.{table}"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def work(dataset: str, has_heuristics: bool) -> None:
    """Run one scoring process: load, report it, wait for the start, score, print the time."""
    config = ScoreConfig(dataset=dataset, rater="newest", heuristics=has_heuristics)
    execute("score", config, lambda stage_run: score_when_told(config, stage_run), ScoreResult, slot=own_slot(0))


def score_when_told(config: ScoreConfig, stage_run: StageRun) -> ScoreResult:
    rater = find_rater(stage_run.engine, config.rater)
    assert rater is not None
    scope = scoring_scope(stage_run.engine, rater, dataset=config.dataset, crawl_date=None)
    scoring = Scoring([rater], scope, stage_run, has_heuristics=config.heuristics)
    with scoring.open_pipeline() as pipeline:
        load_scorer(stage_run.engine).score(np.zeros((1, 16, 16, 3), np.uint8), ["warm"])
        pipeline.await_ready()
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        pipeline.run(scoring.claim)
        ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "n_samples": scoring.counts["n_samples"]}), flush=True)
    return scoring.result()


def measure_replay(engine: Engine) -> list[Row]:
    """Score a night, then again: what changes, and how long it takes beside the first time."""
    forget_scores(engine)
    dataset, home = name_of(64), load_settings().home
    began = time.perf_counter()
    score(ScoreConfig(dataset=dataset, rater="newest"))
    first_s = time.perf_counter() - began
    url = engine.url.render_as_string(hide_password=False)
    before, files, n_changes = table_checksums(url), list_files(home), count_changes(engine)
    began = time.perf_counter()
    score(ScoreConfig(dataset=dataset, rater="newest"))
    replay_s = time.perf_counter() - began
    assert table_checksums(url) == before
    detail = f"replay {replay_s:.3f} s, first {first_s:.3f} s"
    return [
        row("replay: share of the time", replay_s / first_s, "ratio", target=0.1, is_least=False, detail=detail),
        row(
            "replay: rows changed",
            count_changes(engine) - n_changes,
            "rows",
            target=0,
            is_least=False,
            detail="pg_stat",
        ),
        row("replay: files written", len(list_files(home) ^ files), "files", target=0, is_least=False, detail="home"),
    ]


def count_changes(engine: Engine) -> int:
    engine.dispose()  # A session that ends reports what it has counted.
    time.sleep(0.5)
    with engine.connect() as connection:
        return int(connection.execute(text(COUNTS)).scalar_one())


def list_files(home: Path) -> set[tuple[str, int, float]]:
    folder = home / "artifacts"
    return {(str(path), path.stat().st_size, path.stat().st_mtime) for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], bool(int(sys.argv[3])))
    else:
        main()
