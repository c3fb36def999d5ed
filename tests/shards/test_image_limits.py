"""No image uses more time or memory than the limits, and other images of the shard are not affected."""

import hashlib
import io
import resource
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alchemist_core.settings import load_settings
from alchemist_core.shards.decoding import DecodeTask, InlineDecoders, ProcessDecoders, open_decoders
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.images import (
    MAX_DECODED_BYTES,
    BadImageError,
    decode_image,
    explain_death,
    is_costly,
    one_image,
    read_header,
)
from alchemist_core.shards.reading import ShardContent, _ReadInOrder, read_shards
from alchemist_core.shards.samples import Reading
from alchemist_core.shards.storage import list_shards
from alchemist_core.shards.workers import Workers
from alchemist_core.store.sample_table import spool_samples
from alchemist_core.training.sample_reading import read_images
from tests.located_samples import located
from tests.shards.conftest import draw_image
from tests.shards.deadly import DeadlyRecordTask
from tests.shards.slow_images import bomb, slow_jpeg

SIDE = 8


@pytest.fixture
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of processor time: a hundred times what an ordinary image takes."""
    monkeypatch.setenv("ALCHEMIST_DECODE_LIMIT_S", "0.5")
    load_settings.cache_clear()


def test_a_jpeg_of_three_thousand_scans_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    data = bomb((2000, 2000), 3000)
    monkeypatch.setattr(Image.Image, "load", explode)
    with pytest.raises(BadImageError) as caught:
        decode_image(data, SIDE)
    assert caught.value.reason == "too_slow"


def test_what_looks_like_scans_in_the_metadata_is_not_counted() -> None:
    plain = draw_image(1, kind="JPEG", size=(64, 48))
    comment = b"\xff\xda" * 1000
    data = plain[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + plain[2:]
    assert (decode_image(data, SIDE) == decode_image(plain, SIDE)).all()


def test_what_a_file_announces_is_bounded_by_the_bytes_that_decoding_takes() -> None:
    for kind, options, side in (("PNG", {}, 8192), ("WEBP", {"lossless": True, "quality": 0, "method": 0}, 5182)):
        mode = "L" if kind == "PNG" else "RGB"
        with pytest.raises(BadImageError) as caught:
            read_header(encode(Image.new(mode, (side, side + 1)), kind, **options))
        assert caught.value.reason == "image_too_large"


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


COSTLY = {
    "16-bit grey PNG": ("I;16", (3000, 3000), "PNG", {}),
    "PNG with transparency": ("RGBA", (3000, 3000), "PNG", {}),
    "palette with transparency": ("P", (3000, 3000), "GIF", {"transparency": 0}),
    "wide PNG": ("RGB", (6000, 1500), "PNG", {}),
    "progressive JPEG": ("CMYK", (3000, 3000), "JPEG", {"progressive": True}),
    "WebP": ("RGB", (2000, 2000), "WEBP", {"quality": 0, "method": 0}),
    "TIFF": ("RGB", (3000, 3000), "TIFF", {"compression": "tiff_lzw"}),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("16-bit grey PNG", "progressive JPEG") else pytest.param(name, marks=pytest.mark.slow)
        for name in COSTLY
    ],
)
def test_decoding_takes_no_more_memory_than_the_header_s_bound(name: str, tmp_path: Path) -> None:
    mode, size, kind, options = COSTLY[name]
    (tmp_path / "image").write_bytes(encode(Image.new(mode, size), kind, **options))
    code = (
        "import gc, sys; from pathlib import Path; from tests.peak_memory import peak_mib\n"
        "from alchemist_core.shards.images import decode_views, perceptual_hash_of, read_header\n"
        "data = Path(sys.argv[1]).read_bytes(); print(read_header(data).n_decoded_bytes / 2**20)\n"
        "for read in (lambda: decode_views(data, 256, luma_side=64), lambda: perceptual_hash_of(data)):\n"
        "    gc.collect(); before = peak_mib(reset=True); read(); print(peak_mib() - before)"
    )
    run = subprocess.run(  # noqa: PLW1510  its return code is looked at
        [sys.executable, "-c", code, str(tmp_path / "image")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    bound, *peaks = map(float, run.stdout.split())
    # What is converted at a time comes on top.
    assert max(peaks) < bound + 24
    assert bound < MAX_DECODED_BYTES / 2**20


@pytest.fixture
def pictures() -> list[bytes]:
    good = [draw_image(seed, kind="JPEG", size=(40, 30)) for seed in range(6)]
    return [*good[:3], slow_jpeg(), *good[3:]]


def task_of(path: Path, pictures: list[bytes]) -> DecodeTask:
    offsets = np.cumsum([0, *map(len, pictures)]).tolist()
    path.write_bytes(b"".join(pictures))
    ranges = [(offset, len(picture)) for offset, picture in zip(offsets, pictures, strict=False)]
    hashes = [hashlib.sha256(picture).digest() for picture in pictures]
    return DecodeTask(str(path), ranges, hashes, SIDE, [False] * len(pictures))


def test_only_what_may_take_long_is_costly(pictures: list[bytes]) -> None:
    assert [is_costly(picture) for picture in pictures] == [at == 3 for at in range(7)]
    assert is_costly(draw_image(1, kind="TIFF"))
    assert is_costly(draw_image(1) + bytes(1 << 20))
    assert not is_costly(b"no image")


@pytest.mark.usefixtures("_short_limit")
@pytest.mark.parametrize("n_workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_image_that_takes_too_long_is_quarantined_and_its_neighbours_are_decoded(
    tmp_path: Path, pictures: list[bytes], n_workers: int
) -> None:
    task = task_of(tmp_path / "pictures", pictures)
    decoders = open_decoders(n_workers, SIDE)
    assert isinstance(decoders, ProcessDecoders if n_workers else InlineDecoders)
    faults: dict[int, tuple[str, str]] = {}
    images: dict[int, np.ndarray] = {}
    try:
        decoders.submit(task, 0)
        while not decoders.is_idle():
            for part in decoders.wait():
                faults |= {part.first + at: fault for at, fault in part.decoded.faults.items()}
                images |= {part.first + at: image.copy() for at, image in enumerate(part.image_BHWC)}
    finally:
        decoders.close()
    assert faults == {3: ("too_slow", "reading it takes more than 0.5 s of processor time")}
    assert sorted(images) == list(range(7))
    assert all((images[at] == decode_image(pictures[at], SIDE)).all() for at in range(7) if at != 3)


@pytest.fixture
def root(tmp_path: Path, tar, record, pictures: list[bytes]) -> Path:
    (tmp_path / "crawl").mkdir()
    bad = [("slow.jpg", pictures[3]), ("slow.txt", b"a slow image")]
    (tmp_path / "crawl" / "a.tar").write_bytes(tar([*record("a", 1), *bad, *record("b", 2)]))
    (tmp_path / "crawl" / "b.tar").write_bytes(tar(record("c", 3)))
    return tmp_path / "crawl"


@pytest.mark.usefixtures("_short_limit")
@pytest.mark.parametrize("n_workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_ingest_sets_an_image_aside_that_takes_too_long_and_reads_all_else(root: Path, n_workers: int) -> None:
    first, second = read_shards(list_shards(str(root)), n_workers=n_workers)
    assert isinstance(first, ShardContent)
    assert isinstance(second, ShardContent)
    assert [pair.record.key for pair in [*first.samples, *second.samples]] == ["a", "b", "c"]
    (fault,) = first.faults
    assert isinstance(fault, Fault)
    assert (fault.ordinal, fault.key, fault.reason, fault.is_transient) == (1, "slow", "too_slow", False)


@pytest.mark.slow
def test_a_record_on_which_two_readers_die_is_quarantined_alone(root: Path) -> None:
    tasks = [DeadlyRecordTask(file, Reading()) for file in list_shards(str(root))[:1]]
    with Workers(1, module=DeadlyRecordTask.__module__, place_bytes=8) as workers:
        (content,) = _ReadInOrder(tasks, workers).contents()
    assert isinstance(content, ShardContent)
    assert [pair.record.key for pair in content.samples] == ["a", "b"]
    assert [(fault.key, fault.reason, fault.is_transient) for fault in content.faults] == [
        ("slow", "decoder_died", True)
    ]


@pytest.mark.usefixtures("_short_limit")
@pytest.mark.slow
def test_training_leaves_an_image_out_that_takes_too_long(tmp_path: Path, pictures: list[bytes]) -> None:
    large = draw_image(9, kind="PNG", size=(1000, 1000))
    task = task_of(tmp_path / "a.tar", [*pictures, large])
    rows = [
        located(
            number, root_uri=str(tmp_path), uri="a.tar", caption=str(number), image_hash=image_hash,
            file_exts=["jpg"], file_offsets=[offset], file_sizes=[size],
        )
        for number, ((offset, size), image_hash) in enumerate(zip(task.ranges, task.image_hash_B, strict=True))
    ]  # fmt: skip
    assert is_costly(large)
    found = read_images(spool_samples([rows]), SIDE, lambda *_: None)
    assert found.captions == [str(number) for number in range(8) if number != 3]
    assert (found.images[-1] == decode_image(large, SIDE)).all()


def header_of(width: int, height: int, n_bytes: int = 0) -> bytes:
    """A PNG of RGB pixels with a header that names its size and no pixel data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return data + bytes(max(0, n_bytes - len(data)))


def test_a_file_or_an_image_may_be_as_large_as_what_is_cheap() -> None:
    # Eight bytes a pixel: 4096 by 2048 pixels take 64 MiB.
    assert not is_costly(header_of(4096, 2048))
    assert is_costly(header_of(4096, 2049))
    assert not is_costly(header_of(8, 8, 1 << 20))
    assert is_costly(header_of(8, 8, (1 << 20) + 1))


def test_a_process_that_ended_by_its_limit_was_too_slow_and_any_other_end_is_a_dead_decoder() -> None:
    assert explain_death(-signal.SIGPROF)[0] == "too_slow"
    assert explain_death(-signal.SIGSEGV) == ("decoder_died", f"a worker process ended with code {-signal.SIGSEGV}")
    assert explain_death(signal.SIGPROF)[0] == "decoder_died"


def test_while_an_image_is_read_time_and_the_growth_of_memory_are_limited_and_not_afterwards() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with one_image(100):
        n_pages = int(Path("/proc/self/statm").read_text().split()[5])
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        assert signal.getitimer(signal.ITIMER_PROF)[0] == pytest.approx(100, abs=10)
    assert hard == before[1]
    assert soft - n_pages * resource.getpagesize() == pytest.approx(3 * MAX_DECODED_BYTES, abs=1 << 26)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0
