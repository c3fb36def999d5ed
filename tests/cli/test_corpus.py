"""Imports read from and write to folders and object stores, and resume without reading existing data again."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alchemist_core.cli.corpus import CorpusResult, ImportConfig, import_layout
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.shards import s3
from alchemist_core.shards.layouts import parquet_images
from alchemist_core.shards.storage import list_shards
from tests.object_store import BUCKET, endpoint, object_store
from tests.shards.layouts.given_layouts import write_flux_reason

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


def test_an_object_store_is_refused_clearly_where_a_layout_needs_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only --layout parquet reads an object store"):
        run("s3://crawls/set", tmp_path / "out", layout="hpdv3")


def test_an_address_that_holds_something_else_is_left_alone(tmp_path: Path, object_store: str) -> None:
    write_flux_reason(tmp_path / "set", n=2)
    s3._client().put_object(Bucket=BUCKET, Key="tars/000000.tar", Body=b"another's")
    with pytest.raises(DataError, match="is not empty, and its shards were not written by an import"):
        run(tmp_path / "set", f"{object_store}/tars")


def test_an_import_that_was_killed_reads_only_from_its_last_shard_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_flux_reason(tmp_path / "set", n=9)
    run(tmp_path / "set", tmp_path / "whole")
    run(tmp_path / "set", tmp_path / "out")
    (tmp_path / "out" / "000002.tar").unlink()
    (tmp_path / "out" / "import.json").rename(tmp_path / "out" / "import.unfinished.json")
    groups: list[list[int]] = []

    class Counting(pq.ParquetFile):  # type: ignore[misc]
        def iter_batches(self, *, row_groups: list[int], **given: object) -> object:
            groups.append(row_groups)
            return super().iter_batches(row_groups=row_groups, **given)

    monkeypatch.setattr(parquet_images.pq, "ParquetFile", Counting)
    assert run(tmp_path / "set", tmp_path / "out").counts == {"records": 9}
    # Rows 3 to 8, in groups of 2 rows: the first group, rows 0 and 1, is not read.
    assert groups == [[1, 2, 3, 4]]
    assert (tmp_path / "out" / "000002.tar").read_bytes() == (tmp_path / "whole" / "000002.tar").read_bytes()
