"""Ingest registers every location once, readable or quarantined, and never a shard twice."""

import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.project import read_project
from alchemist_core.settings import load_settings
from alchemist_core.shards import reading, s3
from alchemist_core.shards.storage import RootListing, ShardFile, list_root
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.stages import ingest as ingest_stage
from alchemist_core.stages.ingest import IngestConfig, IngestResult, run
from alchemist_core.store.backups import checksum
from alchemist_core.store.nights import late_nights
from alchemist_core.store.registry import KnownShard, list_datasets, mark_unreadable
from tests.object_store import BUCKET
from tests.shards.conftest import draw_image, make_record, make_tar
from tests.shards.deadly import DeadlyShardTask
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


def ingest(**fields: object) -> IngestResult:
    return run(IngestConfig.model_validate(fields))


def test_every_location_is_registered(ingest_corpus: Callable[[], IngestResult], engine: Engine) -> None:
    report = ingest_corpus()
    assert (report.n_shards, report.n_locations, report.n_new_pairs, report.n_quarantined) == (6, 240, 240, 0)
    with engine.connect() as connection:
        dates = (
            connection.execute(
                text(
                    "SELECT DISTINCT crawl_date FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE role = 'train'"
                )
            )
            .scalars()
            .all()
        )
    assert sorted(dates) == [date(2026, 1, 1), date(2026, 1, 2)]


def test_ingesting_again_changes_nothing(ingest_corpus: Callable[[], IngestResult], database_url: str) -> None:
    ingest_corpus()
    before = checksum(database_url)
    report = ingest_corpus()
    assert (report.n_shards, report.n_known) == (0, 6)
    assert checksum(database_url) == before


def test_an_object_with_an_empty_folder_name_is_reported_and_not_registered_under_another_address(
    corpus: Path, engine: Engine, object_store: str
) -> None:
    shard = next((corpus / "train").rglob("*.tar")).read_bytes()
    for key in ("crawl//2026-01-01/a.tar", "crawl/2026-01-02/b.tar"):
        s3._client().put_object(Bucket=BUCKET, Key=key, Body=shard)
    for _ in range(2):
        with pytest.raises(DataError, match=r"/2026-01-01/a\.tar: has an empty folder name \(//\)\. Rename it\."):
            ingest(dataset="web", root=f"{object_store}/crawl")
    with engine.connect() as connection:
        shards = connection.execute(text("SELECT uri, state FROM alchemist.shards"))
        assert [tuple(row) for row in shards] == [("2026-01-02/b.tar", "verified")]


def test_only_the_shards_of_the_crawl_date_are_ingested(corpus: Path, database_url: str) -> None:
    report = ingest(dataset="scenes", root=str(corpus / "train"), crawl_date="2026-01-02")
    assert (report.n_shards, report.n_known) == (3, 0)


def test_a_root_that_was_mistyped_is_not_kept(corpus: Path, database_url: str, engine: Engine) -> None:
    with pytest.raises(DataError, match="not a folder that can be read"):
        ingest(dataset="scenes", root=str(corpus / "tarin"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.datasets")).scalar_one() == 0
    ingest(dataset="scenes", root=str(corpus / "train"))
    with pytest.raises(DataError):
        ingest(dataset="scenes", root=str(corpus / "tarin"))
    assert ingest(dataset="scenes").n_known == 6


def test_a_folder_named_like_a_day_that_no_calendar_has_stops_no_other(
    corpus: Path, database_url: str, tmp_path: Path
) -> None:
    for folder in ("2026-01-03", "2026-02-30"):
        (tmp_path / "root" / folder).mkdir(parents=True)
        shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "root" / folder / "a.tar")
    with pytest.raises(DataError, match=r"/2026-02-30 is not a valid date: .*\nEverything else was ingested"):
        ingest(dataset="web", root=str(tmp_path / "root"), perceptual_hash=False)
    shutil.rmtree(tmp_path / "root" / "2026-02-30")
    assert ingest(dataset="web").n_known == 1


def test_a_dataset_that_is_away_stops_no_other(corpus: Path, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    ingest(dataset="a_first", root=str(tmp_path / "mount"))
    (tmp_path / "other").mkdir()
    ingest(dataset="other", root=str(tmp_path / "other"))
    (tmp_path / "mount").rmdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "other" / "a.tar")
    with pytest.raises(DataError, match=r"a_first: The root .* is unreachable"):
        ingest()
    assert ingest(dataset="other").n_known == 1


def test_a_dataset_that_goes_away_while_it_is_read_stops_no_other(
    corpus: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a_first", "other"):
        (tmp_path / name).mkdir()
        ingest(dataset=name, root=str(tmp_path / name))
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "a_first" / "a.tar")
    ingest(dataset="a_first")
    # So that it is read again.
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET verified_at = verified_at - interval '1 hour'"))
    shutil.copy(tmp_path / "a_first" / "a.tar", tmp_path / "other" / "b.tar")

    def refuse(uri: str) -> bytes:
        raise DataError(f"Shard {uri} cannot be opened (Stale file handle).")

    with monkeypatch.context() as patch:
        patch.setattr(ingest_stage, "sha256_of", refuse)
        with pytest.raises(DataError, match=r"a_first: a\.tar: Shard .*a\.tar cannot be opened"):
            ingest()
    assert ingest(dataset="other").n_known == 1


def test_a_file_that_cannot_be_read_while_its_hash_is_compared_stops_no_other(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").touch()
    settle_at_once(monkeypatch)
    assert ingest(dataset="web", root=str(tmp_path)).n_rejected == 1
    (tmp_path / "a.tar").unlink()
    # It has 0 bytes too, and can be opened but not read.
    (tmp_path / "a.tar").symlink_to("/proc/self/mem")
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "b.tar")
    with pytest.raises(DataError, match=r"web: a\.tar: Shard .*/a\.tar cannot be read \(Input/output error\)"):
        ingest(dataset="web")
    assert states(engine) == {"a.tar": "rejected", "b.tar": "verified"}


def test_a_root_as_seen_from_here_is_found_from_elsewhere(
    corpus: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(corpus)
    assert ingest(dataset="scenes", root="train").n_shards == 6
    monkeypatch.chdir(tmp_path)
    assert ingest(dataset="scenes").n_known == 6


def test_a_root_without_a_tar_reports_it(tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "00000.parquet").touch()
    assert ingest(dataset="empty", root=str(tmp_path)).n_shards == 0
    assert f"No .tar under {tmp_path}" in capsys.readouterr().err


def test_an_empty_night_succeeds_and_reports_it(
    corpus: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ingest(dataset="scenes", root=str(corpus / "train"), crawl_date="2026-03-03")
    assert (report.n_shards, report.n_locations) == (0, 0)
    assert f"6 shards under {corpus / 'train'}, none of 2026-03-03" in capsys.readouterr().err


def test_a_re_sharded_sample_is_a_new_location_of_the_old_sample(corpus: Path, tmp_path: Path, engine: Engine) -> None:
    ingest(dataset="scenes", root=str(corpus / "train"))
    again = tmp_path / "again" / "2026-01-03"
    again.mkdir(parents=True)
    shutil.copy(next((corpus / "train").rglob("*.tar")), again / "other-name.tar")
    report = ingest(dataset="moved", root=str(tmp_path / "again"))
    assert (report.n_locations, report.n_new_pairs) == (40, 0)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.samples")).scalar() == 240


def test_bad_records_are_quarantined_and_their_neighbours_kept(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    write_tar(root / "a.tar", [("x.png", b"not a picture"), ("x.txt", b"one"), ("y.txt", b"no picture")])
    report = ingest(dataset="mixed", root=str(root))
    assert report.n_locations == report.n_quarantined == 2
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT key, reason FROM alchemist.quarantined_samples ORDER BY ordinal")).all()
    assert [row.key for row in rows] == ["x", "y"]
    assert report.quarantined == {row.reason: 1 for row in rows}


@pytest.fixture
def repairable(tmp_path: Path) -> Path:
    """A whole record, and two that can be repaired."""
    entries = [
        *make_record("a", 1),
        ("b.png", draw_image(2)), ("b.txt", "Un café crème".encode("latin-1")),
        ("c.png", draw_image(3)), ("c.txt", b"from text"), ("c.json", b"{"),
    ]  # fmt: skip
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.tar").write_bytes(make_tar(entries))
    return tmp_path / "crawl"


def test_what_is_repaired_is_named_at_its_location_and_counted(repairable: Path, engine: Engine) -> None:
    report = ingest(dataset="web", root=str(repairable))
    assert (report.n_locations, report.n_quarantined, report.n_repaired) == (3, 0, 2)
    assert report.repaired == {"caption_from_cp1252": 1, "caption_from_txt": 1}
    with engine.connect() as connection:
        stored = connection.execute(
            text(
                "SELECT key, caption, repair FROM alchemist.sample_locations JOIN alchemist.samples USING (sample_id) ORDER BY key"
            )
        ).all()
        overview = connection.execute(text("SELECT n_locations, n_repaired FROM alchemist.nightly_overview")).one()
    assert [tuple(row) for row in stored] == [
        ("a", "picture number 1", None),
        ("b", "Un café crème", "caption_from_cp1252"),
        ("c", "from text", "caption_from_txt"),
    ]
    assert tuple(overview) == (3, 2)


@pytest.mark.parametrize("is_flag", [True, False])
def test_without_repair_what_could_be_repaired_is_quarantined(
    repairable: Path, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_flag: bool
) -> None:
    flags = {"repair": False} if is_flag else {}
    if not is_flag:
        (tmp_path / "alchemist.toml").write_text("[datasets.web.ingest]\nrepair = false\n")
        monkeypatch.setattr(ingest_stage, "load_project", lambda: read_project(tmp_path / "alchemist.toml"))
    report = ingest(dataset="web", root=str(repairable), **flags)
    assert (report.n_locations, report.n_repaired) == (3, 0)
    assert report.quarantined == {"caption_not_utf8": 1, "bad_json": 1}


def test_what_is_not_a_tar_is_rejected_and_a_good_upload_takes_its_place(
    tmp_path: Path, corpus: Path, database_url: str
) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    (root / "a.tar").write_bytes(b"half an upload" * 100)
    assert ingest(dataset="broken", root=str(root)).n_rejected == 1
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    assert ingest(dataset="broken", root=str(root)).n_locations == 40


def test_a_rejected_shard_is_read_again_when_a_good_one_of_the_same_size_replaces_it(
    tmp_path: Path, corpus: Path, database_url: str
) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    good = next((corpus / "train").rglob("*.tar"))
    (root / "a.tar").write_bytes(b"\xff" * good.stat().st_size)
    assert ingest(dataset="broken", root=str(root)).n_rejected == 1
    again = ingest(dataset="broken")
    assert (again.n_rejected, again.n_known) == (0, 1), "the same bytes are not read as a tar twice"
    shutil.copy(good, root / "a.tar")
    assert ingest(dataset="broken").n_locations == 40


def test_a_shard_replaced_under_its_name_is_refused_by_name(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    root = tmp_path / "replaced"
    root.mkdir()
    tars = sorted((corpus / "train").rglob("*.tar"))
    shutil.copy(tars[0], root / "a.tar")
    ingest(dataset="replaced", root=str(root))
    (root / "a.tar").write_bytes(tars[0].read_bytes() + bytes(10240))
    shutil.copy(tars[2], root / "b.tar")
    with pytest.raises(DataError, match=r"a\.tar.*alchemist shard reread"):
        ingest(dataset="replaced", root=str(root))
    with engine.connect() as connection:
        uris = connection.execute(text("SELECT uri FROM alchemist.shards ORDER BY uri")).scalars().all()
    assert uris == ["a.tar", "b.tar"], "the neighbour is ingested in spite of the refusal"


@pytest.mark.parametrize("change", ["replaced by a shorter one", "replaced by a longer one", "begun again"])
def test_a_shard_that_changes_after_it_was_listed_is_registered_as_it_was_read(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    records = [make_record(str(n), n) for n in range(30)]
    short, long = (make_tar([entry for record in records[:n] for entry in record]) for n in (3, 30))
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "a.tar").write_bytes(short if change == "replaced by a longer one" else long)
    new = {"replaced by a shorter one": short, "replaced by a longer one": long, "begun again": long[:20_000]}[change]

    def list_and_replace(root: str) -> RootListing:
        listing = list_root(root)
        (tmp_path / "a.tar").write_bytes(new)
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(ingest_stage, "list_root", list_and_replace)
        patch.setenv("ALCHEMIST_UPLOAD_SETTLE_S", "0")
        load_settings.cache_clear()
        report = ingest(dataset="web")
    load_settings.cache_clear()
    if change == "begun again":
        assert (report.n_shards, report.n_growing, states(engine)) == (0, 1, {"a.tar": "growing"})
        return
    assert report.n_locations == {"replaced by a shorter one": 3, "replaced by a longer one": 30}[change]
    assert ingest(dataset="web").n_known == 1
    assert states(engine) == {"a.tar": "verified"}


def test_a_shard_replaced_by_one_of_the_same_size_is_refused_too(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    """Its ctime shows that it must be read again, even if a copy keeps the mtime."""
    root = tmp_path / "replaced"
    root.mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    ingest(dataset="replaced", root=str(root))
    before, data = (root / "a.tar").stat(), bytearray((root / "a.tar").read_bytes())
    data[-5000] ^= 1
    (root / "a.tar").write_bytes(data)
    os.utime(root / "a.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"a\.tar.*alchemist shard reread"):
        ingest(dataset="replaced")


def cut_tar(corpus: Path, *, n_bytes: int = 30_000) -> tuple[bytes, bytes]:
    """A whole tar, and its beginning as an upload under way shows it."""
    whole = next((corpus / "train").rglob("*.tar")).read_bytes()
    return whole, whole[:n_bytes]


def states(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT uri, state FROM alchemist.shards WHERE state <> 'superseded'"))
        return {row.uri: row.state for row in rows}


def settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_UPLOAD_SETTLE_S", "0")
    load_settings.cache_clear()


def test_an_upload_under_way_is_taken_up_when_it_is_whole_without_a_verb(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    whole, part = cut_tar(corpus)
    (tmp_path / "2026-01-01").mkdir()
    (tmp_path / "2026-01-01" / "a.tar").write_bytes(part)
    (tmp_path / "b.tar").write_bytes(whole)
    report = ingest(dataset="web", root=str(tmp_path))
    assert (report.n_shards, report.n_growing, report.n_locations) == (1, 1, 40)
    assert states(engine) == {"2026-01-01/a.tar": "growing", "b.tar": "verified"}
    # The next night has another date; a completed upload is ingested anyway, under its own date.
    (tmp_path / "2026-01-01" / "a.tar").write_bytes(whole)
    report = ingest(dataset="web", crawl_date="2026-01-02")
    assert (report.n_shards, report.n_growing, report.n_quarantined) == (1, 0, 0)
    with engine.connect() as connection:
        statement = text("SELECT crawl_date, n_samples, state FROM alchemist.shards WHERE uri = '2026-01-01/a.tar'")
        assert tuple(connection.execute(statement).one()) == (date(2026, 1, 1), 40, "verified")


def test_an_earlier_night_completes_its_own_undated_upload_and_leaves_new_ones_to_the_night_of_the_run(
    tmp_path: Path, corpus: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = cut_tar(corpus)
    (tmp_path / "a.tar").write_bytes(part)
    assert ingest(dataset="web", root=str(tmp_path), crawl_date="2026-01-01").n_growing == 1
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "c.tar.gz").write_bytes(b"")
    late = ingest(dataset="web", crawl_date="2026-01-01", undated=False)
    assert (late.n_shards, states(engine)) == (1, {"a.tar": "verified"})
    with pytest.raises(DataError, match=r"c\.tar\.gz"):
        ingest(dataset="web", crawl_date="2026-01-02")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT uri, crawl_date FROM alchemist.shards ORDER BY uri"))
        assert [tuple(row) for row in rows] == [("a.tar", date(2026, 1, 1)), ("b.tar", date(2026, 1, 2))]


def test_an_upload_that_is_given_up_is_waited_for_no_longer(
    tmp_path: Path, corpus: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, part = cut_tar(corpus)
    (tmp_path / "2026-01-01").mkdir()
    (tmp_path / "2026-01-01" / "a.tar").write_bytes(part)
    (tmp_path / "b.tar").write_bytes(whole)
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "2026-01-01" / "a.tar").unlink()
    # The run succeeds: nothing was lost that had been registered.
    ingest(dataset="web", crawl_date="2026-01-02")
    assert states(engine) == {"b.tar": "verified"}
    assert "2026-01-01/a.tar: the file was removed" in capsys.readouterr().err
    ids = [row.dataset_id for row in list_datasets(engine)]
    assert late_nights(engine, ids, date(2026, 1, 2)) == []


def test_a_file_that_has_only_begun_is_an_upload_under_way(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    (tmp_path / "a.tar").write_bytes(b"")
    assert ingest(dataset="web", root=str(tmp_path)).n_growing == 1
    (tmp_path / "a.tar").write_bytes(cut_tar(corpus)[0])
    assert ingest(dataset="web").n_locations == 40


def test_an_upload_that_set_the_size_of_its_file_first_is_waited_for_and_replaced_if_it_was_registered_as_it_was(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [[(f"{n}.png", draw_image(n, size=(600, 600))), (f"{n}.txt", b"noise %d" % n)] for n in range(4)]
    whole = make_tar([entry for record in pictures for entry in record])
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    (tmp_path / "b.tar").write_bytes(bytes(20 << 10))
    report = ingest(dataset="web", root=str(tmp_path))
    assert (report.n_shards, report.n_growing) == (0, 2)
    assert states(engine) == {"a.tar": "growing", "b.tar": "growing"}
    settle_at_once(monkeypatch)
    assert ingest(dataset="web").quarantined["truncated_tar"] == 2
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(whole)
    report = ingest(dataset="web")
    assert (report.n_shards, report.n_locations, report.n_quarantined) == (2, 8, 0)
    assert states(engine) == {"a.tar": "verified", "b.tar": "verified"}


@pytest.mark.slow
def test_a_shard_that_could_not_be_read_at_first_is_not_referred_to_commands_that_do_not_know_it(
    tmp_path: Path, corpus: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "a.tar")
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "1")
    load_settings.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(reading, "ReadShardTask", DeadlyShardTask)
        with pytest.raises(DataError, match=r"Two worker processes died .*the next ingest reads it again\.") as caught:
            ingest(dataset="web", root=str(tmp_path))
    assert "alchemist shard" not in str(caught.value)
    assert ingest(dataset="web").n_locations == 40


def set_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Let it be 17:00 UTC on 2026-01-01, when it is the next day in Tokyo, and a project file name the time zone."""
    (tmp_path / "alchemist.toml").write_text(f"[schedule]\ntimezone = '{zone}'\n")
    monkeypatch.setattr(ingest_stage, "load_project", lambda: read_project(tmp_path / "alchemist.toml"))
    monkeypatch.setattr(ingest_stage, "read_clock", lambda _: datetime(2026, 1, 1, 17, tzinfo=UTC))


@pytest.mark.parametrize(("zone", "day"), [("UTC", date(2026, 1, 1)), ("Asia/Tokyo", date(2026, 1, 2))])
def test_a_shard_without_a_dated_folder_is_of_the_day_in_the_time_zone_of_the_schedule(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, zone: str, day: date
) -> None:
    set_time_zone(tmp_path, monkeypatch, zone)
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "a.tar")
    ingest(dataset="web", root=str(tmp_path))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT crawl_date FROM alchemist.shards")).scalar_one() == day


def test_the_folder_of_today_in_the_time_zone_of_the_schedule_is_not_of_a_later_day(
    tmp_path: Path, corpus: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_time_zone(tmp_path, monkeypatch, "Asia/Tokyo")
    by_day(tmp_path, corpus, "2026-01-01", "2026-01-02", "2026-01-03")
    assert ingest(dataset="web", root=str(tmp_path), crawl_date="2026-01-01").n_of_other_days == 1


def test_a_cut_tar_that_nothing_changes_any_more_is_read_as_it_is(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").write_bytes(cut_tar(corpus)[1])
    assert ingest(dataset="web", root=str(tmp_path)).n_growing == 1
    settle_at_once(monkeypatch)
    report = ingest(dataset="web")
    assert (report.n_shards, report.quarantined) == (1, {"truncated_tar": 1})
    assert report.n_locations > 5
    assert ingest(dataset="web").n_known == 1


def test_a_cut_tar_that_was_registered_and_is_completed_later_becomes_a_revision(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = cut_tar(corpus)
    (tmp_path / "a.tar").write_bytes(part)
    settle_at_once(monkeypatch)
    n_before = ingest(dataset="web", root=str(tmp_path)).n_new_pairs
    (tmp_path / "a.tar").write_bytes(whole)
    report = ingest(dataset="web")
    assert (report.n_shards, report.n_locations, report.n_new_pairs, report.n_quarantined) == (1, 40, 40 - n_before, 0)
    assert states(engine) == {"a.tar": "verified"}
    assert ingest(dataset="web").n_known == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.live_locations")).scalar_one() == 40


@pytest.mark.parametrize("is_tar", [True, False])
def test_an_undated_tar_that_is_completed_or_repaired_in_a_later_night_keeps_its_crawl_date(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, is_tar: bool
) -> None:
    whole, part = cut_tar(corpus)
    (tmp_path / "a.tar").write_bytes(part if is_tar else b"<html>" * 200)
    settle_at_once(monkeypatch)
    ingest(dataset="web", root=str(tmp_path), crawl_date="2026-01-01")
    assert states(engine) == {"a.tar": "verified" if is_tar else "rejected"}
    (tmp_path / "a.tar").write_bytes(whole)
    assert ingest(dataset="web", crawl_date="2026-01-02").n_locations == 40
    with engine.connect() as connection:
        statement = text("SELECT crawl_date FROM alchemist.shards WHERE state = 'verified'")
        assert connection.execute(statement).scalar_one() == date(2026, 1, 1)


def test_a_cut_tar_that_was_registered_and_is_completed_after_its_night_is_read_by_the_ingest_of_a_later_one(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = by_day(tmp_path, corpus, "2026-01-01", "2026-01-02")
    shard = tmp_path / "2026-01-01" / "a.tar"
    shard.write_bytes(tars[0].read_bytes()[:30_000])
    settle_at_once(monkeypatch)
    for day in ("2026-01-01", "2026-01-02"):
        ingest(dataset="web", root=str(tmp_path), crawl_date=day)
    shutil.copy(tars[0], shard)
    report = ingest(dataset="web", crawl_date="2026-01-03")
    assert (report.n_shards, report.n_locations, report.n_quarantined) == (1, 40, 0)
    with engine.connect() as connection:
        statement = text(
            "SELECT state, crawl_date, n_samples FROM alchemist.shards WHERE uri = '2026-01-01/a.tar' ORDER BY shard_id"
        )
        (_, *former), (state, *later) = map(tuple, connection.execute(statement))
    assert (former[0], state, later) == (date(2026, 1, 1), "verified", [date(2026, 1, 1), 40])
    # Both files were modified less than two seconds before they were read, but neither lacks its end.
    read = count_calls(monkeypatch, ingest_stage, "sha256_of")
    assert ingest(dataset="web", crawl_date="2026-01-03").n_known == 0
    assert not read


def test_a_shard_whose_file_is_gone_is_noticed_and_stops_no_other(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    tars = sorted((corpus / "train").rglob("*.tar"))
    for number in range(2):
        shutil.copy(tars[number], tmp_path / f"{number}.tar")
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "0.tar").rename(tmp_path / "aside")
    shutil.copy(tars[2], tmp_path / "2.tar")
    for _ in range(2):
        with pytest.raises(
            DataError,
            match=r"web: 0\.tar: missing \(the file did not exist at .* UTC\).*alchemist shard retire \d+ --reason",
        ):
            ingest(dataset="web")
    assert states(engine) == {"0.tar": "missing", "1.tar": "verified", "2.tar": "verified"}
    (tmp_path / "aside").rename(tmp_path / "0.tar")
    assert ingest(dataset="web").n_known == 3
    assert states(engine)["0.tar"] == "verified"


def test_a_missing_shard_of_an_earlier_night_does_not_fail_a_later_one(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    for folder in ("2026-01-01", "2026-01-02"):
        (tmp_path / folder).mkdir()
        shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / folder / "a.tar")
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "2026-01-01" / "a.tar").unlink()
    with pytest.raises(DataError, match=r"2026-01-01/a\.tar: missing"):
        ingest(dataset="web", crawl_date="2026-01-02")
    assert ingest(dataset="web", crawl_date="2026-01-02").n_known == 1


def test_of_two_ingests_at_the_same_time_the_slower_one_announces_no_lost_shard_again(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    by_day(tmp_path, corpus, "2026-01-01", "2026-01-02")
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "2026-01-01" / "a.tar").unlink()
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as faster:
            (lost,) = faster.execute(text("SELECT shard_id FROM alchemist.shards WHERE crawl_date = '2026-01-01'"))
            assert mark_unreadable(faster, lost.shard_id, "missing", "seen by the ingest of another night")
            slower = thread.submit(ingest, dataset="web", crawl_date="2026-01-02")
            wait_until_blocked(faster, slower)
        with pytest.raises(DataError, match=r"2026-01-01/a\.tar: missing"):
            slower.result()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.notifications")).scalar_one() == 0


def by_day(tmp_path: Path, corpus: Path, *days: str) -> list[Path]:
    """A good shard in each day's folder."""
    tars = sorted((corpus / "train").rglob("*.tar"))
    for number, day in enumerate(days):
        (tmp_path / day).mkdir()
        shutil.copy(tars[number], tmp_path / day / "a.tar")
    return tars


def test_a_changed_shard_whose_file_is_then_deleted_is_missing_since_then(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    tars = sorted((corpus / "train").rglob("*.tar"))
    for number in range(2):
        shutil.copy(tars[number], tmp_path / f"{number}.tar")
    ingest(dataset="web", root=str(tmp_path))
    shutil.copy(tars[2], tmp_path / "0.tar")
    with pytest.raises(DataError, match=r"0\.tar: replaced under the same address \(its bytes differed"):
        ingest(dataset="web")
    (tmp_path / "0.tar").unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"0\.tar: missing \(the file did not exist at .* UTC\)"):
            ingest(dataset="web")


@pytest.mark.parametrize("state", ["missing", "changed", "rejected"])
def test_a_shard_that_can_be_read_again_is_found_by_the_ingest_of_any_later_night(
    tmp_path: Path, corpus: Path, engine: Engine, state: str
) -> None:
    by_day(tmp_path, corpus, "2026-01-01", "2026-01-02")
    shard = tmp_path / "2026-01-01" / "a.tar"
    whole = shard.read_bytes()
    if state == "rejected":
        shard.write_bytes(b"<html>" * 200)
        assert ingest(dataset="web", root=str(tmp_path)).n_rejected == 1
    else:
        ingest(dataset="web", root=str(tmp_path))
        shard.unlink() if state == "missing" else shard.write_bytes(whole[:-512] + b"x" * 512)
        with pytest.raises(DataError, match=r"2026-01-01/a\.tar"):
            ingest(dataset="web", crawl_date="2026-01-01")
    assert states(engine)["2026-01-01/a.tar"] == state
    ingest(dataset="web", crawl_date="2026-01-02")
    shard.write_bytes(whole)
    ingest(dataset="web", crawl_date="2026-01-02")
    assert states(engine) == {"2026-01-01/a.tar": "verified", "2026-01-02/a.tar": "verified"}


def test_an_upload_that_was_given_up_and_a_rejected_file_that_was_removed_are_forgotten(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    by_day(tmp_path, corpus, "2026-01-01")
    bad = {"begun.tar": b"", "page.tar": b"<html>" * 200}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    ingest(dataset="web", root=str(tmp_path))
    assert states(engine) == {"2026-01-01/a.tar": "verified", "begun.tar": "growing", "page.tar": "rejected"}
    for name in bad:
        (tmp_path / name).unlink()
    ingest(dataset="web", crawl_date="2026-01-02")
    assert states(engine) == {"2026-01-01/a.tar": "verified"}


def test_shards_of_days_that_were_not_ingested_are_named_with_what_to_do(
    tmp_path: Path, corpus: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    by_day(tmp_path, corpus, "2026-01-01", "2026-01-02", "2026-01-03", "2999-01-01")
    report = ingest(dataset="web", root=str(tmp_path), crawl_date="2026-01-02")
    assert (report.n_shards, report.n_of_other_days) == (1, 2)
    said = capsys.readouterr().err
    assert "not ingested, because they are not of 2026-01-02: shards 1 of 2026-01-01, 1 of 2999-01-01" in said
    assert (
        "nightly_rescore with that crawl_date (at most tomorrow's), or alchemist ingest --dataset web --crawl-date 2026-01-01"
        in said
    )
    ingest(dataset="web", crawl_date="2026-01-01")
    assert ingest(dataset="web", crawl_date="2026-01-02").n_of_other_days == 1


def test_an_ingest_without_a_date_leaves_a_new_folder_of_a_later_day_out_and_names_it(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its date may be mistyped, and would be the newest night for years."""
    set_time_zone(tmp_path, monkeypatch, "Asia/Tokyo")
    tars = by_day(tmp_path, corpus, "2026-01-01", "2026-01-02", "2062-01-01")
    report = ingest(dataset="web", root=str(tmp_path))
    assert (report.n_shards, report.n_of_other_days) == (2, 1)
    said = capsys.readouterr().err
    assert "web: not ingested, because they are later than today (2026-01-02): shards 1 of 2062-01-01. " in said
    assert "alchemist ingest --dataset web --crawl-date 2062-01-01. If the date is wrong: rename the folder." in said
    # It refuses such a date.
    assert "nightly_rescore" not in said
    assert ingest(dataset="web", crawl_date="2062-01-01").n_shards == 1
    # Now it is registered, and its changes are noticed.
    shutil.copy(tars[3], tmp_path / "2062-01-01" / "a.tar")
    with pytest.raises(DataError, match=r"2062-01-01/a\.tar: replaced under the same address"):
        ingest(dataset="web")


def test_a_name_with_a_line_break_stays_one_line_and_is_named_by_its_id(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    odd = tmp_path / "two\nlines.tar"
    shutil.copy(next((corpus / "train").rglob("*.tar")), odd)
    shutil.copy(odd, tmp_path / "other.tar")
    ingest(dataset="web", root=str(tmp_path))
    odd.unlink()
    with pytest.raises(DataError, match=r"web: two\\nlines\.tar: missing .*alchemist shard retire \d+ --reason"):
        ingest(dataset="web")


@pytest.mark.parametrize("is_mounted", [True, False])
def test_an_unreachable_root_does_not_change_the_states_of_its_shards(
    tmp_path: Path, corpus: Path, engine: Engine, is_mounted: bool
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    ingest(dataset="web", root=str(root))
    root.rename(tmp_path / "away")
    if is_mounted:
        root.mkdir()  # The mount point of a disk that is not mounted.
    with pytest.raises(DataError, match=r"The root .*root is unreachable"):
        ingest(dataset="web")
    assert states(engine) == {"a.tar": "verified"}


def test_names_that_cannot_be_stored_and_folders_that_are_not_read_stop_no_other(
    tmp_path: Path, corpus: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next((corpus / "train").rglob("*.tar"))
    shutil.copy(good, tmp_path / "good.tar")
    shutil.copy(good, os.fsencode(tmp_path) + b"/caf\xe9.tar")
    shutil.copy(good, tmp_path / "b.tar.gz")
    (tmp_path / "2026-01-03").symlink_to(corpus / "train")
    (tmp_path / ".part").mkdir()
    shutil.copy(good, tmp_path / ".part" / "c.tar")
    # Letters that Postgres cannot compress: its index refuses more than 2,704 bytes.
    deep = tmp_path.joinpath("1", *(random.Random(seed).randbytes(120).hex() for seed in range(12)))
    deep.mkdir(parents=True)
    # Six lengths of their names.
    for n_letters in range(1, 7):
        shutil.copy(good, deep / f"{'d' * n_letters}.tar")
    with pytest.raises(DataError) as caught:
        ingest(dataset="web", root=str(tmp_path))
    said = str(caught.value)
    assert said.count("has a path of more than") == 1
    assert "/ddddd.tar and 1 more: has a path of more than 2,048 bytes below the root. Shorten it." in said
    assert r"caf\udce9.tar: has a name that is not UTF-8" in said
    assert "b.tar.gz: is compressed" in said
    assert "2026-01-03: is a symbolic link to a folder" in said
    assert "c.tar" not in said
    assert "skipped .part/c.tar: is hidden" in capsys.readouterr().err
    assert states(engine) == {"good.tar": "verified"}


def test_a_hidden_shard_that_older_code_registered_is_not_missing(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    for name in ("part", "whole"):
        (tmp_path / name).mkdir()
        shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / name / "a.tar")
    ingest(dataset="web", root=str(tmp_path))
    (tmp_path / "part").rename(tmp_path / ".part")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET uri = '.part/a.tar' WHERE uri = 'part/a.tar'"))
    ingest(dataset="web")
    assert set(states(engine).values()) == {"verified"}


def test_another_root_neither_moves_a_dataset_nor_brings_foreign_shards(
    tmp_path: Path, corpus: Path, engine: Engine
) -> None:
    good = sorted((corpus / "train").rglob("*.tar"))
    for name, tar in (("own", good[0]), ("foreign", good[1])):
        (tmp_path / name).mkdir()
        shutil.copy(tar, tmp_path / name / f"{name}.tar")
    ingest(dataset="web", root=str(tmp_path / "own"))
    with pytest.raises(ConfigError, match=r"has the root .*/own\. .*--move-root"):
        ingest(dataset="web", root=str(tmp_path / "foreign"))
    with pytest.raises(ConfigError, match=r"1 of 1 shards of web are not under .*/foreign.*own\.tar"):
        ingest(dataset="web", root=str(tmp_path / "foreign"), move_root=True)
    assert states(engine) == {"own.tar": "verified"}
    assert ingest(dataset="web", root=f"{tmp_path}/own/").n_known == 1
    shutil.copy(good[0], tmp_path / "foreign" / "own.tar")
    report = ingest(dataset="web", root=str(tmp_path / "foreign"), move_root=True)
    assert (report.n_known, report.n_shards) == (1, 1)


@pytest.mark.parametrize("name", ["", "a,b", "a\nb", "x" * 10_000, "-x", "../up", "a b"])
def test_a_dataset_has_a_name_that_every_tool_can_write(tmp_path: Path, engine: Engine, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid dataset name") as caught:
        ingest(dataset=name, root=str(tmp_path))
    assert len(str(caught.value)) < 250
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.datasets")).scalar_one() == 0


def test_a_dataset_that_has_an_odd_name_keeps_working(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    with engine.begin() as connection:
        statement = text("INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('a b', :root, 'train')")
        connection.execute(statement, {"root": str(corpus / "train")})
    assert ingest(dataset="a b").n_shards == 6


def test_a_shard_that_was_only_touched_is_known_and_read_again_once(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "touched"
    root.mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    ingest(dataset="touched", root=str(root))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET verified_at = verified_at - interval '1 hour'"))
    n_read = count_calls(monkeypatch, ingest_stage, "sha256_of")
    monkeypatch.setattr(ingest_stage, "CLOCK_SLACK", timedelta(0))
    assert ingest(dataset="touched").n_known == 1
    assert ingest(dataset="touched").n_known == 1
    assert len(n_read) == 1


@pytest.mark.parametrize(("later_s", "n_read"), [(-5, 1), (0, 1), (1.9, 1), (2.1, 0), (5, 0)])
def test_a_shard_is_read_again_unless_it_was_read_two_seconds_after_its_last_change(
    tmp_path: Path, corpus: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, later_s: float, n_read: int
) -> None:
    """Two clocks may differ by that much: the storage's, and the database's."""
    root = tmp_path / "touched"
    root.mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    ingest(dataset="touched", root=str(root))
    changed_at = datetime.fromtimestamp((root / "a.tar").stat().st_ctime, UTC)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.shards SET verified_at = :at"), {"at": changed_at + timedelta(seconds=later_s)}
        )
    read = count_calls(monkeypatch, ingest_stage, "sha256_of")
    # Two seconds after the change it is compared for the last time.
    for now_s, n_reads in ((1, n_read), (60, 2 * n_read), (120, 2 * n_read)):
        now = changed_at + timedelta(seconds=now_s)
        monkeypatch.setattr(ingest_stage, "read_clock", lambda _, now=now: now)
        assert ingest(dataset="touched").n_known == 1
        assert len(read) == n_reads


@pytest.mark.parametrize(
    ("sizes_mib", "n_cores", "n_readers"),
    [
        ([], 8, 0),
        ([1], 8, 0),
        ([15], 8, 0),
        ([16], 8, 1),
        ([64], 8, 1),
        ([64] * 3, 8, 3),
        ([64] * 30, 8, 8),
        ([1] * 33, 8, 2),
    ],
)
def test_as_many_processes_read_shards_as_pay(
    monkeypatch: pytest.MonkeyPatch, sizes_mib: list[int], n_cores: int, n_readers: int
) -> None:
    """One process per core; none without a shard, or for less than 16 MiB, because starting a process takes longer."""
    monkeypatch.delenv("ALCHEMIST_DECODE_WORKERS", raising=False)
    load_settings.cache_clear()
    monkeypatch.setattr(ingest_stage, "n_own_cores", lambda: n_cores)
    files = [ShardFile(f"{n}.tar", size << 20, datetime(2026, 1, 1, tzinfo=UTC)) for n, size in enumerate(sizes_mib)]
    assert ingest_stage._count_readers(files) == n_readers
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "5")
    load_settings.cache_clear()
    assert ingest_stage._count_readers(files) == 5


@pytest.mark.parametrize(
    ("state", "changed_s", "is_read"),
    [
        ("growing", -99, True), ("missing", -99, True), ("verified", 99, False), ("retired", 99, False),
        ("changed", -3, False), ("changed", -1, True), ("rejected", -3, False), ("rejected", -1, True),
    ],
)  # fmt: skip
def test_another_nights_shard_is_looked_at_again_where_it_may_be_readable_now(
    state: str, changed_s: float, is_read: bool
) -> None:
    noted_at = datetime(2026, 1, 2, tzinfo=UTC)
    known = KnownShard(1, 1, state, b"", None, date(2026, 1, 1), None, noted_at)
    file = ShardFile("a.tar", 1, noted_at + timedelta(seconds=changed_s))
    assert ingest_stage._Ingestion._may_be_readable_now(known, file) is is_read


def count_calls(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[None]:
    called: list[None] = []
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: called.append(None) or function(*given))
    return called


def test_scores_that_a_crawl_brings_along_are_kept(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    root = tmp_path / "rated"
    root.mkdir()
    with tarfile.open(next((corpus / "train").rglob("*.tar"))) as tar:
        pictures = [tar.extractfile(member).read() for member in tar if member.name.endswith(".png")]  # type: ignore[union-attr]
    documents = [
        {"similarity": 0.31, "author": "me"},
        {"aesthetic_score": "high"},
        {"punsafe": 1e-3, "similarity": 0.2},
    ]
    entries = [
        entry
        for number, (picture, document) in enumerate(zip(pictures, documents, strict=False))
        for entry in (
            (f"{number}.png", picture),
            (f"{number}.json", json.dumps({"caption": f"c{number}"} | document).encode()),
        )
    ]
    write_tar(root / "a.tar", entries)
    ingest(dataset="rated", root=str(root))
    statement = text(
        "SELECT caption, imported, clarity FROM alchemist.heuristic_scores JOIN alchemist.samples USING (sample_id)"
    )
    with engine.connect() as connection:
        rows = sorted(connection.execute(statement).all())
    assert rows == [("c0", {"similarity": 0.31}, None), ("c2", {"punsafe": 1e-3, "similarity": 0.2}, None)]


@pytest.mark.slow
def test_worker_processes_change_nothing(
    ingest_corpus: Callable[[], IngestResult], make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums = []
    for n_workers in (0, 2):
        url = make_database()
        monkeypatch.setenv("ALCHEMIST_DATABASE_URL", url)
        monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", str(n_workers))
        load_settings.cache_clear()
        ingest_corpus()
        checksums.append(checksum(url))
    assert checksums[0] == checksums[1]


def test_a_new_dataset_needs_a_root_and_a_known_one_keeps_its_role(corpus: Path, database_url: str) -> None:
    with pytest.raises(ConfigError, match="--root"):
        ingest(dataset="unknown")
    ingest(dataset="scenes", root=str(corpus / "train"))
    with pytest.raises(ConfigError, match="role"):
        ingest(dataset="scenes", role="validation")
