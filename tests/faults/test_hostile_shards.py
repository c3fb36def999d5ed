"""Every kind of bad record, from 1 in 1,000 to all of them: each location is accounted for, and other records are not affected."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from alchemist_core.shards.faults import Reason
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.engine import open_store
from tests.shards.conftest import draw_image
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.faults]

ROOT = Path(__file__).parents[2]
N_RECORDS = 1000
Members = list[tuple[str | tarfile.TarInfo, bytes]]


def good(number: int) -> Members:
    return [
        (f"{number:06d}.png", draw_image(number)),
        (f"{number:06d}.txt", f"picture number {number}".encode()),
        (f"{number:06d}.json", json.dumps({"url": f"https://example.org/{number}"}).encode()),
    ]


def with_picture(data: bytes) -> Callable[[int], Members]:
    return lambda number: [(f"{number:06d}.png", data), *good(number)[1:]]


def with_caption(data: bytes) -> Callable[[int], Members]:
    return lambda number: [good(number)[0], (f"{number:06d}.txt", data), good(number)[2]]


def with_json(data: bytes) -> Callable[[int], Members]:
    return lambda number: [good(number)[0], (f"{number:06d}.json", data)]


def with_name(name: str) -> Callable[[int], Members]:
    return lambda number: [
        (f"{name}{number:06d}.{ext}", data) for ext, (_, data) in zip(("png", "txt"), good(number), strict=False)
    ]


def link(number: int) -> Members:
    entry = tarfile.TarInfo(f"{number:06d}.png")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return [(entry, b""), *good(number)[1:]]


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in (0, 255)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb() -> bytes:
    """A header that promises 4 gigapixels."""
    data = bytearray(draw_image(0))
    data[16:24] = (65_535).to_bytes(4, "big") * 2
    return bytes(data)


KINDS: dict[str, Callable[[int], Members]] = {
    "cut picture": lambda number: with_picture(draw_image(number, kind="JPEG")[:-200])(number),
    "no bytes": with_picture(b""),
    "another content": with_picture(b"<html>not found</html>"),
    "animated": with_picture(animated()),
    "bomb": with_picture(bomb()),
    "caption not UTF-8": with_caption(b"\xff\xfe\xfa"),
    "NUL in the caption": with_caption(b"a\0b"),
    "no caption": lambda number: good(number)[:1],
    "JSON broken": with_json(b'{"caption": '),
    "lone surrogate": with_json(b'{"caption": "\\ud800"}'),
    "deep JSON": with_json(b'{"caption": "a", "deep": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "leads out": with_name("../../etc/"),
    "absolute": with_name("/etc/"),
    "a link": link,
    "several pictures": lambda number: [*good(number), (f"{number:06d}.jpg", draw_image(number, kind="JPEG"))],
    "a crowd": lambda number: [*good(number), *((f"{number:06d}.e{at}", b"") for at in range(300))],
    "key too long": with_name("k" * 2000),
}
# Readable after all: what looks odd is no fault.
HARMLESS: dict[str, Callable[[int], Members]] = {
    "CMYK": lambda number: with_picture(draw_image(number, kind="JPEG", mode="CMYK"))(number),
    "transparent": lambda number: with_picture(draw_image(number, mode="RGBA"))(number),
    "quote in the caption": with_caption(b"'; drop table alchemist.samples; --"),
    "markup in the caption": with_caption(b"<script>alert(1)</script>"),
}


def write_shard(path: Path, records: list[Members]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (member for record in records for member in record):
            entry = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def read_rows(sql: str, dataset: str) -> list[tuple]:
    with open_store().connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql), {"dataset": dataset})]


PAIRS = """
SELECT key, encode(pair_hash, 'hex') FROM alchemist.sample_locations JOIN alchemist.samples USING (sample_id)
JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id) WHERE name = :dataset
"""
BAD = """
SELECT ordinal, reason FROM alchemist.quarantined_samples
JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id) WHERE name = :dataset
"""
LEDGER = """
SELECT shard_scores.n_samples, n_scored, n_quarantined, shards.n_samples FROM alchemist.shard_scores
JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id) WHERE name = :dataset
"""


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 1.0])
def test_every_location_is_a_sample_or_a_reason_and_no_neighbour_is_hurt(
    trained_store: TrainedStore, tmp_path: Path, share: float
) -> None:
    n_bad = max(1, round(share * N_RECORDS))
    bad = sorted(np.random.default_rng(0).permutation(N_RECORDS)[:n_bad].tolist())
    kinds = list(KINDS.values())
    makers = {number: kinds[at % len(kinds)] for at, number in enumerate(bad)}
    write_shard(tmp_path / "clean" / "one.tar", [good(number) for number in range(N_RECORDS)])
    write_shard(tmp_path / "hit" / "one.tar", [makers.get(number, good)(number) for number in range(N_RECORDS)])
    for dataset in ("clean", "hit"):
        ingest(IngestConfig(dataset=dataset, root=str(tmp_path / dataset)))
    clean, hit, faults = dict(read_rows(PAIRS, "clean")), dict(read_rows(PAIRS, "hit")), read_rows(BAD, "hit")
    assert len(clean) == N_RECORDS
    assert hit == {key: pair for number, (key, pair) in enumerate(sorted(clean.items())) if number not in makers}
    # A faulty record may be reported as several: each file with a path outside its folder is a record of its own.
    assert {ordinal for ordinal, _ in faults}
    assert {reason for _, reason in faults} <= {reason.value for reason in Reason}
    assert len(faults) >= n_bad
    score(ScoreConfig(dataset="hit"))
    ((n_samples, n_scored, n_quarantined, n_in_shard),) = read_rows(LEDGER, "hit")
    assert n_samples == n_scored + n_quarantined == n_in_shard == len(hit) + len(faults)
    assert not (tmp_path / "etc").exists()


def test_what_looks_odd_but_can_be_read_is_no_fault(trained_store: TrainedStore, tmp_path: Path) -> None:
    write_shard(tmp_path / "odd" / "one.tar", [make(number) for number, make in enumerate(HARMLESS.values())])
    ingest(IngestConfig(dataset="odd", root=str(tmp_path / "odd")))
    assert len(read_rows(PAIRS, "odd")) == len(HARMLESS)
    assert read_rows(BAD, "odd") == []
    score(ScoreConfig(dataset="odd"))
    assert [row[1] for row in read_rows(LEDGER, "odd")] == [len(HARMLESS)]


@pytest.mark.parametrize("kind", ["keys", "members", "zeros"])
def test_a_million_empty_members_take_no_more_memory_than_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "crowd.tar"
    with path.open("wb") as file:
        for number in range(1_000_000):
            name = {"keys": f"k{number:07d}.jpg", "members": f"one.e{number:07d}", "zeros": ""}[kind]
            entry = tarfile.TarInfo(name)
            file.write(entry.tobuf(tarfile.USTAR_FORMAT) if name else bytes(512))
        file.write(bytes(1024))
    code = (
        "import sys; from alchemist_core.shards.samples import read_samples; from alchemist_core.errors import DataError\n"
        "from tests.peak_memory import peak_mib\n"
        "n = 0\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    file.seek(0, 2); size = file.tell(); file.seek(0)\n"
        "    try:\n"
        "        for _ in read_samples(file, size): n += 1\n"
        "    except DataError: pass\n"
        "print(n, round(peak_mib()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    n_found, found_mib = map(int, done.stdout.split())
    # Nothing but zeros is one fault: a file whose bytes were not written yet.
    assert n_found == {"keys": 1_000_000, "members": 1, "zeros": 1}[kind]
    assert found_mib < 1024
