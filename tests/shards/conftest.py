"""Shards made by the tests: images, records, whole tars, and the expected result of reading them."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alchemist_core.shards.faults import Fault
from alchemist_core.shards.samples import Sample, read_samples
from tests.object_store import endpoint, object_store

__all__ = ["endpoint", "object_store"]

Entry = tuple[str, bytes] | tarfile.TarInfo
DrawPicture = Callable[..., bytes]
MakeTar = Callable[[Iterable[Entry]], bytes]
ReadShard = Callable[[bytes], list[Sample | Fault]]


def draw_image(seed: int = 0, *, mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (20, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def make_tar(entries: Iterable[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            name, data = entry
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_record(key: str, seed: int) -> list[tuple[str, bytes]]:
    return [
        (f"{key}.png", draw_image(seed)),
        (f"{key}.txt", f"picture number {seed}".encode()),
        (f"{key}.json", b'{"url": "https://example.org/%d", "license": "CC0-1.0", "author": "me"}' % seed),
    ]


@pytest.fixture(scope="session")
def picture() -> DrawPicture:
    return draw_image


@pytest.fixture(scope="session")
def tar() -> MakeTar:
    return make_tar


@pytest.fixture(scope="session")
def record() -> Callable[[str, int], list[tuple[str, bytes]]]:
    return make_record


@pytest.fixture(scope="session")
def read() -> ReadShard:
    return lambda raw: list(read_samples(io.BytesIO(raw), len(raw)))


@pytest.fixture(scope="session")
def real_corpus() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "corpus"
    folder = Path(os.environ.get("ALCHEMIST_TEST_CORPUS", beside))
    if not list(folder.glob("*.tar")):
        pytest.skip("no real corpus: name its folder in ALCHEMIST_TEST_CORPUS")
    return folder
