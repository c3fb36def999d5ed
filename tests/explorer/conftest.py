"""A small store with real pictures in tars, hostile ones among them, and the explorer over it."""

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine, make_url, text
from starlette.testclient import TestClient

from alchemist_core.explorer.app import make_app
from alchemist_core.explorer.people import Person
from alchemist_core.store.engine import make_engine
from tests.conftest import folder_of_run, once
from tests.given import insert_rows
from tests.trained_store import TrainedStore, use_store

N_OLD, N_NEW = 70, 12
ATTACK = "\"><img src=x onerror=alert(1)><script>alert(2)</script> {{ 7191 * 6113 }} ' onload=alert(3) \u202e</a></p>"
ANN = Person("ann", b"of ann's session", may_flag=True, may_act=True)


def jpeg_of(number: int, side: int = 40) -> bytes:
    """A JPEG of a colour of its own, with a comment and EXIF that must not reach anybody."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "secret of the camera"
    image = Image.fromarray(np.full((side, side * 2, 3), (number * 37 % 256, number * 91 % 256, 128), np.uint8))
    image.save(buffer, "JPEG", comment=b"secret comment", exif=exif)
    return buffer.getvalue()


def write_records(
    path: Path, images: Sequence[bytes], captions: Sequence[str], *, dataset_id: int, shard_id: int, first_id: int, crawl_date: str
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Write a tar of images, and return the rows of its shard, samples and locations, as ingest would have stored them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    with tarfile.open(path) as tar:
        places = [(member.offset_data, member.size) for member in tar.getmembers()]
    samples, locations = [], []
    for number, (image, caption, (offset, size)) in enumerate(zip(images, captions, places, strict=True)):
        sample_id = first_id + number
        samples.append({
            "sample_id": sample_id, "image_hash": hashlib.sha256(image).digest(), "caption": caption, "width": 100 + number, "height": 50,
            "pair_hash": hashlib.sha256(b"pair %d" % sample_id).digest(), "source_url": f"https://host{number % 3}.example/{number}.jpg",
        })  # fmt: skip
        locations.append({
            "shard_id": shard_id, "ordinal": number, "sample_id": sample_id, "file_exts": ["jpg"], "file_offsets": [offset],
            "file_sizes": [size],
        })  # fmt: skip
    shard = {
        "shard_id": shard_id, "dataset_id": dataset_id, "uri": f"{path.parent.name}/{path.name}", "crawl_date": crawl_date,
        "n_samples": len(images),
    }  # fmt: skip
    return {"shards": [shard], "samples": samples, "sample_locations": locations}


def fill(engine: Engine, root: Path) -> None:
    """Dataset web: night 1 with samples 1 to 70, night 2 with samples 71 to 82; sample 80 is a near-duplicate of 3, and 5 attacks."""
    old = [f"caption of {number}" for number in range(1, N_OLD + 1)]
    old[4] = ATTACK
    new = [f"a late picture {number}" for number in range(N_NEW)]
    rows = [
        write_records(
            root / "2026-01-01" / "a.tar", [jpeg_of(n) for n in range(N_OLD)], old, dataset_id=1, shard_id=1, first_id=1,
            crawl_date="2026-01-01",
        ),
        write_records(
            root / "2026-01-02" / "b.tar", [jpeg_of(100 + n) for n in range(N_NEW)], new, dataset_id=1, shard_id=2, first_id=N_OLD + 1,
            crawl_date="2026-01-02",
        ),
    ]  # fmt: skip
    n = N_OLD + N_NEW
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 1, "name": "web", "root_uri": str(root)}, {"dataset_id": 2, "name": "books"}],
            "raters": [
                {"rater_id": 1, "name": "r1", "state": "production"},
                {"rater_id": 2, "name": "sharp", "kind": "scorer", "rule": "scorer"},
            ],
            # Rank 0 for score n, rank 1 for score 1.
            "rank_scales": [{"rater_id": 1, "knot_scores": [1.0, float(n)], "knot_ranks": [1.0, 0.0]}],
            "nights": [
                {"night_id": number, "dataset_id": 1, "crawl_date": f"2026-01-0{number}", "rater_id": 1, "state": "selectable"}
                for number in (1, 2)
            ],
        })  # fmt: skip
        for given in rows:
            insert_rows(connection, given)
        scored = [
            {"rater_id": 1, "shard_id": shard, "night_id": shard, "n_scored": count}
            for shard, count in ((1, N_OLD), (2, N_NEW))
        ]
        insert_rows(connection, {
            "shard_scores": scored,
            # An order of its own: scores 1 to n, none twice.
            "scores": [{"rater_id": 1, "sample_id": i, "score": 1 + (i * 29) % n} for i in range(1, n + 1)]
            + [{"rater_id": 2, "sample_id": i, "score": i / 10} for i in range(1, 11)],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"], "night_ids": [1, 2]}],
            "subsets": [{"subset_id": 1, "name": "best", "snapshot_id": 1, "state": "published", "strategy": "top_k"}],
            "subset_samples": [{"subset_id": 1, "sample_id": i, "rank": 0.1} for i in range(2, n + 1, 4)],
            "distinct_images": [{"sample_id": 3}],
            "duplicate_samples": [{"sample_id": 80, "first_sample_id": 3, "distance": 1, "is_same_image": False}],
            "quarantined_samples": [{"shard_id": 1, "ordinal": 6, "rater_id": 2, "reason": "too_slow", "detail": "over 10 s"}],
            "takedowns": [{"image_hash": hashlib.sha256(jpeg_of(8)).digest(), "reason": "asked by its author", "requested_by": "ann"}],
        })  # fmt: skip


@pytest.fixture(scope="session")
def filled_once(make_database: Callable[..., str]) -> TrainedStore:
    """The filled store, made once a run, to be copied: nobody connects to it."""

    def make() -> str:
        home, url = folder_of_run("explored"), make_database()
        engine = make_engine(url)
        fill(engine, home / "web")
        engine.dispose()
        return f"{url}\n{home}"

    url, home = once("explored", make).splitlines()
    return TrainedStore(url, Path(home))


@pytest.fixture(scope="session")
def read_once(filled_once: TrainedStore, make_database: Callable[..., str]) -> str:
    """A copy of the filled store, which tests only read."""
    return make_database(template=make_url(filled_once.url).database)


@pytest.fixture
def store(read_once: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedStore:
    """The filled store, only to be read, with a home of this test's own."""
    read = TrainedStore(read_once, tmp_path / "home")
    use_store(monkeypatch, read)
    return read


@pytest.fixture
def own_store(
    filled_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """A copy of the filled store that a test may change."""
    own = TrainedStore(make_database(template=make_url(filled_once.url).database), tmp_path / "home")
    use_store(monkeypatch, own)
    engine = make_engine(own.url)
    yield engine
    engine.dispose()


class Admits:
    """A guard that admits one person."""

    def __init__(self, person: Person = ANN) -> None:
        self.person = person

    async def admit(self, _request: object) -> Person:
        return self.person


@pytest.fixture
def client(store: TrainedStore) -> Iterator[TestClient]:
    """The explorer over the filled store, as ann sees it."""
    app = make_app(Admits())
    yield TestClient(app, base_url="http://127.0.0.1:9480")
    app.state.pictures.close()


@contextmanager
def serving(
    store: TrainedStore, port: int, *, program: Sequence[str] = (sys.executable, "-m", "alchemist_core"), **variables: str
) -> Iterator[str]:  # fmt: skip
    """Run `alchemist explore` over a store as a process of its own; yield the path and query of the address that it printed."""
    command = [*program, "explore", "--port", str(port)]
    environment = {**os.environ, "ALCHEMIST_DATABASE_URL": store.url, "ALCHEMIST_HOME": str(store.home), **variables}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            printed: list[str] = []
            # Another line, such as a warning of a library, may come first.
            for line in process.stderr:
                printed.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+(/\?token=\S+)", line):
                    break
            else:
                raise AssertionError("".join(printed))
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def address(store: TrainedStore, port: int) -> Iterator[str]:
    with serving(store, port) as found:
        yield found


def run(engine: Engine, sql: str, **parameters: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), parameters)
