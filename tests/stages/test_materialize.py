"""A version is copied to a folder or an object store, and only complete, verified files appear there."""

import io
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.export import ExportLocationsConfig, locations
from alchemist_core.cli.subset import GcSubsetConfig, gc
from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.stages import materialize as stage
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.materialize import MaterializeConfig, MaterializeResult
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import find_reach, take_down
from alchemist_core.store.subsets import find_subset, note_copy
from alchemist_core.subsets import materialized
from alchemist_core.subsets.blocks import BlockShuffle
from alchemist_core.subsets.dataset import Reader, SubsetDataset
from alchemist_core.subsets.materialized import RepeatSamples, _ObjectStorage
from tests.benchmarks.jpeg_corpus import write_corpus
from tests.object_store import BUCKET
from tests.stored_version import add_version, share_of
from tests.trained_store import TrainedStore, used

pytestmark = pytest.mark.db
NAME, N_PAIRS = "half", 60


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    root = tmp_path / "crawl"
    write_corpus(root, side=64, n_pairs=N_PAIRS, shard_pairs=20)
    return root


@pytest.fixture
def folder(engine: Engine, crawl: Path) -> Engine:
    """A version of half of the samples, in a folder."""
    return ingested(engine, str(crawl))


@pytest.fixture
def bucket(engine: Engine, crawl: Path, object_store: str) -> Engine:
    """The same in an object store."""
    for tar in crawl.iterdir():
        s3._client().put_object(Bucket=BUCKET, Key=f"crawl/{tar.name}", Body=tar.read_bytes())
    return ingested(engine, f"{object_store}/crawl")


def ingested(engine: Engine, root: str, share: float = 0.5) -> Engine:
    ingest(IngestConfig(dataset="crawl", root=root, perceptual_hash=False))
    add_version(engine, NAME, share_of(engine, "crawl", share))
    return engine


@pytest.fixture(params=["folder", "object store"])
def shared(request: pytest.FixtureRequest, object_store: str, tmp_path: Path) -> "Shared":
    """An address outside the home."""
    return Shared(str(tmp_path / "shared") if request.param == "folder" else f"{object_store}/shared")


@dataclass(frozen=True)
class Shared:
    to: str

    @property
    def address(self) -> str:
        return f"{self.to}/{NAME}/v1-10"

    def files(self) -> dict[str, bytes]:
        return objects("shared/") if self.to.startswith("s3://") else files(self.address)

    def fill_elsewhere(self, make_database: Callable[..., str], home: Path, crawl: Path, share: float) -> None:
        """Let another home materialize its version of the same name there."""
        with used(TrainedStore(make_database(), home)):
            ingested(open_store(), str(crawl), share)
            assert run(to=self.to).folder == self.address


def run(**fields: object) -> MaterializeResult:
    return stage.run(MaterializeConfig.model_validate({"subset": NAME, "shard_size": 10, **fields}))


def objects(prefix: str) -> dict[str, bytes]:
    client = s3._client()
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {entry["Key"]: client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read() for entry in found}


def tars_of(files: dict[str, bytes]) -> list[bytes]:
    return [data for name, data in sorted(files.items()) if name.endswith(".tar")]


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def an_image(engine: Engine) -> bytes:
    with engine.connect() as connection:
        return bytes(connection.execute(text("""
            SELECT image_hash FROM alchemist.subset_samples INNER JOIN alchemist.samples USING (sample_id)
            ORDER BY sample_id LIMIT 1
        """)).scalar_one())  # fmt: skip


@pytest.mark.slow
def test_a_copy_has_the_same_bytes_wherever_it_comes_from_and_wherever_it_goes(
    bucket: Engine, object_store: str, crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first copy is written by threads, the others, from and to the object store, by worker processes."""
    here = run()
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "2")
    load_settings.cache_clear()
    elsewhere = run(to=str(tmp_path / "elsewhere"))
    there = run(to=f"{object_store}/copies")
    assert elsewhere.folder == str(tmp_path / "elsewhere" / NAME / "v1-10")
    assert there.folder == f"{object_store}/copies/{NAME}/v1-10"
    uploaded = objects(f"copies/{NAME}/v1-10/")
    assert files(elsewhere.folder) == files(here.folder)
    assert {name.rpartition("/")[2]: data for name, data in uploaded.items()} == files(here.folder)
    assert there.n_bytes_written == sum(map(len, uploaded.values()))
    assert not list(artifact_path("uploading").iterdir())
    keys = [sample["__key__"] for data in tars_of(uploaded) for sample in webdataset_of(data)]
    assert keys == [f"{number:09d}" for number in range(there.n_samples)]


def webdataset_of(data: bytes) -> list[dict[str, bytes]]:
    stream = [{"url": "copy.tar", "stream": io.BytesIO(data)}]
    return list(webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander(stream)))


@pytest.mark.parametrize("verify", [pytest.param("source", marks=pytest.mark.slow), "read_back"])
def test_a_second_upload_sends_nothing_and_a_damaged_object_is_sent_again(
    folder: Engine, object_store: str, verify: str
) -> None:
    fields = {"to": f"{object_store}/copies", "verify": verify}
    run(**fields)
    whole = objects("copies/")
    assert run(**fields).n_bytes_written == 0
    lost = f"copies/{NAME}/v1-10/000001.tar"
    s3._client().delete_object(Bucket=BUCKET, Key=lost)
    assert run(**fields).n_bytes_written == len(whole[lost])
    labels = s3.read_labels(f"s3://{BUCKET}/{lost}")[1]
    if verify == "read_back":
        bad = whole[lost][:-1] + b"x"
        s3._client().put_object(Bucket=BUCKET, Key=lost, Body=bad, Metadata=labels)
        assert run(**fields).n_bytes_written == len(whole[lost])
    assert objects("copies/") == whole


def test_an_upload_that_broke_off_resumes_and_shows_no_manifest_before_it_is_whole(
    folder: Engine, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, n_put = s3.put_file, 0

    def break_off(*given: object) -> None:
        nonlocal n_put
        n_put += 1
        if n_put == 4:
            raise DataError("the network is gone")
        put(*given)

    monkeypatch.setattr(s3, "put_file", break_off)
    with pytest.raises(DataError, match="network"):
        run(to=f"{object_store}/copies")
    assert len(objects("copies/")) == 3
    assert not [name for name in objects("copies/") if name.endswith(".parquet")]
    assert find_subset(folder, NAME).materialized_uri is None
    assert list(artifact_path("uploading").glob("*/v1-10/manifest.parquet"))
    left = run(to=f"{object_store}/copies").n_bytes_written
    assert not list(artifact_path("uploading").iterdir())
    assert 0 < left < sum(map(len, objects("copies/").values()))


def test_two_runs_with_one_address_in_an_object_store_write_to_it_one_after_the_other(
    folder: Engine, object_store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has, put = _ObjectStorage.has, s3.put_file
    is_compared, is_first_done = threading.Event(), threading.Event()
    second: list[Future[MaterializeResult]] = []

    def compare(*given: Any) -> bool:
        is_compared.set()
        assert is_first_done.wait(60)
        return has(*given)

    def start_the_second(uri: str, *given: Any) -> None:
        if uri.endswith("/SHA256SUMS"):
            second.append(pool.submit(run, to=f"{object_store}/copies", verify="source"))
            while not is_compared.is_set() and "is being made by run" not in capsys.readouterr().err:
                assert not second[0].done()
                time.sleep(0.01)
        put(uri, *given)

    monkeypatch.setattr(_ObjectStorage, "has", compare)
    monkeypatch.setattr(s3, "put_file", start_the_second)
    with ThreadPoolExecutor(1) as pool:
        run(to=f"{object_store}/copies")
        is_first_done.set()
        assert second[0].result(60).n_bytes_written == 0


@pytest.mark.parametrize("place", ["s3", "folder"])
def test_two_runs_with_one_address_that_begin_together_succeed(
    folder: Engine, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    locate_all, both_began = stage.locate_all, threading.Barrier(2)

    def meet(*given: Any) -> Any:
        both_began.wait(60)
        return locate_all(*given)

    monkeypatch.setattr(stage, "locate_all", meet)
    to = f"{object_store}/copies" if place == "s3" else str(tmp_path / "copies")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run, to=to, verify=verify) for verify in ("source", "read_back")]
        first, second = sorted(one.result(60).n_bytes_written for one in both)
    assert first == 0 < second


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("README.md", "SHA256SUMS")), "manifest.parquet"]
)
def test_files_beside_uploaded_tars_are_read_back_too(folder: Engine, object_store: str, name: str) -> None:
    run(to=f"{object_store}/copies")
    whole = objects("copies/")
    damaged = f"copies/{NAME}/v1-10/{name}"
    labels = s3.read_labels(f"s3://{BUCKET}/{damaged}")[1]
    bad = bytes(byte ^ (at == 60) for at, byte in enumerate(whole[damaged]))
    s3._client().put_object(Bucket=BUCKET, Key=damaged, Body=bad, Metadata=labels)
    assert run(to=f"{object_store}/copies").n_bytes_written == len(whole[damaged])
    assert objects("copies/") == whole


@pytest.mark.parametrize(
    "name", ["SHA256SUMS", *(pytest.param(name, marks=pytest.mark.slow) for name in ("README.md", "wids.json"))]
)
def test_a_file_beside_uploaded_tars_that_is_missing_is_uploaded_again(
    folder: Engine, object_store: str, name: str
) -> None:
    run(to=f"{object_store}/copies")
    whole = objects("copies/")
    lost = f"copies/{NAME}/v1-10/{name}"
    s3._client().delete_object(Bucket=BUCKET, Key=lost)
    assert run(to=f"{object_store}/copies").n_bytes_written == len(whole[lost])
    assert objects("copies/") == whole


def test_a_tar_that_the_local_disk_changed_before_its_upload_is_refused(
    folder: Engine, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = s3.put_file

    def put_damaged(uri: str, path: Path, labels: dict[str, str]) -> None:
        if path.suffix == ".tar":
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        put(uri, path, labels)

    with monkeypatch.context() as patch:
        patch.setattr(s3, "put_file", put_damaged)
        with pytest.raises(DataError, match=r"\.tar differs from what was written to .*Check the local disk"):
            run(to=f"{object_store}/copies")
    assert find_subset(folder, NAME).materialized_uri is None
    assert run(to=f"{object_store}/copies").n_bytes_written == sum(map(len, objects("copies/").values()))


@pytest.mark.slow
def test_a_copy_on_its_way_to_an_object_store_needs_room_for_the_tars_under_way_alone(
    folder: Engine, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, room = s3.put_file, []

    def watch(*given: object) -> None:
        room.append(len(list(artifact_path("uploading").rglob("0*.tar"))))
        put(*given)

    monkeypatch.setattr(materialized, "_WRITERS_A_CORE", 1)
    monkeypatch.setattr(materialized, "n_own_cores", lambda: 1)
    monkeypatch.setattr(s3, "put_file", watch)
    assert run(to=f"{object_store}/copies", shard_size=3).n_shards >= 8
    assert max(room) == 1


def test_a_prefix_that_holds_something_else_is_left_alone(folder: Engine, object_store: str) -> None:
    s3._client().put_object(Bucket=BUCKET, Key=f"copies/{NAME}/v1-10/000000.tar", Body=b"mine")
    with pytest.raises(
        DataError, match=r"000000\.tar exists and belongs to something else\. Remove .* or name another"
    ):
        run(to=f"{object_store}/copies")
    assert list(objects("copies/").values()) == [b"mine"]


@pytest.mark.parametrize("share", [0.7, 0.5], ids=["other members", "equal members"])
def test_a_dataset_of_another_home_is_refused_and_neither_a_takedown_nor_gc_removes_it(
    folder: Engine, crawl: Path, shared: Shared, make_database: Callable[..., str], tmp_path: Path, share: float
) -> None:
    shared.fill_elsewhere(make_database, tmp_path / "elsewhere", crawl, share)
    before = shared.files()
    with pytest.raises(DataError, match=r"exists and .* another"):
        run(to=shared.to)
    assert find_subset(folder, NAME).all_materialized_uris == []
    own = run()
    take_down(folder, [an_image(folder)], "asked for", actor="ann")
    gc(GcSubsetConfig(min_age_days=7, dry_run=False))
    assert not Path(own.folder).exists()
    assert gc(GcSubsetConfig(min_age_days=0, dry_run=False)).left == []
    assert shared.files() == before


def test_an_address_that_was_recorded_before_it_was_refused_is_forgotten_and_its_files_stay(
    folder: Engine,
    crawl: Path,
    shared: Shared,
    make_database: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As version 0.1 recorded it."""
    shared.fill_elsewhere(make_database, tmp_path / "elsewhere", crawl, 0.7)
    before = shared.files()
    note_copy(folder, find_subset(folder, NAME).subset_id, shared.address)
    assert main(["subset", "gc", "--min-age-days", "0", "--no-dry-run"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("half v1 (selected): ")
    assert shared.address not in out
    assert f"{shared.address} holds another dataset than that of half v1. It is not removed." in err
    assert shared.files() == before
    assert find_subset(folder, NAME).all_materialized_uris == []


def test_gc_leaves_a_version_beside_whose_dataset_somebody_put_files(folder: Engine, object_store: str) -> None:
    run(to=f"{object_store}/shared")
    s3._client().put_object(Bucket=BUCKET, Key=f"shared/{NAME}/v1-10/notes.txt", Body=b"mine")
    before = objects("shared/")
    report = gc(GcSubsetConfig(min_age_days=0, dry_run=False))
    assert [line for line in report.left if "holds files that are not part of this version's" in line]
    assert report.removed == []
    assert objects("shared/") == before
    assert len(find_subset(folder, NAME).all_materialized_uris) == 1


def test_gc_recognises_a_dataset_with_weights_and_a_seed_and_what_an_interrupted_removal_left(
    folder: Engine, tmp_path: Path
) -> None:
    plain = share_of(folder, "crawl", 0.5)
    add_version(folder, NAME, replace(plain, weight_K=np.resize([0.5, 1.5], len(plain))))
    made = Path(run(newest=True, shuffle_seed=3, to=str(tmp_path / "out")).folder)

    def break_off(folder: Path) -> None:
        (folder / "manifest.parquet").unlink()
        raise OSError("the disk is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", break_off)
        report = gc(GcSubsetConfig(min_age_days=0, dry_run=False))
    assert "v2-10-s3 cannot be removed (the disk is away)" in report.left[0]
    report = gc(GcSubsetConfig(min_age_days=0, dry_run=False))
    assert [line.split(" (")[0] for line in report.removed] == ["half v2"]
    assert list(made.parent.iterdir()) == []


def test_a_version_in_an_object_store_is_read_without_a_copy(bucket: Engine) -> None:
    read = [sample["jpg"] for sample in SubsetDataset(NAME, reader=Reader(batch_size=4))]
    copied = [sample["jpg"] for data in tars_of(files(run().folder)) for sample in webdataset_of(data)]
    assert sorted(read) == sorted(copied)


def test_every_copy_of_a_version_is_known_to_a_takedown_and_gone_after_gc(
    folder: Engine, object_store: str, tmp_path: Path
) -> None:
    """A version that was never published: three layouts and places, and an unfinished copy."""
    places = [run(), run(shuffle_seed=3), run(to=str(tmp_path / "out")), run(to=f"{object_store}/copies")]

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(materialized, "write_dataset_manifest", break_off)
        with pytest.raises(KeyboardInterrupt):
            run(shard_size=7)
    half = artifact_path(f"materialized/{NAME}/.v1-7.part")
    assert len(tars_of(files(str(half)))) > 1
    image = an_image(folder)
    take_down(folder, [image], "asked for", actor="ann")
    (reached,) = find_reach(folder, [image])
    assert len(reached.all_materialized_uris) == 5
    report = gc(GcSubsetConfig(min_age_days=7, dry_run=False))
    assert len(report.removed) == 1
    assert all(place.folder in report.removed[0] for place in places)
    assert [Path(place.folder).exists() for place in places[:3]] == [False] * 3
    assert not half.exists()
    assert objects("copies/") == {}
    assert find_reach(folder, [image])[0].all_materialized_uris == []


def test_a_bucket_that_is_not_there_is_refused_and_not_noted(folder: Engine, object_store: str) -> None:
    with pytest.raises(DataError, match=r"no-such-bucket.* cannot be read: NoSuchBucket"):
        run(to="s3://no-such-bucket/copies")
    assert find_subset(folder, NAME).all_materialized_uris == []


def test_a_copy_that_failed_before_anything_was_written_is_not_listed(folder: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"file.* cannot be written"):
        run(to=str(tmp_path / "file"))
    assert find_subset(folder, NAME).all_materialized_uris == []


def test_gc_leaves_a_version_whose_copy_it_cannot_reach_and_does_not_forget_it(
    folder: Engine, object_store: str
) -> None:
    run()
    with folder.begin() as connection:
        connection.execute(
            text("""
                UPDATE alchemist.subsets
                SET all_materialized_uris = all_materialized_uris || CAST('s3://no-such-bucket/half/v1-10' AS varchar)
            """)
        )
    report = gc(GcSubsetConfig(min_age_days=0, dry_run=False))
    assert report.removed == []
    assert "half v1: s3://no-such-bucket/half/v1-10 cannot be read: NoSuchBucket" in report.left[0]
    assert len(find_subset(folder, NAME).all_materialized_uris) == 2


def test_an_image_that_is_taken_down_while_it_is_copied_stays_in_no_copy(
    folder: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize_to = stage.materialize_to

    def take_down_meanwhile(*given: object, **options: object) -> object:
        take_down(folder, [an_image(folder)], "asked for", actor="ann")
        return materialize_to(*given, **options)

    monkeypatch.setattr(stage, "materialize_to", take_down_meanwhile)
    with pytest.raises(DataError, match="1 members of half v1 were taken down while it was copied"):
        run()
    assert list(artifact_path(f"materialized/{NAME}").iterdir()) == []
    row = find_subset(folder, NAME)
    assert (row.materialized_uri, row.all_materialized_uris) == (None, [])


def test_gc_forgets_a_copy_that_was_removed_by_hand(folder: Engine) -> None:
    """Otherwise a takedown of its images would never be complete."""
    shutil.rmtree(run().folder)
    take_down(folder, [an_image(folder)], "asked for", actor="ann")
    report = gc(GcSubsetConfig(min_age_days=7, dry_run=False))
    assert report.removed == ["half v1 (selected): a materialized dataset that no longer exists, 0.0 MB"]
    assert find_subset(folder, NAME).all_materialized_uris == []
    assert gc(GcSubsetConfig(min_age_days=7)).removed == []


def test_a_member_whose_shard_was_retired_is_named_and_another_place_of_it_serves(
    folder: Engine, crawl: Path, tmp_path: Path
) -> None:
    with folder.begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET state = 'retired' WHERE uri LIKE '%000000020%'"))
    with pytest.raises(
        DataError, match=r"of \d+ members of half v1 have no live location, the first is sample \w+ \(taken down, or"
    ):
        run()
    again = tmp_path / "again"
    again.mkdir()
    (crawl / "000000020.tar").rename(again / "other.tar")
    ingest(IngestConfig(dataset="again", root=str(again), perceptual_hash=False))
    assert run().n_samples == find_subset(folder, NAME).n_samples


def test_members_are_copied_from_a_corpus_without_one_of_them(
    folder: Engine, make_manifest: Callable[[int], None]
) -> None:
    """A version without members: its materialized dataset and its epoch are empty."""
    make_manifest(0)
    assert (run(subset="none").n_samples, run(subset="none").n_shards) == (0, 0)
    assert list(SubsetDataset("none")) == []


@pytest.fixture
def make_manifest(folder: Engine) -> Callable[[int], None]:
    def make(n: int) -> None:
        whole = share_of(folder, "crawl", 1)
        add_version(folder, "none", type(whole)(whole.pair_hash_K32[:n], np.zeros(n), np.zeros(n)))

    return make


def test_records_of_an_older_version_are_compared_by_sha256_and_get_their_checksum(folder: Engine, crawl: Path) -> None:
    whole = files(run().folder)
    shutil.rmtree(run().folder)
    count = text("SELECT count(content_checksum) FROM alchemist.sample_locations")
    with folder.begin() as connection:
        n_stored = connection.execute(count).scalar_one()
        stored = connection.execute(text("SELECT key, content_checksum FROM alchemist.sample_locations")).all()
        connection.execute(text("UPDATE alchemist.sample_locations SET content_checksum = NULL"))
    made = run()
    assert files(made.folder) == whole
    with folder.connect() as connection:
        assert (n_stored, connection.execute(count).scalar_one()) == (N_PAIRS, made.n_samples)
        found = connection.execute(
            text("SELECT key, content_checksum FROM alchemist.sample_locations WHERE content_checksum IS NOT NULL")
        ).all()
    assert {(key, bytes(value)) for key, value in found} <= {(key, bytes(value)) for key, value in stored}
    with folder.begin() as connection:
        connection.execute(text("UPDATE alchemist.sample_locations SET content_checksum = NULL"))
    shutil.rmtree(made.folder)
    tar = next(crawl.iterdir())
    tar.write_bytes(bytes(byte ^ (at % 2_000 == 1_500) for at, byte in enumerate(tar.read_bytes())))
    with pytest.raises(DataError, match="another sha256"):
        run()


def test_a_file_of_locations_reads_what_the_store_reads_and_resumes_it(folder: Engine, tmp_path: Path) -> None:
    run()  # so that the store has the membership
    to = str(tmp_path / "half.parquet")
    shuffle = BlockShuffle(block=4, buffer=12)
    dataset = SubsetDataset(NAME, reader=Reader(), shuffle=shuffle)
    whole = [sample["pair_hash"] for sample in dataset]
    assert locations(ExportLocationsConfig(name=NAME, to=to)).n_rows == len(whole) == len(set(whole))
    state = dataset.state_after(9)
    take_down(folder, [an_image(folder)], "asked", actor="ann")
    for source in (to, NAME):
        resumed = SubsetDataset(source, reader=Reader(), shuffle=shuffle)
        resumed.load_state_dict(state)
        rest = [sample["pair_hash"] for sample in resumed]
        assert rest == [pair_hash for pair_hash in whole[9:] if pair_hash in rest]
        assert len(rest) >= len(whole) - 9 - (source == NAME)


def test_a_copy_carries_the_weights_and_its_reader_repeats_as_the_dataset_does(folder: Engine) -> None:
    plain = share_of(folder, "crawl", 0.5)
    weight_K = np.resize([0.5, 2.0, 1.0, 1.25, 0.25], len(plain))
    weight_K[0] += 40 - weight_K.sum()
    given = replace(plain, weight_K=weight_K)
    assert weight_K.min() > 0
    add_version(folder, NAME, given)
    copied = Path(run(newest=True).folder)
    table = pq.read_table(copied / "manifest.parquet", columns=["key", "pair_hash", "weight"])
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert {pair: weight for _, pair, weight in rows} == dict(zip(given.pair_hashes(), weight_K.tolist(), strict=True))
    assert "An epoch reads 40 samples: the column `weight`" in (copied / "README.md").read_text()
    assert run(newest=True).n_bytes_written == 0
    pair_of = {key: pair for key, pair, _ in rows}
    for epoch in (0, 1):
        dataset = SubsetDataset(NAME, version=2, seed=5)
        dataset.set_epoch(epoch)
        wanted = Counter(sample["pair_hash"] for sample in dataset)
        records = [sample for tar in sorted(copied.glob("*.tar")) for sample in webdataset_of(tar.read_bytes())]
        found = Counter(pair_of[sample["__key__"]] for sample in RepeatSamples(copied, seed=5, epoch=epoch)(records))
        assert found == wanted
        assert found.total() == 40


def test_a_file_of_locations_and_a_shuffle_by_blocks_read_by_the_weights(folder: Engine, tmp_path: Path) -> None:
    plain = share_of(folder, "crawl", 0.5)
    weight_K = np.resize([0.5, 2.0, 1.0, 1.25, 0.25], len(plain))
    weight_K[0] += 40 - weight_K.sum()
    add_version(folder, NAME, replace(plain, weight_K=weight_K))
    to = str(tmp_path / "half.parquet")
    locations(ExportLocationsConfig(name=NAME, version=2, to=to))
    found = [
        Counter(sample["pair_hash"] for sample in SubsetDataset(to, seed=5, reader=Reader(), shuffle=shuffle))
        for shuffle in (None, BlockShuffle(block=4, buffer=12))
    ]
    assert found[0] == found[1] == Counter(sample["pair_hash"] for sample in SubsetDataset(NAME, version=2, seed=5))
    assert found[0].total() == 40


def test_a_copy_without_weights_has_no_such_column_and_is_read_once(folder: Engine) -> None:
    copied = Path(run().folder)
    assert "weight" not in pq.read_schema(copied / "manifest.parquet").names
    assert [sample["n"] for sample in RepeatSamples(copied)([{"n": 1}, {"n": 2}])] == [1, 2]
