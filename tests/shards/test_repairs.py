"""A repaired record is marked, reads as before the damage, and reads the same for every reader."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alchemist_core.shards.captions import BadTextError, find_repairs, read_annotation
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.repairs import ENCODING_OF, Repair, join_repairs, names_of, split_repairs
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.subsets.dataset import read_ahead
from alchemist_core.subsets.materialized import RepairSamples
from alchemist_core.subsets.members import table_of
from tests.subsets.given_subset import copy, find_sources

CAPTION = "Crème brûlée in a café"
ABOUT = {"url": "https://example.org/1", "license": "MIT", "score": 0.5}


def reason_of(text: bytes | None, document: bytes | None = None) -> str:
    with pytest.raises(BadTextError) as caught:
        find_repairs(text, document)
    return caught.value.reason


def repaired(text: bytes | None, document: bytes | None = None) -> tuple[str, set[str]]:
    repairs = find_repairs(text, document)
    return read_annotation(text, document, repairs).caption, {repair.value for repair in repairs}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-32"])
def test_a_caption_in_a_legacy_encoding_is_decoded_where_one_reading_is_plausible(encoding: str) -> None:
    caption, names = repaired(CAPTION.encode(encoding))
    assert caption == CAPTION
    name = {"latin-1": "cp1252"}.get(encoding, encoding.replace("-", "_"))
    assert names == {f"caption_from_{name}"}


def test_russian_and_japanese_captions_are_decoded() -> None:
    russian, japanese = "Красивый флаг Франции на ветру", "公園で遊んでいる子供たち"
    assert repaired(russian.encode("cp1251")) == (russian, {"caption_from_cp1251"})
    assert repaired(russian.encode("koi8-r")) == (russian, {"caption_from_koi8_r"})
    assert repaired(japanese.encode("shift-jis")) == (japanese, {"caption_from_cp932"})


@pytest.mark.parametrize(
    "data",
    [
        "флаг".encode("cp1251"), "флаг".encode("koi8-r"), "猫".encode("shift-jis"), "ручне".encode("cp1251"), "和".encode("gbk"),
        "iPhone и iPad".encode("cp1251"), "iPhone и iPad".encode("koi8-r"), "LED灯".encode("gbk"), "Tシャツ".encode("euc-jp"),
        "kříž".encode("cp1250"), "zdjęcie".encode("cp1250"), "různé květiny".encode("cp1250"), "erdő".encode("cp1250"),
        "güneş".encode("cp1254"), "gėlė".encode("cp1257"), "El niño".encode("mac-roman"), "Straße".encode("cp850"),
        "שלום עולם".encode("cp1255"), "Καλημέρα κόσμε".encode("cp1253"), "مرحبا".encode("cp1256"), "สวัสดี".encode("tis-620"),
        "привет, мир".encode("cp866"), b"\xff\xfe", b"\xff\xfe\x00", b"\xff", b"caf\xe9\x81", b"\x80\x81\x82",
        CAPTION.encode("utf-16")[:-1],
    ],
)  # fmt: skip
def test_a_caption_of_which_several_readings_are_plausible_is_quarantined(data: bytes) -> None:
    assert reason_of(data) == "caption_not_utf8"


@pytest.mark.parametrize("sign", "¿¡")
def test_many_signs_of_unfinished_questions_take_a_fraction_of_a_second(sign: str) -> None:
    data = f"{sign}a ".encode("cp1252") * ((1 << 16) // 3)
    began_s = time.process_time()
    assert reason_of(data) == "caption_not_utf8"
    assert time.process_time() - began_s < 0.6


@pytest.mark.parametrize("n_words", [1, 400])
def test_a_question_of_up_to_1000_characters_is_decoded(n_words: int) -> None:
    caption = f"¿Dónde está el niño {'y ' * n_words}?"
    assert repaired(caption.encode("cp1252")) == (caption, {"caption_from_cp1252"})


@pytest.mark.parametrize("caption", ["5 &amp; 6", "Ã©tÃ©", "donâ€™t", "a\tb", "line\r\nline", "naïve 😀 猫"])
def test_what_is_valid_utf8_is_left_as_it_is(caption: str) -> None:
    assert repaired(caption.encode()) == (caption, set())
    assert repaired(b"\xef\xbb\xbf" + caption.encode()) == (caption, set())


def test_control_signs_are_removed_wherever_they_are() -> None:
    assert repaired(b"a cat \x1b[31mon\x07 a mat\x00") == ("a cat [31mon a mat", {"control_signs_removed"})
    # White space as office programs write it is kept; without it two words would become one.
    assert repaired(b"a red\x0bcat\x0con a mat") == ("a red\x0bcat\x0con a mat", set())
    assert repaired(b"a cat on a mat\x00\x00\x00\x00\x00") == ("a cat on a mat", {"control_signs_removed"})
    document = b'{"caption": "a cat on\\u0000 a mat", "tags": ["x\\u0000y", {"k\\u0000": 1}]}'
    repairs = find_repairs(None, document)
    annotation = read_annotation(None, document, repairs)
    assert (annotation.caption, annotation.metadata) == ("a cat on a mat", {"tags": ["xy", {"k": 1}]})


@pytest.mark.parametrize("caption", ["a cat", "кот на ковре", "№ 5 and more", "Éclair"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_not_taken_for_control_signs(caption: str, encoding: str) -> None:
    assert reason_of(caption.encode(encoding)) in {"unstorable_text", "caption_not_utf8"}


@pytest.mark.parametrize("document", [b"{", b"[]", b"\xff", b"", b'{"a": 1e999}', b'{"caption": "cut', b"<html>"])
def test_where_the_json_is_broken_the_caption_is_the_txt_s(document: bytes) -> None:
    assert repaired(b"a cat", document) == ("a cat", {"caption_from_txt"})
    assert repaired(CAPTION.encode("latin-1"), document) == (CAPTION, {"caption_from_txt", "caption_from_cp1252"})
    assert reason_of(None, document) == "bad_json"
    assert reason_of(b" ", document) == "bad_json"


def test_a_json_with_nan_or_nul_padding_keeps_all_else() -> None:
    text = json.dumps(ABOUT | {"caption": "a cat", "aesthetic": float("nan"), "width": float("inf")}).encode()
    annotation = read_annotation(None, text, find_repairs(None, text))
    assert (annotation.caption, annotation.attributes["licence"], annotation.attributes["source_url"]) == (
        "a cat",
        "MIT",
        ABOUT["url"],
    )
    assert annotation.metadata == {"score": 0.5, "aesthetic": None}
    padded = json.dumps(ABOUT).encode() + bytes(7)
    assert repaired(b"a cat", padded) == ("a cat", {"json_nul_padding_removed"})
    assert read_annotation(b"a cat", padded, find_repairs(b"a cat", padded)).attributes["licence"] == "MIT"


def test_what_is_whole_needs_no_repair_and_what_cannot_be_repaired_keeps_its_reason() -> None:
    assert find_repairs(b"a cat", json.dumps(ABOUT).encode()) == frozenset()
    assert reason_of(b" ", b"{}") == "missing_caption"
    assert reason_of(None, b'{"caption": "a\\ud800b"}') == "unstorable_text"
    assert reason_of("lone \ud800".encode("utf-8", "surrogatepass")) == "caption_not_utf8"
    assert reason_of(b"x" * 70_000) == "caption_too_long"


def animation() -> bytes:
    frames = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (16, 20, 3), np.uint8)) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.fixture
def damaged(tar, picture, tmp_path: Path) -> Path:
    """One record of each kind, and a whole one."""
    about = json.dumps(ABOUT).encode()
    entries = [
        ("whole.png", picture(1)), ("whole.txt", b"whole"), ("whole.json", about),
        ("frames.webp", animation()), ("frames.txt", b"moving"), ("frames.json", about),
        ("latin.png", picture(2)), ("latin.txt", CAPTION.encode("latin-1")), ("latin.json", about),
        ("broken.png", picture(3)), ("broken.txt", b"from text"), ("broken.json", b'{"url": '),
        ("signs.png", picture(4)), ("signs.json", b'{"caption": "with \\u0000 signs", "license": "MIT"}'),
        ("several.webp", animation()[:-1] + b"\\0"), ("several.txt", CAPTION.encode("latin-1")), ("several.json", b"{"),
    ]  # fmt: skip
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.tar").write_bytes(tar(entries))
    return tmp_path / "source"


CAPTIONS = {
    "whole": "whole", "frames": "moving", "latin": CAPTION, "broken": "from text", "signs": "with  signs", "several": CAPTION,
}  # fmt: skip
REPAIRS = {
    "whole": [], "frames": ["first_frame"], "latin": ["caption_from_cp1252"], "broken": ["caption_from_txt"],
    "signs": ["control_signs_removed"], "several": ["caption_from_cp1252", "caption_from_txt", "first_frame"],
}  # fmt: skip


def read_all(root: Path, reading: Reading) -> dict[str, Sample | Fault]:
    raw = (root / "a.tar").read_bytes()
    found = read_samples(io.BytesIO(raw), len(raw), reading)
    return {item.key if isinstance(item, Fault) else item.record.key: item for item in found}


def test_each_repair_is_named_at_its_location(damaged: Path) -> None:
    found = read_all(damaged, Reading())
    assert {key: pair.caption for key, pair in found.items()} == CAPTIONS
    assert {key: list(names_of([pair.repair])) for key, pair in found.items()} == REPAIRS
    assert found["whole"].repair is None


def test_without_repair_all_of_it_is_quarantined_as_before(damaged: Path) -> None:
    found = read_all(damaged, Reading(repair=False))
    assert {key: item.reason if isinstance(item, Fault) else "ok" for key, item in found.items()} == {
        "whole": "ok", "frames": "animated_image", "latin": "caption_not_utf8", "broken": "bad_json", "signs": "unstorable_text",
        "several": "bad_json",
    }  # fmt: skip


def check_sample(sample: dict, key: str) -> None:
    if "txt" in sample:
        assert sample["txt"].decode() == CAPTIONS[key]
    if "json" in sample:
        fields = json.loads(sample["json"])
        assert fields.get("caption", CAPTIONS[key]) == CAPTIONS[key]
        assert fields.get("license", "MIT") == "MIT"
    image = next(sample[ext] for ext in ("png", "webp") if ext in sample)
    assert getattr(Image.open(io.BytesIO(image)), "n_frames", 1) == 1


def test_a_reader_of_the_source_gets_what_ingest_saw(damaged: Path) -> None:
    sources = find_sources(damaged)
    samples = list(read_ahead(table_of(sources), np.arange(len(sources))))
    assert [sample["__key__"] for sample in samples] == list(CAPTIONS)
    for sample in samples:
        check_sample(sample, sample["__key__"])
    assert json.loads(samples[0]["json"]) == ABOUT


# The library's reader leaves its open tars to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_materialized_dataset_has_the_source_s_bytes_and_its_reader_repairs_them(
    damaged: Path, tmp_path: Path
) -> None:
    import webdataset

    sources = find_sources(damaged)
    copy(sources, tmp_path / "copy", shard_size=100)
    tars = [str(path) for path in (tmp_path / "copy").glob("*.tar")]
    raw = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert {sample["txt"] for sample in raw if "txt" in sample} >= {CAPTION.encode("latin-1"), b"moving"}
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).map(RepairSamples(tmp_path / "copy")))
    assert len(samples) == len(CAPTIONS)
    caption_of = {sample["txt"].decode() for sample in samples if "txt" in sample}
    assert caption_of == set(CAPTIONS.values()) - {CAPTIONS["signs"]}
    for sample in samples:
        image = next(sample[ext] for ext in ("png", "webp", "jpg") if ext in sample)
        assert getattr(Image.open(io.BytesIO(image)), "n_frames", 1) == 1
        json.loads(sample["json"])


def test_a_copy_that_was_made_before_anything_was_repaired_is_read_as_it_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["000000000"]}), tmp_path / "manifest.parquet")
    sample = {"__key__": "000000000", "txt": b"a cat"}
    assert RepairSamples(tmp_path)(sample) == sample


def test_the_names_of_repairs_are_for_ever() -> None:
    """They are stored with each location, and readers repair by them."""
    assert {repair.value for repair in Repair} == {
        "first_frame", "caption_from_txt", "control_signs_removed", "json_nan_as_null", "json_nul_padding_removed", "caption_from_utf_16",
        "caption_from_utf_32", "caption_from_cp1252", "caption_from_cp1251", "caption_from_koi8_r", "caption_from_cp932",
    }  # fmt: skip
    assert set(ENCODING_OF.values()) == {"utf_16", "utf_32", "cp1252", "cp1251", "koi8_r", "cp932"}
    assert split_repairs(None) == split_repairs("") == frozenset()
    assert split_repairs(join_repairs(Repair)) == frozenset(Repair)
    assert join_repairs([]) is None
    assert list(names_of([None, "first_frame", "control_signs_removed+first_frame"])) == [
        "first_frame", "control_signs_removed", "first_frame",
    ]  # fmt: skip


def test_one_control_sign_in_eight_bytes_is_stray_and_one_in_seven_is_not() -> None:
    assert repaired(b"abc\0defg") == ("abcdefg", {"control_signs_removed"})
    assert reason_of(b"abc\0def") == "unstorable_text"


@pytest.mark.parametrize("sign", range(0x21))
def test_control_signs_are_those_below_the_space_that_are_no_white_space(sign: int) -> None:
    is_white = sign in {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20}
    caption = b"a long caption with one%bsign in it" % bytes([sign])
    assert repaired(caption)[1] == (set() if is_white else {"control_signs_removed"})


def test_delete_is_a_control_character_and_characters_above_it_are_not() -> None:
    assert repaired(b"a cat\x7f on a mat") == ("a cat on a mat", {"control_signs_removed"})
    assert repaired("a cat\x80 on a mat".encode()) == ("a cat\x80 on a mat", set())
    assert repaired(b"a cat~ on a mat") == ("a cat~ on a mat", set())


def test_two_faults_of_a_json_at_once_are_more_than_one_repair_mends() -> None:
    both = b'{"a": NaN}' + bytes(3)
    assert repaired(b"a cat", both) == ("a cat", {"caption_from_txt"})
    assert reason_of(None, both) == "bad_json"
