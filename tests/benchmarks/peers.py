"""The platform beside what a user would write or pick: the same tars, model and machine, in turns, in one run.

`make bench-peers`, or `python -m tests.benchmarks.peers [--parts copies,view] [--rows 20000] [--rounds 3]`, alone on the machine. It
writes `.alchemist/bench/peers.json`: for each pair the minimum, median and maximum of both sides over the rounds, the ratio of the medians
with its target, versions and settings. A ratio above 1 means that the platform is faster. `--rows 500` tries whether everything runs; its
figures mean nothing. A part whose package is not installed is reported as such, without a figure.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, text

from alchemist_core.files import artifact_path
from alchemist_core.settings import load_settings
from alchemist_core.shards.images import CANVAS_SIDE
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.copy import copy_rows
from tests.benchmarks import peer_programs, zero_copy
from tests.benchmarks.materialize import LARGE_SIDE, SHARD_SIZE, SMALL_SIDE, copy_folder
from tests.benchmarks.materialize import copy as copy_with_stage
from tests.benchmarks.peer_programs import n_cores, warm_pool
from tests.benchmarks.picture_store import Pictures, add_pictures, own_store

# Packages that are installed for this benchmark only; they come last, so that they do not replace any of the platform.
EXTRA_PACKAGES = Path(".alchemist/peers")


class Side(NamedTuple):
    """One side of a comparison: a name, with its settings, and what it runs."""

    name: str
    run: Callable[[], Any]


class Comparison(NamedTuple):
    """Two sides that do the same work; `work` is its size in a unit."""

    name: str
    ours: Side
    theirs: Side
    work: float
    unit: str
    target: float
    packages: tuple[str, ...] = ()


def main() -> None:
    """Measure the parts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="Parts to measure, separated by commas")
    parser.add_argument("--rows", type=int, help="Size of every part in samples; default: each part's own")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sys.path.append(str(EXTRA_PACKAGES.absolute()))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH"), str(EXTRA_PACKAGES.absolute())])
    )
    rows: list[dict[str, Any]] = []
    for part in given.parts.split(","):
        run, n_rows = PARTS[part]
        try:
            rows += run(given.rows or n_rows, given.rounds)
        except ModuleNotFoundError as error:
            rows.append(
                {
                    "name": part,
                    "ok": None,
                    "detail": f"not measured: {error.name} is not installed (make bench-peers installs it)",
                }
            )
            print(rows[-1]["detail"], flush=True)
        write(rows)


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write the table after every part, so that an interrupted run keeps what it measured."""
    path = Path(os.environ.get("ALCHEMIST_BENCH_OUT", ".alchemist/bench")) / "peers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "cores": n_cores(),
        "load_before": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "rows": list(rows),
    }
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(comparisons: Sequence[Comparison], rounds: int) -> list[dict[str, Any]]:
    """Run all sides in turns, in another order each round, and return a row per comparison."""
    times: dict[Callable[[], Any], list[float]] = {}
    sides = list(dict.fromkeys(side for one in comparisons for side in (one.ours, one.theirs)))
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            gc.collect()
            os.sync()
            began = time.perf_counter()
            found = side.run()
            # A side that prepares something itself returns its own seconds.
            seconds = found if isinstance(found, float) else time.perf_counter() - began
            times.setdefault(side.run, []).append(seconds)
            print(f"  {side.name}: {seconds:.2f} s", flush=True)
    rows = []
    for one in comparisons:
        ours, theirs = (spread([one.work / seconds for seconds in times[side.run]]) for side in (one.ours, one.theirs))
        ratio = ours["median"] / theirs["median"]
        rows.append({
            "name": one.name, "ours": ours, "peer": theirs, "unit": one.unit, "ratio": round(ratio, 3), "target": f">= {one.target:g} x",
            "ok": ratio >= one.target, "settings": {"ours": one.ours.name, "peer": one.theirs.name},
            "versions": {name: metadata.version(name) for name in one.packages}, "rounds": rounds,
        })  # fmt: skip
        mark = "ok  " if ratio >= one.target else "MISS"
        print(
            f"{mark} {one.name}: {ours['median']:,.1f} against {theirs['median']:,.1f} {one.unit}, {ratio:.2f} x",
            flush=True,
        )
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": round(min(values), 2), "median": round(statistics.median(values), 2), "max": round(max(values), 2)}


def fresh(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- Parts --------------------------------------------------------------------------------------------------------------------


def copies(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Materialize half of a corpus, against cp with sha256sum of both ends, and against webdataset's read, filter, write."""
    rows = []
    with own_store() as engine, warm_pool() as pool:
        for name, side, n_pairs in (("80 KB", LARGE_SIDE, n_rows), ("4 KB", SMALL_SIDE, 5 * n_rows)):
            pictures = add_pictures(engine, name.replace(" ", "-"), side=side, n_pairs=n_pairs, shard_bytes=1 << 25)
            copy_with_stage(pictures, "source")
            # Both baselines copy the bytes of the result; the first reads files that hold nothing else.
            kept = fresh(load_settings().home / "kept")
            for path in copy_folder(pictures).glob("*.tar"):
                path.rename(kept / path.name)
            tars, to = sorted(kept.glob("*.tar")), load_settings().home / "theirs"
            n_mb = sum(path.stat().st_size for path in tars) / 1e6
            checksums = image_checksums(pictures)
            source = Side("materialize --verify source", partial(stage_seconds, pictures, "source"))
            read_back = Side("materialize --verify read_back (default)", partial(stage_seconds, pictures, "read_back"))
            summed, summed_at_once = (
                Side(
                    f"cp, sync, sha256sum of source and target, {n_processes} files at a time",
                    partial(timed_into, to, partial(peer_programs.copy_and_sum, n_processes=n_processes), tars),
                )
                for n_processes in (1, n_cores())
            )
            plain = Side("cp and fsync, one file after another", partial(timed_into, to, peer_programs.copy_only, tars))
            filtered = Side(
                f"webdataset read, filter, write in {n_cores()} processes; images compared by XXH3-128, tars hashed and synced",
                partial(timed_filter, pool, pictures, checksums, to),
            )
            rows += measure(
                [
                    Comparison(f"copy of {name} members, of cp + sha256sum", source, summed, n_mb, "MB/s", 2),
                    Comparison(f"copy of {name} members, read back, of cp + sha256sum", read_back, summed, n_mb, "MB/s", 1),
                    Comparison(f"copy of {name} members, of cp + sha256sum on all cores", source, summed_at_once, n_mb, "MB/s", 1),
                    Comparison(f"copy of {name} members, of cp + fsync", source, plain, n_mb, "MB/s", 0.8),
                    Comparison(f"copy of {name} members, of webdataset", source, filtered, n_mb, "MB/s", 4, ("webdataset",)),
                    Comparison(f"copy of {name} members, read back, of webdataset", read_back, filtered, n_mb, "MB/s", 2, ("webdataset",)),
                ],
                rounds,
            )  # fmt: skip
            for folder in (pictures.root, kept, to, artifact_path("materialized")):
                shutil.rmtree(folder, ignore_errors=True)
    return rows


def image_checksums(pictures: Pictures) -> dict[str, bytes]:
    """Return what webdataset's side compares members with: the XXH3-128 of each image, by its key."""
    from xxhash import xxh3_128_digest

    from alchemist_core.shards.storage import read_ranges

    found: dict[str, bytes] = {}
    for record in pictures.rows():
        at = record.exts.index("jpg")
        found[record.key] = xxh3_128_digest(read_ranges(record.uri, [(record.offsets[at], record.sizes[at])])[0])
    return found


def stage_seconds(pictures: Pictures, verify: Any) -> float:
    """Run the stage into an empty place."""
    return copy_with_stage(pictures, verify).seconds


def timed_into(to: Path, work: Callable[[Sequence[Path], Path], None], tars: Sequence[Path]) -> float:
    """Time a copy into an empty folder."""
    fresh(to)
    began = time.perf_counter()
    work(tars, to)
    return time.perf_counter() - began


def timed_filter(pool: Any, pictures: Pictures, checksums: dict[str, bytes], to: Path) -> float:
    """Time webdataset's side, which must write as many samples."""
    fresh(to)
    began = time.perf_counter()
    n_written = peer_programs.filter_tars(pool, pictures.tars(), checksums, to, SHARD_SIZE)
    seconds = time.perf_counter() - began
    if n_written != len(checksums):
        raise SystemExit(f"webdataset wrote {n_written:,} samples of {len(checksums):,}: the figures would not compare")
    return seconds


def ingest_tars(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Ingest new tars, against reading, hashing and storing rows by the loaders of datasets and of webdataset."""
    from tests.benchmarks.jpeg_corpus import write_corpus

    with own_store() as engine, warm_pool() as pool:
        root = load_settings().home / "crawl"
        write_corpus(root, side=400, n_pairs=n_rows, shard_pairs=max(n_rows // 20, 1))
        tars = sorted(map(str, root.glob("*.tar")))
        plain = Side("ingest, without perceptual hashes", partial(timed_ingest, engine, root))
        peers = {
            "datasets": Side(
                f"datasets' webdataset loader in {n_cores()} processes, sha256, size, COPY into one table",
                partial(timed_rows, engine, peer_programs.read_with_datasets, pool, tars, n_rows),
            ),
            "webdataset": Side(
                f"webdataset in {n_cores()} processes, sha256, size, COPY into one table",
                partial(timed_rows, engine, peer_programs.read_with_webdataset, pool, tars, n_rows),
            ),
        }
        return measure(
            [
                Comparison(f"ingest, of {name}", plain, peer, n_rows, "samples/s", 1, (name,))
                for name, peer in peers.items()
            ],
            rounds,
        )


def timed_ingest(engine: Engine, root: Path) -> float:
    """Ingest a root as a dataset that is new each time; samples of an earlier round are removed before."""
    with engine.begin() as connection:
        # Tables of which rows are only added refuse it by triggers.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("TRUNCATE alchemist.datasets, alchemist.samples RESTART IDENTITY CASCADE"))
    began = time.perf_counter()
    ingest(IngestConfig(dataset="crawl", root=str(root), perceptual_hash=False))
    return time.perf_counter() - began


def timed_rows(
    engine: Engine, read: Callable[[Any, Sequence[str]], Any], pool: Any, tars: Sequence[str], n_rows: int
) -> float:
    """Read with a peer and COPY the rows into a table with a primary key."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS peer_samples"))
        connection.execute(
            text(
                "CREATE TABLE peer_samples (key text PRIMARY KEY, image bytea, text bytea, caption text, width integer, height integer)"
            )
        )
    began = time.perf_counter()
    parts = read(pool, tars)
    with engine.begin() as connection:
        for part in parts:
            copy_rows(connection, "peer_samples", ("key", "image", "text", "caption", "width", "height"), part)
    seconds = time.perf_counter() - began
    if sum(map(len, parts)) != n_rows:
        raise SystemExit(f"{sum(map(len, parts)):,} rows of {n_rows:,}: the figures would not compare")
    return seconds


def scoring(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Score a corpus, against webdataset and a DataLoader whose workers decode, the same forward, and COPY."""
    from tests.benchmarks import score_pipeline

    rows = []
    with score_pipeline.own_store() as engine:
        for side, n_pairs in ((64, 4 * n_rows), (512, n_rows)):
            score_pipeline.prepare(side, n_pairs)
            ours = Side("score, without heuristics, one process", partial(timed_scoring, engine, side, n_pairs))
            # The smallest size that the rater needs, and the one at which the platform decodes, because heuristics share its decode.
            loaders = {
                canvas_side: Side(
                    f"webdataset, DataLoader with {n_cores()} workers that decode (Pillow, draft {canvas_side or 'of the rater'} px), "
                    "the same forward in threads, COPY",
                    partial(timed_loader, engine, side, n_pairs, canvas_side),
                )
                for canvas_side in (None, CANVAS_SIDE)
            }
            names = {None: "a DataLoader", CANVAS_SIDE: "a DataLoader that decodes the same pixels"}
            rows += measure(
                [
                    Comparison(
                        f"scoring at {side} px, of {names[canvas_side]}", ours, theirs, n_pairs, "samples/s", 1.3, ("webdataset", "torch")
                    )
                    for canvas_side, theirs in loaders.items()
                ],
                rounds,
            )  # fmt: skip
    return rows


def timed_scoring(engine: Engine, side: int, n_pairs: int) -> float:
    """Score the corpus again, from a process that is ready to committed rows."""
    from tests.benchmarks import score_pipeline

    return n_pairs / score_pipeline.measure_rate(engine, side, n_pairs, 1, has_heuristics=False)


def timed_loader(engine: Engine, side: int, n_pairs: int, canvas_side: int | None) -> float:
    """Do the same with a DataLoader; its workers are started before the clock, as ours are.

    Args:
        engine: The store.
        side: Side of the corpus's images.
        n_pairs: Samples of the corpus.
        canvas_side: Side at which a JPEG is decoded; None: the rater's side.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tests.benchmarks import score_pipeline

    scorer = score_pipeline.load_scorer(engine)
    scorer.score(scorer.make_buffer()[:1], ["warm"])
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS peer_scores"))
        connection.execute(text("CREATE TABLE peer_scores (key text PRIMARY KEY, score real)"))
    tars = sorted(map(str, (load_settings().home / f"pictures-{side}").glob("*.tar")))
    loader = iter(peer_programs.load_batches(tars, scorer.image_side, scorer.batch, canvas_side or scorer.image_side))
    n_scored = 0

    def rate(batch: Any) -> list[tuple[str, float]]:
        image_BHWC, captions, keys = batch
        score_B = scorer.score(image_BHWC, captions)
        return list(zip(keys, score_B.tolist(), strict=True))

    began = time.perf_counter()
    with ThreadPoolExecutor(n_cores()) as pool, engine.begin() as connection:
        rating: deque[Any] = deque()
        for batch in chain(loader, [None] * 2 * n_cores()):
            if batch is not None:
                rating.append(pool.submit(rate, batch))
            if rating and (batch is None or len(rating) > 2 * n_cores()):
                scored = rating.popleft().result()
                copy_rows(connection, "peer_scores", ("key", "score"), scored)
                n_scored += len(scored)
    seconds = time.perf_counter() - began
    if n_scored != n_pairs:
        raise SystemExit(f"the loader gave {n_scored:,} samples of {n_pairs:,}: the figures would not compare")
    return seconds


def selection(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Select a fifth of the corpus from stored ranks, against DuckDB and Polars over Parquet of the same columns."""
    from tests.benchmarks.score_pool import SHARD_PAIRS, Pool

    n_rows = max(n_rows // SHARD_PAIRS, 1) * SHARD_PAIRS
    k = n_rows // 5
    with own_store() as engine:
        Pool(engine).grow(n_rows)
        parquet, out = load_settings().home / "pool.parquet", load_settings().home / "selected.parquet"
        write_columns(parquet, n_rows)
        work("commit", 0.2)  # fills what the store keeps for later selections
        draw = Side("snapshot (verified) and draw of exactly k, shift_gsample", partial(work_seconds, "draw", 0.2))
        commit = Side("select and publish, from Postgres to committed membership", partial(work_seconds, "commit", 0.2))
        comparisons = []
        for package, function in (
            ("duckdb", peer_programs.select_with_duckdb),
            ("polars", peer_programs.select_with_polars),
        ):
            metadata.version(package)
            weighted, top = (
                Side(
                    f"{package}, {n_cores()} threads, Parquet to Parquet, {how}",
                    partial(function, parquet, out, k, is_weighted=is_weighted),
                )
                for how, is_weighted in (("weighted sampling", True), ("top k", False))
            )
            comparisons += [
                Comparison(f"draw, of {package}'s weighted sampling", draw, weighted, n_rows, "rows/s", 1, (package,)),
                Comparison(f"draw, of {package}'s top k", draw, top, n_rows, "rows/s", 1, (package,)),
                Comparison(
                    f"committed membership, of {package}'s weighted sampling",
                    commit,
                    weighted,
                    n_rows,
                    "rows/s",
                    0.1,
                    (package,),
                ),
            ]
        return measure(comparisons, rounds)


def write_columns(path: Path, n_rows: int) -> None:
    """Write the columns that a selection reads: the hash, the score and its rank."""
    rng = np.random.default_rng(0)
    hashes = pa.py_buffer(rng.bytes(32 * n_rows))
    score_N = rng.normal(size=n_rows)
    rank_N = np.empty(n_rows)
    rank_N[np.argsort(-score_N)] = np.arange(n_rows) / n_rows
    pair_hash = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), n_rows, [None, hashes])
    pq.write_table(pa.table({"pair_hash": pair_hash, "rank": rank_N, "score": score_N}), path)


def work(*words: object) -> dict[str, Any]:
    """Run a part of `select_work` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.select_work", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def work_seconds(word: str, retention: float) -> float:
    """Return the seconds of the work itself, without start and imports."""
    facts = work(word, retention)
    return float(
        sum(value for name, value in facts.items() if name in {"select_s", "publish_s", "snapshot_s", "draw_s"})
    )


def duplicates(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Find semantic duplicates, against FAISS and against products of all pairs."""
    from tests.benchmarks import embeddings

    dim, min_cosine = 256, 0.95
    with own_store() as engine:
        embeddings.add(engine, n_rows, dim, seed=0)
        vector_ND = np.concatenate([part for part, _ in embeddings.vectors(n_rows, dim, seed=0)]).astype(np.float32)
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        n_clusters = max(1, int(4 * n_rows**0.5))
        ours = Side(
            "duplicates find-semantic, from files to rows of groups",
            lambda: embeddings._find(restart=True, threshold=min_cosine),
        )
        peers = (
            ("FAISS, all pairs", ("faiss-cpu",), partial(peer_programs.find_with_faiss, vector_ND, min_cosine, n_clusters=None), 4),
            (f"FAISS, IVF of {n_clusters} clusters, nprobe 2", ("faiss-cpu",), partial(
                peer_programs.find_with_faiss, vector_ND, min_cosine, n_clusters=n_clusters), 0.5),
            ("products of all pairs", ("numpy",), partial(peer_programs.find_by_products, vector_ND, min_cosine), 4),
        )  # fmt: skip
        comparisons = [
            Comparison(
                f"semantic duplicates, of {name}",
                ours,
                Side(f"{name}, in memory", run),
                n_rows,
                "samples/s",
                target,
                packages,
            )
            for name, packages, run, target in peers
        ]
        return measure(comparisons, rounds)


def view(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Train from the zero-copy view, against mosaicml-streaming over a converted copy, and against webdataset over all tars."""
    with own_store() as engine:
        pictures = add_pictures(engine, "pool", side=400, n_pairs=n_rows)
        n_members, n_workers = len(pictures.members), n_cores()
        converted = load_settings().home / "mds"
        keys = pictures.keys()
        peer_programs.write_mds(
            (sample for sample in peer_programs.read_tars(pictures.tars()) if sample["__key__"] in keys), converted
        )
        ours = Side(
            f"SubsetDataset in place, random order, {n_workers} workers",
            partial(epoch_seconds, partial(zero_copy.zero_copy, n_workers=n_workers), n_members),
        )
        mosaic = Side(
            f"mosaicml-streaming, a converted copy, shuffled, {n_workers} workers",
            partial(
                epoch_seconds,
                partial(peer_programs.read_mds, converted, transform=zero_copy.decode, n_workers=n_workers),
                n_members,
            ),
        )
        filtered = Side(
            f"webdataset over all tars, select, shuffle buffer {zero_copy.SHUFFLE_BUFFER}, {n_workers} workers",
            partial(epoch_seconds, partial(zero_copy.choose, pictures, n_workers=n_workers), n_members),
        )  # fmt: skip
        return measure(
            [
                Comparison("zero-copy view, of mosaicml-streaming", ours, mosaic, n_members, "samples/s", 0.9, ("mosaicml-streaming",)),
                Comparison("zero-copy view, of webdataset over all tars", ours, filtered, n_members, "samples/s", 1, ("webdataset",)),
            ],
            rounds,
        )  # fmt: skip


def epoch_seconds(feed: Callable[..., Any], n_members: int) -> float:
    """Train for one epoch over a feed; the start of the loader's workers counts for all of them."""
    n_samples, seconds = zero_copy.train(feed(epoch=0))
    if n_samples != n_members:
        raise SystemExit(f"{n_samples:,} samples of {n_members:,}: the figures would not compare")
    return seconds


def view_s3(n_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Read a subset from an object store by blocks, against source order, and against a full shuffle of the same reader."""
    from tests.benchmarks.s3_view import S3View, server

    with own_store() as engine, server() as endpoint:
        subject = S3View.make(engine, endpoint, n_rows)
        sides = {name: Side(f"SubsetDataset over S3, {name}", partial(subject.read, name)) for name in subject.orders}
        block, source, full = (sides[name] for name in subject.orders)
        return measure(
            [
                Comparison(
                    "S3: blocks and buffer, of source order", block, source, subject.n_members, "samples/s", 0.8
                ),
                Comparison("S3: blocks and buffer, of a full shuffle", block, full, subject.n_members, "samples/s", 2),
            ],
            rounds,
        )


PARTS: dict[str, tuple[Callable[[int, int], list[dict[str, Any]]], int]] = {
    "copies": (copies, 40_000), "scoring": (scoring, 6_144), "ingest": (ingest_tars, 20_000), "selection": (selection, 3_000_000),
    "duplicates": (duplicates, 100_000), "view": (view, 20_000), "view_s3": (view_s3, 20_000),
}  # fmt: skip
"""Parts, with the number of samples of each."""

if __name__ == "__main__":
    main()
