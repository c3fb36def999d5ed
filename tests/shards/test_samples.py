import hashlib
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image
from xxhash import xxh3_128_digest

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.shards.faults import Fault, is_storable
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.storage import list_shards, open_shard

BAD_RECORDS = {
    "missing_image": [("b.txt", b"words")],
    "missing_caption": [("b.png", "picture")],
    "several_images": [("b.png", "picture"), ("b.jpg", "jpeg"), ("b.txt", b"words")],
    "empty_image": [("b.jpg", b""), ("b.txt", b"words")],
    "wrong_magic": [("b.jpg", b"<html>"), ("b.txt", b"words")],
    "truncated_image": [("b.jpg", "cut jpeg"), ("b.txt", b"words")],
    "caption_not_utf8": [("b.png", "picture"), ("b.txt", b"\xff\xfe")],
    "unstorable_text": [("b.png", "picture"), ("b.txt", b"a\0b")],
    "bad_json": [("b.png", "picture"), ("b.json", b'{"caption": "words"')],
    "caption_too_long": [("b.png", "picture"), ("b.txt", b"x" * 100_000)],
    "duplicate_member": [("b.png", "picture"), ("b.png", "picture"), ("b.txt", b"words")],
    "unsafe_path": [("../b.png", "picture"), ("../b.txt", b"words")],
}


@pytest.mark.parametrize("reason", BAD_RECORDS)
def test_a_bad_record_is_one_fault_and_changes_nothing_for_its_neighbours(
    tar, record, read, picture, reason: str
) -> None:
    named = {"picture": picture(5), "jpeg": picture(6, kind="JPEG"), "cut jpeg": picture(7, kind="JPEG")[:-120]}
    bad = [(name, named[data] if isinstance(data, str) else data) for name, data in BAD_RECORDS[reason]]
    before, fault, after = read(tar([*record("a", 1), *bad, *record("c", 2)]))
    assert isinstance(fault, Fault)
    assert (fault.ordinal, fault.reason, fault.is_transient) == (1, reason, False)
    assert fault.detail
    clean = read(tar([*record("a", 1), *record("c", 2)]))
    assert [pair.pair_hash for pair in (before, after)] == [pair.pair_hash for pair in clean]
    assert [pair.record.ordinal for pair in (before, after)] == [0, 2]


def test_a_sample_is_named_by_its_bytes_and_its_caption(tar, record, read) -> None:
    (name, image), *rest = record("a", 1)
    (pair,) = read(tar([(name, image), *rest]))
    assert pair.image_hash == hashlib.sha256(image).digest()
    assert pair.caption_hash == hashlib.sha256(b"picture number 1").digest()
    assert pair.pair_hash == hashlib.sha256(pair.image_hash + pair.caption_hash).digest()
    assert (pair.width, pair.height, pair.format) == (20, 16, "png")
    assert (pair.attributes["source_url"], pair.attributes["licence"], pair.metadata) == (
        "https://example.org/1",
        "CC0-1.0",
        '{"author":"me"}',
    )


def test_a_sample_has_one_name_wherever_it_is(tar, record, read) -> None:
    (first,) = read(tar(record("a", 1)))
    _, moved = read(tar([*record("x", 2), *reversed(record("renamed", 1))]))
    assert first.pair_hash == moved.pair_hash


def test_another_caption_is_another_sample_of_the_same_image(tar, read, picture) -> None:
    one, other = read(tar([("a.png", picture()), ("a.txt", b"one"), ("b.png", picture()), ("b.txt", b"other")]))
    assert one.image_hash == other.image_hash
    assert one.pair_hash != other.pair_hash


def test_an_extension_does_not_decide_the_format(tar, read, picture) -> None:
    (pair,) = read(tar([("a.jpg", picture(kind="WEBP")), ("a.txt", b"words")]))
    assert pair.format == "webp"


def test_perceptual_hashes_are_left_out_where_they_are_not_wanted(tar, record) -> None:
    raw = tar(record("a", 1))
    (pair,) = read_samples(io.BytesIO(raw), len(raw), Reading(has_perceptual_hash=False))
    assert isinstance(pair, Sample)
    assert pair.perceptual_hash is None


def test_a_shard_of_img2dataset_reads_unchanged(tar, read, picture) -> None:
    about = {
        "caption": "a cat", "url": "https://x.org/cat.jpg", "key": "000010000", "status": "success", "error_message": None,
        "width": 20, "height": 16, "original_width": 40, "original_height": 32, "exif": "{}", "sha256": "00ff",
    }  # fmt: skip
    entries = [("000010000.jpg", picture(kind="JPEG")), ("000010000.json", json.dumps(about).encode())]
    with_text, without_caption = [*entries, ("000010000.txt", b"a cat")], [*entries, ("000010000.txt", b"")]
    for members in (entries, with_text, without_caption):
        (pair,) = read(tar(members))
        assert (pair.caption, pair.attributes["source_url"]) == ("a cat", "https://x.org/cat.jpg")
        assert json.loads(pair.metadata)["original_width"] == 40


def test_json_of_many_small_values_takes_no_more_memory_than_its_bytes(tar, picture) -> None:
    """Empty lists take 24 times the memory of their text; a tar of 700 MiB of them took 17 GiB."""
    document = b'{"a":[' + b",".join([b"[]"] * 300_000) + b"]}"
    raw = tar(
        [
            entry
            for name in "abcd"
            for entry in ((f"{name}.png", picture()), (f"{name}.txt", b"words"), (f"{name}.json", document))
        ]
    )
    tracemalloc.start()
    try:
        found = list(read_samples(io.BytesIO(raw), len(raw), Reading(has_perceptual_hash=False)))
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [json.loads(pair.metadata) for pair in found if isinstance(pair, Sample)] == [json.loads(document)] * 4
    assert kept_bytes < 1.5 * len(raw)


def test_every_text_of_a_fault_can_be_stored(tar, read, picture) -> None:
    entries = [("\udcfe\udcff.png", picture()), ("b.json", b'{"caption": "\\u0000"}'), ("b.png", b"\0\0")]
    faults = read(tar(entries))
    assert len(faults) == 2
    assert all(is_storable(fault.key) and is_storable(fault.detail) for fault in faults)


def test_a_quarantine_detail_holds_nothing_that_differs_between_equal_bytes(tar, read, picture) -> None:
    damaged = [picture(kind=kind)[:30] + b"?" * 200 for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    raw = tar([entry for at, data in enumerate(damaged) for entry in ((f"{at}.png", data), (f"{at}.txt", b"words"))])
    kept_alive = [read(raw) for _ in range(3)]
    assert kept_alive[0] == kept_alive[1] == kept_alive[2]
    assert len(kept_alive[0]) == 6
    assert not any("0x" in fault.detail or "_io" in fault.detail for fault in kept_alive[0])


def test_a_synthetic_corpus_reads_as_samples_that_the_truth_knows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    draw_scenes(tmp_path, n_train=40, n_validation=5, n_test=5, side=16, shard_size=30)
    found = []
    for shard in list_shards(str(tmp_path)):
        with open_shard(shard.uri) as file:
            found += list(read_samples(file, shard.size_bytes))
    truth = pq.read_table(tmp_path / "truth.parquet")["pair_hash"].to_pylist()
    assert all(isinstance(pair, Sample) for pair in found)
    assert {pair.pair_hash for pair in found} == set(truth)
    assert len(found) == 50


def test_the_real_corpus_reads_as_samples(real_corpus: Path) -> None:
    shards = list_shards(str(real_corpus))
    assert len(shards) == 7
    with open_shard(shards[0].uri) as file:
        found = list(read_samples(file, shards[0].size_bytes))
    assert all(isinstance(pair, Sample) for pair in found)
    assert len(found) == 1000
    assert all(pair.attributes["licence"] and pair.caption and "author" in json.loads(pair.metadata) for pair in found)


def test_an_image_may_be_as_long_as_the_limit(tar, record, read, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, image), *_ = record("a", 1)
    for limit, reason in ((len(image), None), (len(image) - 1, "image_too_large")):
        monkeypatch.setattr("alchemist_core.shards.samples.MAX_IMAGE_BYTES", limit)
        (found,) = read(tar(record("a", 1)))
        assert getattr(found, "reason", None) == reason


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_content_is_named_by_every_file_of_a_record_in_its_order(
    tar, record, read, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alchemist_core.shards.samples._BLOCK_BYTES", block)
    files = [*record("a", 1), ("a.extra", b"something else")]
    forth, back = read(tar(files)), read(tar(files[::-1]))
    hashes = [hashlib.sha256(data).digest() for _, data in files]
    assert forth[0].content_hash == hashlib.sha256(b"".join(hashes)).digest()
    assert back[0].content_hash == hashlib.sha256(b"".join(hashes[::-1])).digest()
    checksums = [xxh3_128_digest(data) for _, data in files]
    assert forth[0].content_checksum == xxh3_128_digest(b"".join(checksums))
    assert (forth[0].pair_hash, forth[0].repair) == (back[0].pair_hash, None)


def frames(kind: str) -> bytes:
    buffer, images = io.BytesIO(), [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    images[0].paste("white", (0, 0, 8, 16))
    images[0].save(buffer, kind, save_all=True, append_images=images[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "repair", "found"),
    [
        ("GIF", True, "first_frame"), ("GIF", False, "animated_image"), ("MPO", True, None), ("MPO", False, None),
        ("TIFF", True, "animated_image"),
    ],
)  # fmt: skip
def test_of_several_frames_the_first_is_read_where_that_is_a_repair(
    tar, kind: str, repair: bool, found: str | None
) -> None:
    raw = tar([("a.jpg", frames(kind)), ("a.txt", b"words")])
    (record,) = read_samples(io.BytesIO(raw), len(raw), Reading(repair=repair))
    assert (record.repair if isinstance(record, Sample) else record.reason) == found


def test_an_image_is_looked_for_after_the_text_and_each_extension_is_one(tar, read, picture) -> None:
    for ext in ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "JPG"):
        assert isinstance(read(tar([(f"a.{ext}", picture()), ("a.txt", b"words")]))[0], Sample)
    (fault,) = read(tar([("a.pgm", picture()), ("a.txt", b"words")]))
    assert (fault.reason, fault.detail[:36]) == ("missing_image", "the files are pgm, txt; none of bmp,")
    (fault,) = read(tar([("a.txt", b""), ("a.json", b"{}")]))
    assert fault.reason == "missing_caption"
