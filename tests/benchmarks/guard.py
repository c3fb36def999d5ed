"""Short ratios that must not fall: run before a release, alone on the machine (less than five minutes on two cores).

`make bench-guard` (`python -m tests.benchmarks.guard [--only PART …] [--keep]`) measures each ratio against what the same machine does
at the same time, and fails if one is more than 15% below the kept table, `docs/benchmarks/guard.json`. `--keep` writes that table.
Higher is better everywhere. Of several repetitions the best counts, because what disturbs a repetition only makes it slower. A part
whose ratio fell is measured up to three times: the same commit differs by up to 20% from round to round.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.cores import n_own_cores
from alchemist_core.files import artifact_path
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.settings import load_settings
from alchemist_core.shards.storage import list_shards
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.store.copy import copy_out
from alchemist_core.store.eligible import forget_kept
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import take_snapshot
from alchemist_core.store.subsets import find_subset, store_members
from alchemist_core.subsets.selected import load_manifest
from tests.benchmarks import score_pipeline
from tests.benchmarks.materialize import copy, copy_folder, plain_copy
from tests.benchmarks.picture_store import add_pictures, own_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_store import Bench
from tests.benchmarks.select_work import against_argpartition
from tests.benchmarks.startup import measure

TABLE = Path(__file__).parents[2] / "docs" / "benchmarks" / "guard.json"
LARGEST_FALL = 0.15
TIMES = 3
MOST_ROUNDS = 3
N_SAMPLES, N_PICTURES, SIDE, SCORED_SIDE, N_SCORED = 400_000, 1_000, 640, 64, 6_144
Ratios = dict[str, float]


def main() -> int:
    """Measure, compare with the kept table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument("--keep", action="store_true", help="write the table instead of comparing with it")
    given = parser.parse_args()
    kept = json.loads(TABLE.read_text(encoding="utf-8"))["ratios"] if TABLE.exists() else {}
    found: Ratios = {}
    for part in given.only:
        began = time.perf_counter()
        found |= PARTS[part]() if given.keep else measure_again(PARTS[part], kept)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
    if given.keep:
        keep(kept | found)
        return 0
    rows = compare(found, kept)
    write_rows("guard", rows)
    return 1 if any(row.ok is False for row in rows) else 0


def measure_again(part: Callable[[], Ratios], kept: Mapping[str, float]) -> Ratios:
    """Measure a part until none of its ratios fell too far, at most MOST_ROUNDS times; return the best of each."""
    found: Ratios = {}
    for _ in range(MOST_ROUNDS):
        found = {name: max(ratio, found.get(name, ratio)) for name, ratio in part().items()}
        if not any(has_fallen(ratio, kept[name]) for name, ratio in found.items() if name in kept):
            break
    return found


def has_fallen(ratio: float, kept: float) -> bool:
    """Tell whether a ratio is below the kept one by more than LARGEST_FALL."""
    return ratio < kept * (1 - LARGEST_FALL)


def compare(found: Mapping[str, float], kept: Mapping[str, float]) -> list[Row]:
    """Make a row for each ratio; one that fell too far, or that the table lacks, is not ok.

    >>> [(row.name, row.ok) for row in compare({"a": 0.84, "b": 0.86, "c": 2.0}, {"a": 1.0, "b": 1.0})]
    [('a', False), ('b', True), ('c', False)]
    """
    rows = []
    for name, ratio in found.items():
        detail = f"kept {kept[name]:.3f}" if name in kept else "not in the table: --keep adds it"
        target = f"≥ {kept[name] * (1 - LARGEST_FALL):.3f}" if name in kept else None
        is_ok = name in kept and not has_fallen(ratio, kept[name])
        rows.append(Row(name, round(ratio, 3), "×", target, is_ok, detail))
    return rows


def keep(ratios: Mapping[str, float]) -> None:
    """Write the table, with where it was measured."""
    revision = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    kept = {
        "recorded": {"commit": revision.stdout.strip(), "cores": n_own_cores(), "python": platform.python_version()},
        "ratios": {name: round(ratio, 3) for name, ratio in sorted(ratios.items())},
    }
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def best(work: Callable[[], Any], before: Callable[[], Any] = lambda: None, times: int = TIMES) -> float:
    """Return the shortest of several times, in seconds; `before` is not timed."""
    seconds = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


# --- Parts --------------------------------------------------------------------------------------------------------------------


def starting() -> Ratios:
    """Commands against the import of the libraries that they cannot do without, in processor time."""
    plain, libraries = "import argparse, json, logging, textwrap", "import psycopg2, pydantic, sqlalchemy.orm"
    with own_store():
        return {
            "start-up: --help, of its standard library": least_cpu(["-c", plain])
            / least_cpu(["-m", "alchemist_core", "--help"]),
            "start-up: night list, of pydantic and SQLAlchemy": least_cpu(["-c", libraries])
            / least_cpu(["-m", "alchemist_core", "night", "list"]),
        }


def least_cpu(words: list[str]) -> float:
    """Return the processor time of a Python process."""
    return min(measure(words, 2 * TIMES).seconds)


def store() -> Ratios:
    """A shard's commit, a selection and its publication, each against COPY of as many rows."""
    with own_store() as engine:
        bench = Bench(engine, 0.05)
        bench.pool.grow(N_SAMPLES)
        commits = [(bench.plain_copy(is_indexed=True), bench.load_night()[1]) for _ in range(TIMES)]
        return {"commit of shards, of COPY": max(copied / ours for copied, ours in commits)} | selecting(engine)


def selecting(engine: Engine) -> Ratios:
    """Selection and publication of the corpus that the store has."""
    rater = find_rater(engine, "production")
    assert rater is not None
    read_s = best(lambda: read_hashes(engine))
    first_s = best(lambda: take_snapshot(engine, rater, ["pool"]), before=forget_kept)
    again_s = best(lambda: take_snapshot(engine, rater, ["pool"]), before=forget_sets)
    snapshot = take_snapshot(engine, rater, ["pool"])
    bare = against_argpartition(snapshot.rank_N, snapshot.pairs.pair_hash64_N, N_SAMPLES // 5)
    policy = SelectionPolicy(strategy="shift_gsample", retention=0.5)
    drawn = select(SelectConfig.model_validate({"dataset": "pool", "name": "s", "policy": policy.model_dump()}))
    subset = find_subset(engine, drawn.name)
    manifest = load_manifest(engine, subset)
    publish_s = best(
        lambda: store_members(engine, subset.subset_id, manifest), before=lambda: empty(engine, subset.subset_id)
    )
    return {
        "selection, nothing kept, of reading the hashes": read_s / first_s,
        "selection, nights kept, of reading the hashes": read_s / again_s,
        "draw, of argpartition": bare["argpartition_s"] / bare["members_s"],
        "membership, of reading the hashes": read_s / publish_s,
    }


def read_hashes(engine: Engine) -> None:
    """COPY the id and the hash of every sample out."""
    with engine.connect() as connection:
        statement = text("SELECT sample_id, pair_hash FROM alchemist.samples")
        copy_out(connection, statement, {}, {"sample_id": ">i8", "pair_hash": "(32,)u1"})


def forget_sets() -> None:
    """Delete what is kept of moments, but not the nights."""
    for path in (load_settings().home / "snapshots").iterdir():
        if not path.name.startswith("nights-"):
            shutil.rmtree(path)


def empty(engine: Engine, subset_id: int) -> None:
    """Empty a version's partition."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.subset_samples WHERE subset_id = :id"), {"id": subset_id})


def tars() -> Ratios:
    """Ingest against sha256 of the same bytes, and verified copies against `cp` and fsync."""
    with own_store() as engine:
        pictures = add_pictures(engine, "members", side=SIDE, n_pairs=N_PICTURES)
        paths = [Path(path) for path in pictures.tars()]
        hash_s = best(lambda: [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
        ingests: list[float] = []
        for number in range(TIMES):
            root = load_settings().home / f"again-{number}"
            shutil.copytree(pictures.root, root)
            config = IngestConfig(dataset=f"again-{number}", root=str(root), perceptual_hash=False)
            ingests.append(best(lambda config=config: ingest(config), times=1))  # type: ignore[misc]  # bound now
        copy(pictures, "source")
        pairs = [(copy(pictures, "source"), plain_copy(copy_folder(pictures))) for _ in range(TIMES)]
        shutil.rmtree(artifact_path("materialized"))
    return {
        "ingest, of sha256": hash_s / min(ingests),
        "verified copy, of cp + fsync": max(ours.rate / cp.rate for ours, cp in pairs),
    }


def scoring() -> Ratios:
    """Scoring in one process against cores / (decode + model)."""
    with score_pipeline.own_store() as engine:
        score_pipeline.prepare(SCORED_SIDE, N_SCORED)
        assert list_shards(str(load_settings().home / score_pipeline.name_of(SCORED_SIDE)))
        decode_s = score_pipeline.measure_decode(engine, SCORED_SIDE, 1, has_heuristics=True)
        model_s = score_pipeline.measure_model(engine, 1)
        rates = [score_pipeline.measure_rate(engine, SCORED_SIDE, N_SCORED, 1, True) for _ in range(2)]
    return {"scoring, of cores / (d + m)": max(rates) * (decode_s + model_s) / n_own_cores()}


PARTS: dict[str, Callable[[], Ratios]] = {"scoring": scoring, "starting": starting, "store": store, "tars": tars}

if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
