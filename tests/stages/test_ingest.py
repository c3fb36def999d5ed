"""Ingest registers every location once, good or bad, and never a shard twice."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.data.tar_writer import write_tar
from alchemist_core.errors import ConfigError, DataError
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


def test_an_empty_night_succeeds(corpus: Path, database_url: str) -> None:
    report = ingest(dataset="scenes", root=str(corpus / "train"), crawl_date="2026-03-03")
    assert (report.n_shards, report.n_locations) == (0, 0)


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


def test_a_new_dataset_needs_a_root_and_a_known_one_keeps_its_role(corpus: Path, database_url: str) -> None:
    with pytest.raises(ConfigError, match="--root"):
        ingest(dataset="unknown")
    ingest(dataset="scenes", root=str(corpus / "train"))
    with pytest.raises(ConfigError, match="role"):
        ingest(dataset="scenes", role="validation")
