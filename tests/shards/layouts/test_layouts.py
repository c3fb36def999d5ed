"""A small handmade dataset in each published layout gives its samples."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alchemist_core.errors import DataError
from alchemist_core.metrics.geneval import (
    JudgedImage,
    find_images,
    read_prompts,
    write_images,
    write_results,
)
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.layouts.hpdv3 import read_array, read_hpdv3
from alchemist_core.shards.layouts.huggingface import _make_record as make_hub_record
from alchemist_core.shards.layouts.huggingface import read_huggingface
from alchemist_core.shards.layouts.mjhq import read_mjhq
from alchemist_core.shards.layouts.parquet_images import read_parquet
from alchemist_core.shards.layouts.pictures import read_pictures
from alchemist_core.shards.layouts.records import write_shards
from alchemist_core.shards.samples import Reading, Sample, read_samples
from tests.shards.layouts.given_layouts import png, write_flux_reason, write_hpdv3, write_mjhq


def test_flux_reason_keeps_its_scores_and_other_captions(tmp_path: Path) -> None:
    write_flux_reason(tmp_path, n=5)
    found = list(read_parquet(tmp_path))
    assert [record.caption for record in found] == [f"a detailed picture {k}" for k in range(5)]
    assert [record.read_image() for record in found] == [png(k) for k in range(5)]
    assert found[1].metadata["id"] == "aesthetics-part01-00000001"
    assert found[1].metadata["score_style"] == 7.5
    assert found[1].metadata["caption_style"] is None
    assert "image" not in found[1].metadata


def test_several_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for part, first in (("b", 3), ("a", 0)):
        write_flux_reason(tmp_path / part, n=3, first=first)
    assert [record.metadata["id"][-1] for record in read_parquet(tmp_path)] == list("012345")


def test_plain_bytes_are_images_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": [png(1)], "text": ["a caption"]}), tmp_path / "p.parquet")
    (record,) = read_parquet(tmp_path / "p.parquet")
    assert (record.caption, record.read_image()) == ("a caption", png(1))


def test_of_a_list_of_captions_the_first_is_the_caption_and_all_are_kept(tmp_path: Path) -> None:
    captions = [["", "a cat", "a pet"], ["a dog"], [], None]
    images = [png(k) for k in range(len(captions))]
    pq.write_table(pa.table({"image": images, "caption": captions, "id": [7, 8, 9, 10]}), tmp_path / "p.parquet")
    hub = [
        make_hub_record({"image": {"bytes": image}, "caption": caption}, "image", "caption", tmp_path)
        for image, caption in zip(images, captions, strict=True)
    ]
    for found in (list(read_parquet(tmp_path)), hub):
        assert [record.caption for record in found] == ["a cat", "a dog", "", ""]
        assert [record.metadata.get("all_captions") for record in found] == captions
    write_shards(read_parquet(tmp_path), tmp_path / "out", shard_size=10)
    tar = tmp_path / "out" / "000000.tar"
    with tar.open("rb") as file:
        samples = list(read_samples(file, tar.stat().st_size, Reading(has_perceptual_hash=False)))
    first, second, *rest = samples
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (first.caption, second.caption) == ("a cat", "a dog")
    assert json.loads(first.metadata) == {"id": 7, "all_captions": captions[0]}
    assert [bad.reason for bad in rest if isinstance(bad, Fault)] == ["missing_caption"] * 2


def stored_samples(tar: Path) -> list[Sample]:
    with tar.open("rb") as file:
        found = list(read_samples(file, tar.stat().st_size, Reading(has_perceptual_hash=False)))
    return [sample for sample in found if isinstance(sample, Sample)]


IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_a_struct_is_the_image_rather_than_other_bytes_and_bytes_are_left_out_of_the_metadata(tmp_path: Path) -> None:
    further = [{"bytes": bytes(300_000), "path": "2.png"}]
    columns = {
        "sha256": [b"\0" * 32], "image": pa.array([{"bytes": png(1), "path": "1.png"}], IMAGE_STRUCT),
        "image_2": pa.array(further, IMAGE_STRUCT), "more": pa.array([further], pa.list_(IMAGE_STRUCT)),
        "embeddings": [[b"1", b"2"]], "text": ["a caption"], "url": ["https://example.org/1"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (record,) = read_parquet(tmp_path)
    assert record.read_image() == png(1)
    write_shards([record], tmp_path / "out", shard_size=1)
    (sample,) = stored_samples(tmp_path / "out" / "000000.tar")
    assert (sample.repair, sample.attributes["source_url"]) == (None, "https://example.org/1")
    assert json.loads(sample.metadata) == {"image_2": {"path": "2.png"}, "more": [{"path": "2.png"}], "embeddings": []}


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("info", pa.struct([("bytes", pa.int64()), ("format", pa.string())]), {"bytes": 5, "format": "PNG"}),
        ("mask", IMAGE_STRUCT, {"bytes": png(2), "path": "2.png"}),
    ],
)
def test_a_struct_is_not_the_image_if_it_has_no_bytes_or_bytes_before_it_are_named_as_an_image(
    tmp_path: Path, column: str, kind: pa.DataType, value: dict[str, Any]
) -> None:
    columns = {"jpg": [png(1)], column: pa.array([value], kind), "text": ["a caption"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (record,) = read_parquet(tmp_path)
    assert record.read_image() == png(1)
    assert record.metadata == {column: value}


def test_text_that_is_stored_as_bytes_without_a_mark_is_kept(tmp_path: Path) -> None:
    columns = {
        "image": [png(1)], "caption": [[b"a cat", b"a p\xe9t"]], "url": [b"https://example.org/1"], "license": ["caf\u00e9".encode()],
        "digest": [b"\xff" * 32], "long": [b"a" * 5000], "histogram": [bytes(8)],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    write_shards(read_parquet(tmp_path), tmp_path / "out", shard_size=1)
    (sample,) = stored_samples(tmp_path / "out" / "000000.tar")
    assert (sample.caption, sample.attributes["source_url"]) == ("a cat", "https://example.org/1")
    assert sample.attributes["licence"] == "caf\u00e9"
    assert json.loads(sample.metadata) == {"all_captions": ["a cat", "a p\ufffdt"]}


@pytest.mark.slow
def test_of_several_images_the_library_datasets_decodes_none(tmp_path: Path) -> None:
    import datasets

    kinds = {"image": datasets.Image(), "image_2": datasets.Image(), "more": [datasets.Image()]}
    further = {"bytes": b"no image", "path": "2.png"}
    row = {"image": {"bytes": png(1), "path": "1.png"}, "image_2": further, "more": [further], "text": "a caption"}
    features = datasets.Features(kinds | {"text": datasets.Value("string")})
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "set" / "p.parquet")
    records = list(read_huggingface(str(tmp_path / "set")))
    assert [record.read_image() for record in records] == [png(1)]
    write_shards(records, tmp_path / "out", shard_size=1)
    (sample,) = stored_samples(tmp_path / "out" / "000000.tar")
    assert json.loads(sample.metadata) == {"image_2": {"path": "2.png"}, "more": [{"path": "2.png"}]}


def test_an_image_may_be_a_path_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    image = pa.array([{"bytes": None, "path": "1.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "text": ["a caption"]}), tmp_path / "p.parquet")
    assert next(read_parquet(tmp_path)).read_image() == png(1)


def test_an_image_that_is_an_address_elsewhere_is_quarantined_with_that_address(tmp_path: Path) -> None:
    address = "hf://datasets/org/name@0123/1.png"
    image = pa.array([{"bytes": None, "path": address}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "text": ["a caption"]}), tmp_path / "p.parquet")
    row = {"image": {"bytes": None, "path": address}, "text": "a caption"}
    for record in (next(read_parquet(tmp_path)), make_hub_record(row, "image", "text", tmp_path)):
        assert (record.read_image(), record.metadata) == (b"", {"unread_path": address})


def test_a_row_cannot_name_a_file_outside_its_source(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(png(1))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(png(2))
    found = []
    for path in (tmp_path / "secret", "../secret", "own.png", tmp_path / "set" / "own.png"):
        row = {"image": {"bytes": None, "path": str(path)}, "text": "a caption"}
        found.append(make_hub_record(row, "image", "text", tmp_path / "set").read_image())
    assert found == [b"", b"", png(2), png(2)]


@pytest.mark.parametrize(("start", "n_read"), [(0, 7), (2, 5), (3, 4), (5, 2), (6, 1), (7, 0)])
def test_rows_that_were_read_before_are_passed_over(tmp_path: Path, start: int, n_read: int) -> None:
    write_flux_reason(tmp_path / "a", n=5)
    write_flux_reason(tmp_path / "b", n=2, first=5)
    found = [record.metadata["id"][-1] for record in read_parquet(tmp_path, start)]
    assert found == list("0123456"[start:])
    assert len(found) == n_read


@pytest.mark.parametrize(("columns", "message"), [
    ({"URL": ["u"], "TEXT": ["t"]}, "img2dataset"), ({"image": [b"1"], "label": [1]}, "no caption column"),
])  # fmt: skip
def test_a_file_without_image_or_caption_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=message):
        next(read_parquet(tmp_path))


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.parquet file"):
        next(read_parquet(tmp_path))


def test_hpdv3_keeps_both_images_and_which_was_preferred(tmp_path: Path) -> None:
    write_hpdv3(tmp_path)
    found = list(read_hpdv3(tmp_path / "train.json"))
    assert [record.caption for record in found] == ["a cat"] * 2 + ["a dog"] * 2
    assert [record.metadata["is_preferred"] for record in found] == [True, False] * 2
    assert [record.metadata["model"] for record in found] == ["flux", "sd3", "midjourney", "midjourney"]
    assert [record.metadata["confidence"] for record in found] == [0.97, 0.97, None, None]
    assert [record.read_image() for record in found] == [png(0), png(1), png(2), b""]
    assert found[1].metadata["other_path"] == "images/0.jpg"


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_a_list_is_read_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alchemist_core.shards.layouts.hpdv3._CHUNK", chunk)
    values = [{"a": 1, "text": 'with ] and , and "quotes"'}, {"b": [1, 2, {"c": None}]}, {}]
    assert list(read_array(io.StringIO(json.dumps(values, indent=2)), Path("x"))) == values


@pytest.mark.parametrize(("text", "message"), [
    ('[{"a": 1}, {"b"', "is truncated"), ('{"a": 1}', "not a JSON list"), ("[1]", "in place of a pair"), ("", "not a JSON list"),
])  # fmt: skip
def test_what_is_not_a_list_of_samples_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_array(io.StringIO(text), Path("x")))


@pytest.mark.parametrize("folder", ["", "mjhq30k_imgs"])
def test_mjhq_keeps_categories(tmp_path: Path, folder: str) -> None:
    write_mjhq(tmp_path, folder)
    found = list(read_mjhq(tmp_path))
    assert [record.caption for record in found] == ["a fox", "a house"]
    assert [record.metadata for record in found] == [
        {"key": "0a1", "category": "animals"}, {"key": "1b2", "category": "indoor"},
    ]  # fmt: skip
    assert [record.read_image() for record in found] == [png(1), png(2)]


def test_mjhq_without_its_listing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta_data\.json is missing"):
        next(read_mjhq(tmp_path))


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ([{"prompt": "a fox"}], r"meta_data\.json is not a JSON object"),
        ({"0a": {"category": "a", "prompt": "a fox"}, "1b": {"prompt": "a cat"}}, "entry '1b' is not an object with"),
        ({"0a": {"category": "a", "prompt": None}}, "entry '0a' is not an object with the texts category and prompt"),
        ({"0a": "a fox"}, "entry '0a' is not an object with"),
    ],
)
def test_mjhq_with_a_listing_of_another_form_is_refused_before_anything_is_written(
    tmp_path: Path, listing: Any, message: str
) -> None:
    (tmp_path / "meta_data.json").write_text(json.dumps(listing))
    with pytest.raises(DataError, match=message):
        next(read_mjhq(tmp_path))


def test_pictures_come_with_their_captions_and_facts_in_the_order_of_their_paths(tmp_path: Path) -> None:
    files = {
        "b/2.JPG": png(1), "b/2.txt": b"  two\n", "a.png": png(2), "a.json": b'{"caption": "from the file", "licence": "CC0"}',
        "c.png": png(3), "c.json": b"{broken", "c.txt": "caf\u00e9".encode("latin-1"), ".hidden/d.png": png(4), "notes.md": b"none",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    assert write_shards(read_pictures(tmp_path / "source"), tmp_path / "out", shard_size=10) == 3
    tar = tmp_path / "out" / "000000.tar"
    with tar.open("rb") as file:
        found = list(read_samples(file, tar.stat().st_size, Reading(has_perceptual_hash=False)))
    samples = [sample for sample in found if isinstance(sample, Sample)]
    assert [sample.caption for sample in samples] == ["from the file", "caf\u00e9", "two"]
    records = list(read_pictures(tmp_path / "source"))
    assert [record.metadata for record in records] == [
        {"path": "a.png", "caption": "from the file", "licence": "CC0"},
        {"path": "c.png", "unread_json": "{broken"},
        {"path": "b/2.JPG"},
    ]
    assert [record.read_image() for record in records] == [png(2), png(3), png(1)]


def test_facts_that_are_nested_too_deeply_are_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.json").write_text("[" * 100_000)
    (record,) = read_pictures(tmp_path)
    assert record.metadata == {"path": "a.png", "unread_json": "[" * 100_000}


def test_facts_that_are_nested_more_deeply_than_ingest_reads_are_kept_as_text_and_written(tmp_path: Path) -> None:
    deep = {depth: '{"a": ' + "[" * (depth - 2) + "1" + "]" * (depth - 2) + "}" for depth in (64, 65, 600)}
    for depth, text in deep.items():
        (tmp_path / f"{depth:03d}.png").write_bytes(png(depth % 256))
        (tmp_path / f"{depth:03d}.txt").write_text("words")
        (tmp_path / f"{depth:03d}.json").write_text(text)
    write_shards(read_pictures(tmp_path), tmp_path / "out", shard_size=10)
    tar = tmp_path / "out" / "000000.tar"
    with tar.open("rb") as file:
        found = list(read_samples(file, tar.stat().st_size, Reading(has_perceptual_hash=False)))
    samples = [json.loads(sample.metadata) for sample in found if isinstance(sample, Sample)]
    assert samples == [
        {"path": "064.png"} | json.loads(deep[64]),
        {"path": "065.png", "unread_json": deep[65]},
        {"path": "600.png", "unread_json": deep[600]},
    ]


@pytest.mark.parametrize("depth", [600, 100_000])
@pytest.mark.parametrize("layout", ["mjhq", "hpdv3"])
def test_a_listing_that_is_nested_too_deeply_is_refused_by_name(tmp_path: Path, layout: str, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    if layout == "mjhq":
        (tmp_path / "meta_data.json").write_text('{"0a": {"category": "a", "prompt": "a fox", "more": ' + deep + "}}")
        records = read_mjhq(tmp_path)
    else:
        (tmp_path / "train.json").write_text('[{"prompt": "a fox", "choice_dist": ' + deep + "}]")
        records = read_hpdv3(tmp_path / "train.json")
    with pytest.raises(DataError, match=r"(json is|json, or|record 0 are).* nested too deeply"):
        write_shards(records, tmp_path / "out", shard_size=10)


def test_a_picture_s_text_and_facts_are_not_read_from_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"password": "x"}')
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(png(1))
    for ext in ("txt", "json"):
        (source / f"a.{ext}").symlink_to(tmp_path / "secret")
    (record,) = read_pictures(source)
    assert (record.caption, record.metadata) == (None, {"path": "a.png"})


def test_no_more_of_a_picture_s_text_and_facts_is_read_than_ingest_needs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    for ext in ("txt", "json"):
        with (tmp_path / f"a.{ext}").open("wb") as file:
            file.truncate(1 << 24)
    (record,) = read_pictures(tmp_path)
    assert record.caption == bytes((1 << 16) + 1)
    assert record.metadata == {"path": "a.png", "unread_json": "\0" * ((1 << 20) + 1)}


@pytest.mark.parametrize(("folder", "message"), [("absent", "is not a folder"), (".", "holds no picture")])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, folder: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_pictures(tmp_path / folder))


@pytest.mark.slow
def test_a_hugging_face_folder_of_images_streams(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    lines = [json.dumps({"file_name": f"{k}.png", "text": f"picture {k}", "source": "hand"}) for k in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found = list(read_huggingface(str(tmp_path)))
    assert [(record.caption, record.read_image()) for record in found] == [(f"picture {k}", png(k)) for k in range(3)]
    assert found[0].metadata == {"source": "hand"}
    assert [record.caption for record in read_huggingface(str(tmp_path), start=2)] == ["picture 2"]


def test_geneval_s_folders_and_lines_go_out_and_in(tmp_path: Path) -> None:
    metadata = {
        "tag": "colors",
        "include": [{"class": "cup", "count": 1, "color": "red"}],
        "prompt": "a photo of a red cup",
    }
    (tmp_path / "prompts.jsonl").write_text(json.dumps(metadata) + "\n")
    assert read_prompts(tmp_path / "prompts.jsonl") == [metadata]
    images = [np.full((8, 8, 3), k, np.uint8) for k in range(4)]
    write_images(tmp_path / "out", 12, metadata, images)
    (tmp_path / "out" / "notes").mkdir()
    (tmp_path / "out" / "00012" / "samples" / "grid.png").write_bytes(png())
    found = list(find_images(tmp_path / "out"))
    assert [path.relative_to(tmp_path / "out").as_posix() for path, _ in found] == [
        f"00012/samples/0000{k}.png" for k in range(4)
    ]
    assert all(each == metadata for _, each in found)
    kept = {"cup": [[0.0, 1.0, 2.0, 3.0, 0.5]]}
    write_results(
        tmp_path / "results.jsonl", [JudgedImage(str(found[0][0]), False, "expected a\nexpected b", metadata, kept)]
    )
    assert json.loads((tmp_path / "results.jsonl").read_text()) == {
        "filename": str(found[0][0]), "tag": "colors", "prompt": "a photo of a red cup", "correct": False,
        "reason": "expected a\nexpected b", "metadata": json.dumps(metadata), "details": json.dumps(kept),
    }  # fmt: skip
