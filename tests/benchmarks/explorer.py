"""How fast the explorer's pages are over a large store, and how much memory its server holds.

`python -m tests.benchmarks.explorer [--samples 30000000] [--requests 10000] [--parts pages,memory]` starts its own embedded Postgres and
removes it afterwards. It writes `.alchemist/bench/explorer.json`. Alone on the machine, at 30 million: 25 minutes and 30 GB.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import NamedTuple

import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal
from sqlalchemy import Engine, text
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.people import Person
from alchemist_core.files import PICTURE_CACHE, artifact_path
from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.browsing import encode_score, write_place
from alchemist_core.store.snapshots import N_ORDERED
from tests.benchmarks.jpeg_corpus import write_corpus
from tests.benchmarks.picture_store import own_store
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.score_pool import SHARD_PAIRS, SHARDS_A_DATE, Pool
from tests.explorer.conftest import Admits, free_port
from tests.peak_memory import held_mib

N_PICTURES, SIDE, N_EACH = 600, 512, 60
MOST_MS, MOST_COLD_S, MOST_MIB = 300.0, 1.0, 500.0
# Two versions of a fifth of the samples, of which the later one has replaced a tenth.
SUBSETS = """
INSERT INTO alchemist.rank_snapshots (rank_scale_id, dataset_names, night_ids, n_eligible, eligible_hash)
SELECT max(rank_scale_id), '{pool}', ARRAY(SELECT night_id FROM alchemist.nights), 1, 'e' FROM alchemist.rank_scales;
INSERT INTO alchemist.subsets (
    name, version, snapshot_id, strategy, retention, seed, spec, spec_hash, n_samples, manifest_sha256, manifest_uri, state, created_by,
    published_at
) SELECT
    'large', version, 1, 'top_k', 0.2, 0, '{}', version, 1, 'm', 'm', CASE version WHEN 1 THEN 'superseded' ELSE 'published' END, 'bench',
    now()
FROM generate_series(1, 2) AS version;
SELECT alchemist.add_partition('subset_samples', version) FROM generate_series(1, 2) AS version;
INSERT INTO alchemist.subset_samples (subset_id, sample_id, rank)
SELECT 1, sample_id, 0.5 FROM alchemist.samples WHERE pair_hash64 % 100 BETWEEN 0 AND 39;
INSERT INTO alchemist.subset_samples (subset_id, sample_id, rank)
SELECT 2, sample_id, 0.5 FROM alchemist.samples WHERE pair_hash64 % 100 BETWEEN 4 AND 43;
INSERT INTO alchemist.scores (rater_id, sample_id, score)
SELECT 1, sample_id, random() FROM alchemist.samples WHERE sample_id > (SELECT max(sample_id) FROM alchemist.scores);
"""

HIGHEST = text(
    "SELECT min(score), max(score) FROM (SELECT score FROM alchemist.scores ORDER BY score DESC LIMIT :n) AS highest"
)
ORDER = text("SELECT alchemist.order_highest_scores(1, CAST(:lowest AS real), :n)")


class Highest(NamedTuple):
    """The lowest and the highest of the scores that are kept in order."""

    lowest: float
    highest: float


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=30_000_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parts", default="pages,memory", help="what to measure, separated by commas")
    given = parser.parse_args()
    parts, rows = given.parts.split(","), list[Row]()
    with own_store() as engine:
        kinds = pages(given.samples, fill(engine, given.samples))
        if "pages" in parts:
            with explorer() as client:
                rows += [*measure_pages(client, kinds, given.samples), measure_pictures(client)]
        if "memory" in parts:
            rows.append(measure_memory(kinds, given.samples, given.requests))
    write_rows("explorer", rows)


def fill(engine: Engine, n: int) -> Highest:
    """Make the corpus, real tars as its newest night, two versions of a subset, and the order of the highest scores."""
    began = time.perf_counter()
    pool = Pool(engine)
    pool.grow(n)
    pool.freeze_scale()
    root = load_settings().home / "pictures" / "2026-01-01"
    root.parent.mkdir(parents=True)
    write_corpus(root, side=SIDE, n_pairs=N_PICTURES, shard_pairs=200)
    ingest(IngestConfig(dataset="pictures", root=str(root.parent), perceptual_hash=False))
    with engine.begin() as connection:
        connection.execute(text(SUBSETS))
        highest = Highest._make(connection.execute(HIGHEST, {"n": N_ORDERED}).one())
        connection.execute(ORDER, {"lowest": highest.lowest, "n": N_ORDERED})
    pool.settle()
    print(f"{n:,} samples in {time.perf_counter() - began:.0f} s", flush=True)
    return highest


@contextmanager
def explorer() -> Iterator[TestClient]:
    """The application, called in this process."""
    app = make_app(Admits(Person("bench", b"s")))
    client = TestClient(app)
    # One event loop for all requests, as a server has. Otherwise each has its own, and a picture that waits for its turn waits for ever.
    with start_blocking_portal() as client.portal:
        yield client
    app.state.pictures.close()


def pages(n: int, scores: Highest) -> dict[str, Callable[[int], str]]:
    """The addresses of each kind of page, by a number that is drawn anew."""
    # Of the nights that the corpus has: a smaller one has fewer than a month.
    n_nights = min(28, max(1, n // (SHARD_PAIRS * SHARDS_A_DATE)))

    def night(i: int) -> str:
        return f"2020-01-{1 + i % n_nights:02d}"

    def place(i: int) -> str:
        return write_place((encode_score(scores.lowest + (scores.highest - scores.lowest) * i / n), i))

    return {
        "first grid": lambda _: "/samples",
        "grid, next page": lambda i: f"/samples?older={i}",
        "grid, highest 1%": lambda i: f"/samples?rank_to=0.01&older={i}",
        "grid, highest 0.1%": lambda i: f"/samples?rank_to=0.001&older={i}",
        "grid, a night": lambda i: f"/samples?dataset=pool&night={night(i)}",
        "grid, a night and a source without samples": lambda i: (
            f"/samples?dataset=pool&night={night(i)}&source=none.example"
        ),
        "grid, a condition that few satisfy": lambda i: f"/samples?older={i}&where=caption+like+'%25number+{i}%25'",
        "grid, a subset and a night": lambda i: f"/samples?subset=large:2&dataset=pool&night={night(i)}",
        "grid by rank": lambda _: "/samples?order=rank",
        "grid by rank, next page": lambda i: f"/samples?order=rank&older={place(i)}",
        "grid by rank, highest 0.1%": lambda i: f"/samples?order=rank&rank_to=0.001&older={place(i)}",
        "grid by rank, a night": lambda i: f"/samples?order=rank&dataset=pool&night={night(i)}",
        "a sample": lambda i: f"/samples/{i}",
        "a difference of subsets": lambda _: "/subsets/large/2/difference?since=1",
        "a difference of subsets, next page": lambda i: f"/subsets/large/2/difference?since=1&joined={i}&left={i}",
        "grid, a caption that few have": lambda i: f"/samples?older={i}&caption=number+{i}+of",
        "a subset": lambda _: "/subsets/large/2",
        "where a subset comes from": lambda _: "/subsets/large/2/strata",
        "a blind pair": lambda _: "/subsets/large/2/blind",
        "nights": lambda _: "/nights",
        "a night": lambda i: f"/nights/pool/{night(i)}",
        "what needs me": lambda _: "/needs",
    }


def measure_pages(client: TestClient, kinds: dict[str, Callable[[int], str]], n: int) -> list[Row]:
    """The time of each kind of page without its pictures, at the 95th percentile."""
    rng, rows = np.random.default_rng(0), []
    for name, address in kinds.items():
        client.get(address(n // 2))
        took = []
        for number in rng.integers(2, n, N_EACH).tolist():
            began = time.perf_counter()
            answer = client.get(address(number))
            took.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, (address(number), answer.text)
        high = float(np.quantile(took, 0.95))
        rows.append(
            Row(
                f"{name}: 95 %",
                round(high, 1),
                "ms",
                f"< {MOST_MS:g}",
                high < MOST_MS,
                f"median {np.median(took):.1f} ms",
            )
        )
        print(rows[-1], flush=True)
    return rows


def measure_pictures(client: TestClient) -> Row:
    """A grid with its thumbnails, none of which is in the cache, as a browser asks for them: six at a time."""
    took = []
    client.get("/pictures/2/thumbnail")
    for _ in range(5):
        shutil.rmtree(artifact_path(PICTURE_CACHE), ignore_errors=True)
        began = time.perf_counter()
        page = client.get("/samples?dataset=pictures").text
        paths = [part.partition('"')[0] for part in page.split('<img src="')[1:]]
        assert len(paths) == 48
        with ThreadPoolExecutor(6) as threads:
            kinds = list(threads.map(lambda path: client.get(path).headers["content-type"], paths))
        took.append(time.perf_counter() - began)
        assert set(kinds) == {"image/jpeg"}
    slowest = max(took)
    return Row(
        "a grid with 48 cold thumbnails, slowest of 5",
        round(slowest, 3),
        "s",
        f"< {MOST_COLD_S:g}",
        slowest < MOST_COLD_S,
    )


def measure_memory(kinds: dict[str, Callable[[int], str]], n: int, n_requests: int) -> Row:
    """The memory of `alchemist explore` after many requests of every kind. The workers that make pictures are processes of their own."""
    port = free_port()
    command = [sys.executable, "-m", "alchemist_core", "explore", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            printed: list[str] = []
            address = None
            while address is None and (line := server.stderr.readline()):
                printed.append(line)
                address = re.search(r"http://\S+", line)
            assert address, "".join(printed)
            # Its log is read, so that it never waits for room in the pipe.
            Thread(target=server.stderr.read, daemon=True).start()
            with httpx.Client(follow_redirects=True, timeout=60) as client:
                client.get(address.group(0)).raise_for_status()
                rng, addresses = np.random.default_rng(1), list(kinds.values())
                first = 0.0
                for number in range(n_requests):
                    path = addresses[number % len(addresses)](int(rng.integers(2, n)))
                    client.get(f"http://127.0.0.1:{port}{path}").raise_for_status()
                    first = first or (held_mib(server.pid) if number == n_requests // 10 else 0.0)
            held = held_mib(server.pid)
        finally:
            server.terminate()
    name, detail = f"memory after {n_requests:,} requests", f"{first:.0f} MiB after a tenth of them"
    return Row(name, round(held), "MiB", f"< {MOST_MIB:g}", held < MOST_MIB, detail)


if __name__ == "__main__":
    main()
