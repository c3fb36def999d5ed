"""Ingest registers every location once, good or bad, and never a shard twice."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Engine, text

from alchemist_core.data.tar_writer import write_tar
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.stages import ingest as ingest_stage
from alchemist_core.stages.ingest import IngestConfig, IngestReport, run
from alchemist_core.store.checksum import checksum

pytestmark = pytest.mark.db


def ingest(**fields: object) -> IngestReport:
    return run(IngestConfig.model_validate(fields))


def test_every_location_is_registered(ingest_corpus: Callable[[], IngestReport], engine: Engine) -> None:
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


def test_ingesting_again_changes_nothing(ingest_corpus: Callable[[], IngestReport], database_url: str) -> None:
    ingest_corpus()
    before = checksum(database_url)
    report = ingest_corpus()
    assert (report.n_shards, report.n_known) == (0, 6)
    assert checksum(database_url) == before


def test_only_the_shards_of_the_crawl_date_are_ingested(corpus: Path, database_url: str) -> None:
    report = ingest(dataset="scenes", root=str(corpus / "train"), crawl_date="2026-01-02")
    assert (report.n_shards, report.n_known) == (3, 0)


def test_a_root_that_was_mistyped_is_not_kept(corpus: Path, database_url: str, engine: Engine) -> None:
    with pytest.raises(DataError, match="no folder that can be read"):
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
    with pytest.raises(DataError, match=r"No calendar has the day of .*/2026-02-30: .*\nAll else was ingested"):
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
    with pytest.raises(DataError, match=r"a_first: The root .* is no folder"):
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
        raise DataError(f"Shard {uri} cannot be opened (Stale file handle); restore it, or retire it.")

    with monkeypatch.context() as patch:
        patch.setattr(ingest_stage, "sha256_of", refuse)
        with pytest.raises(DataError, match=r"a_first: Shard .*a\.tar cannot be opened.*Not all of it"):
            ingest()
    assert ingest(dataset="other").n_known == 1


def test_a_root_as_seen_from_here_is_found_from_elsewhere(
    corpus: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(corpus)
    assert ingest(dataset="scenes", root="train").n_shards == 6
    monkeypatch.chdir(tmp_path)
    assert ingest(dataset="scenes").n_known == 6


def test_a_root_without_a_tar_says_so(tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "00000.parquet").touch()
    assert ingest(dataset="empty", root=str(tmp_path)).n_shards == 0
    assert f"No .tar lies under {tmp_path}" in capsys.readouterr().err


def test_an_empty_night_succeeds_and_says_so(
    corpus: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ingest(dataset="scenes", root=str(corpus / "train"), crawl_date="2026-03-03")
    assert (report.n_shards, report.n_locations) == (0, 0)
    assert f"6 shards lie under {corpus / 'train'}, none of 2026-03-03" in capsys.readouterr().err


def test_a_re_sharded_pair_is_a_new_location_of_the_old_pair(corpus: Path, tmp_path: Path, engine: Engine) -> None:
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


def test_what_is_no_tar_is_rejected_and_a_good_upload_takes_its_place(
    tmp_path: Path, corpus: Path, database_url: str
) -> None:
    root = tmp_path / "broken"
    root.mkdir()
    (root / "a.tar").write_bytes(b"half an upload" * 100)
    assert ingest(dataset="broken", root=str(root)).n_rejected == 1
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    assert ingest(dataset="broken", root=str(root)).n_locations == 40


def test_a_rejected_shard_is_read_again_once_a_good_one_of_the_same_size_lies_there(
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
    with pytest.raises(DataError, match=r"a\.tar.*under a new name"):
        ingest(dataset="replaced", root=str(root))
    with engine.connect() as connection:
        uris = connection.execute(text("SELECT uri FROM alchemist.shards ORDER BY uri")).scalars().all()
    assert uris == ["a.tar", "b.tar"], "the neighbour is ingested in spite of the refusal"


def test_a_shard_replaced_by_one_of_the_same_size_is_refused_too(tmp_path: Path, corpus: Path, engine: Engine) -> None:
    """Its time of change says that it must be read again, even where a copy keeps the time of modification."""
    root = tmp_path / "replaced"
    root.mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), root / "a.tar")
    ingest(dataset="replaced", root=str(root))
    before, data = (root / "a.tar").stat(), bytearray((root / "a.tar").read_bytes())
    data[-5000] ^= 1
    (root / "a.tar").write_bytes(data)
    os.utime(root / "a.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"a\.tar.*under a new name"):
        ingest(dataset="replaced")


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


def test_worker_processes_change_nothing(
    ingest_corpus: Callable[[], IngestReport], make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
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
