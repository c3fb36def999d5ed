"""Imports read from and write to folders and object stores, and resume without reading existing data again."""

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alchemist_core.cli.corpus import CorpusResult, ImportConfig, import_layout
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.shards import s3
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.layouts import huggingface, parquet_images, records
from alchemist_core.shards.samples import read_samples
from alchemist_core.shards.storage import list_shards
from tests.object_store import BUCKET, endpoint, object_store
from tests.shards.layouts.given_layouts import png, write_flux_reason

__all__ = ["endpoint", "object_store"]


def run(source: object, out: object, **fields: object) -> CorpusResult:
    given = {"layout": "parquet", "source": str(source), "out": str(out), "shard_size": 3, **fields}
    return import_layout(ImportConfig.model_validate(given))


def tars(bucket_uri: str) -> dict[str, bytes]:
    client = s3._client()
    names = [shard.uri.removeprefix(f"s3://{BUCKET}/") for shard in list_shards(bucket_uri)]
    return {name.rpartition("/")[2]: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def test_an_import_gives_the_same_shards_in_a_folder_and_in_an_object_store(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_flux_reason(tmp_path / "set", n=7)
    for path in (tmp_path / "set").iterdir():
        s3._client().upload_file(str(path), BUCKET, f"set/{path.name}")
    run(tmp_path / "set", tmp_path / "out")
    report = run(f"{object_store}/set", f"{object_store}/tars")
    assert (report.folder, report.counts) == (f"{object_store}/tars", {"records": 7})
    assert tars(f"{object_store}/tars") == {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")}
    assert run(f"{object_store}/set", f"{object_store}/tars").counts == {}
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("s3")]


def test_one_file_of_an_object_store_is_imported_too(tmp_path: Path, object_store: str) -> None:
    for name, n in (("a", 4), ("b", 3)):
        write_flux_reason(tmp_path / name, n=n)
        (path,) = (tmp_path / name).iterdir()
        s3._client().upload_file(str(path), BUCKET, f"set/{name}.parquet")
    assert run(f"{object_store}/set/a.parquet", tmp_path / "out").counts == {"records": 4}
    with pytest.raises(DataError, match="cannot be read"):
        run(f"{object_store}/set/absent.parquet", tmp_path / "other")


def test_lists_of_captions_are_counted_and_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = [["a cat", "a pet"], ["a dog"], None, ["a fox", "an animal"]]
    table = pa.table({"image": [png(k) for k in range(4)], "caption": captions})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "p.parquet")
    assert run(tmp_path / "set", tmp_path / "out", shard_size=2).counts == {"records": 4, "caption_lists": 3}
    said = [line for line in capsys.readouterr().err.splitlines() if "list of captions" in line]
    assert len(said) == 1
    assert "3 records had a list of captions: the first one with text is the caption" in said[0]


def test_images_that_may_not_be_read_are_quarantined_counted_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    for number in range(3):
        (tmp_path / "set" / f"{number}.png").write_bytes(png(number))
        (tmp_path / "set" / f"{number}.txt").write_text("a caption")
    refused, open_path = [tmp_path / "set" / "0.png", tmp_path / "set" / "2.png"], Path.open

    def refuse(path: Path, *given: object, **options: object) -> object:
        # Root may read every file, so that the rights alone would refuse nothing.
        if path in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_path(path, *given, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    report = run(tmp_path / "set", tmp_path / "out", layout="pictures")
    assert report.counts == {"records": 3, "unreadable_images": 2}
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "No permission" in line]
    assert f"No permission to read 2 images, the first at {refused[0]}." in said
    assert "import again to another --out" in said
    tar = tmp_path / "out" / "000000.tar"
    with tar.open("rb") as file:
        found = list(read_samples(file, tar.stat().st_size))
    assert [one.reason for one in found if isinstance(one, Fault)] == ["empty_image"] * 2


def test_an_object_store_is_refused_clearly_where_a_layout_needs_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only --layout parquet reads an object store"):
        run("s3://crawls/set", tmp_path / "out", layout="hpdv3")


def test_an_address_that_holds_something_else_is_left_alone(tmp_path: Path, object_store: str) -> None:
    write_flux_reason(tmp_path / "set", n=2)
    s3._client().put_object(Bucket=BUCKET, Key="tars/000000.tar", Body=b"another's")
    with pytest.raises(DataError, match="is not empty, and its shards were not written by an import"):
        run(tmp_path / "set", f"{object_store}/tars")


def break_off_at(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fail once before a tar is written; return the names of the tars that are written."""
    write, written, broken = records.write_tar, list[str](), list[str]()

    def write_or_break(path: Path, *given: object, **options: object) -> None:
        if path.name == name and not broken:
            broken.append(name)
            raise DataError("the network is gone")
        write(path, *given, **options)
        written.append(path.name)

    monkeypatch.setattr(records, "write_tar", write_or_break)
    return written


@pytest.mark.parametrize(("source", "out"), [("s3", "s3"), ("s3", "folder"), ("folder", "s3")])
def test_an_import_that_broke_off_on_its_way_from_or_to_an_object_store_goes_on_from_its_last_shard(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch, source: str, out: str
) -> None:
    write_flux_reason(tmp_path / "set", n=9)
    for path in (tmp_path / "set").iterdir():
        s3._client().upload_file(str(path), BUCKET, f"set/{path.name}")
    run(tmp_path / "set", tmp_path / "whole")
    places = {"s3": object_store, "folder": str(tmp_path)}
    given = f"{places[source]}/set", f"{places[out]}/tars"
    written = break_off_at("000002.tar", monkeypatch)
    with pytest.raises(DataError, match="network"):
        run(*given)
    assert written == ["000000.tar", "000001.tar"]
    groups = count_groups(monkeypatch)
    assert run(*given).counts == {"records": 9}
    assert groups == [[1, 2, 3, 4]]
    assert written == ["000000.tar", "000001.tar", "000002.tar"]
    made = {path.name: path.read_bytes() for path in (tmp_path / "tars").glob("*.tar")}
    assert (tars(given[1]) if out == "s3" else made) == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")
    }
    assert run(*given).counts == {}


def test_an_import_by_the_library_datasets_that_broke_off_reads_no_image_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_bytes(png(number))
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}) for number in range(9)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    run(folder, tmp_path / "whole", layout="huggingface")
    break_off_at("000002.tar", monkeypatch)
    with pytest.raises(DataError, match="network"):
        run(folder, tmp_path / "out", layout="huggingface")
    read_file, read = huggingface.read_file_below, list[str]()

    def read_and_note(below: Path, name: str) -> bytes:
        read.append(Path(name).name)
        return read_file(below, name)

    monkeypatch.setattr(huggingface, "read_file_below", read_and_note)
    assert run(folder, tmp_path / "out", layout="huggingface").counts == {"records": 9}
    assert set(read) == {"6.png", "7.png", "8.png"}
    for number in range(3):
        name = f"{number:06d}.tar"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def count_groups(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return the row groups of each Parquet file that is read."""
    groups: list[list[int]] = []

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def iter_batches(self, *, row_groups: list[int], **given: object) -> object:
            groups.append(row_groups)
            return super().iter_batches(row_groups=row_groups, **given)

    monkeypatch.setattr(parquet_images.pq, "ParquetFile", Counting)
    return groups


def test_an_import_that_was_killed_reads_only_from_its_last_shard_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flux_reason(tmp_path / "set", n=9)
    run(tmp_path / "set", tmp_path / "whole")
    run(tmp_path / "set", tmp_path / "out")
    (tmp_path / "out" / "000002.tar").unlink()
    (tmp_path / "out" / "import.json").rename(tmp_path / "out" / "import.unfinished.json")
    groups = count_groups(monkeypatch)
    assert run(tmp_path / "set", tmp_path / "out").counts == {"records": 9}
    # Rows 3 to 8, in groups of 2 rows: the first group, rows 0 and 1, is not read.
    assert groups == [[1, 2, 3, 4]]
    assert (tmp_path / "out" / "000002.tar").read_bytes() == (tmp_path / "whole" / "000002.tar").read_bytes()
