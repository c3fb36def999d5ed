"""Quarantined samples are scored again by reason; counts change in one transaction, and decided nights do not change."""

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.check import CheckConfig
from alchemist_core.cli.check import run as check
from alchemist_core.cli.drift import DriftConfig, check_drift
from alchemist_core.cli.held_nights import ReleaseNightConfig, release
from alchemist_core.cli.sample import RetryQuarantineConfig, RetryQuarantineResult, retry_quarantine
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.backups import checksum, table_checksums
from alchemist_core.store.engine import open_store
from alchemist_core.store.leases import claim_lease
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import reload_snapshot, take_snapshot
from tests.trained_store import TrainedStore, copy_store, store_once, use_store, used

pytestmark = [pytest.mark.db, pytest.mark.e2e]

SET_ASIDE = """
WITH places AS (
    SELECT rater_id, shard_id, ordinal, sample_id, key FROM alchemist.shard_scores INNER JOIN alchemist.sample_locations USING (shard_id)
    WHERE ordinal < :n
), gone AS (
    DELETE FROM alchemist.scores USING places WHERE scores.sample_id = places.sample_id AND scores.rater_id = places.rater_id
), bad AS (
    INSERT INTO alchemist.quarantined_samples (shard_id, ordinal, key, reason, detail, stage, is_transient, rater_id)
    SELECT shard_id, ordinal, key, :reason, 'as if', 'score', :is_transient, rater_id FROM places
)
UPDATE alchemist.shard_scores SET n_scored = n_scored - :n, n_quarantined = n_quarantined + :n
"""


def set_aside(n: int = 3, *, reason: str = "read_failed", is_transient: bool = True) -> None:
    """Quarantine the first n locations of every scored shard, as scoring would."""
    with open_store().begin() as connection:
        connection.execute(text(SET_ASIDE), {"n": n, "reason": reason, "is_transient": is_transient})


def retry(**fields: object) -> RetryQuarantineResult:
    return retry_quarantine(RetryQuarantineConfig.model_validate(fields))


def rows(sql: str) -> list[tuple[object, ...]]:
    with open_store().connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


@pytest.fixture(scope="module")
def scored_alone_once(make_database: Callable[..., str], trained_once: TrainedStore) -> TrainedStore:
    """The trained store with scores, whose nights are open; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        with used(store := copy_store(trained_once, make_database, home)):
            score(ScoreConfig(dataset="scenes"))
        return store

    return store_once("scored-alone", make)


@pytest.fixture
def scored(
    scored_alone_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainedStore:
    store = copy_store(scored_alone_once, make_database, tmp_path / "home-0")
    use_store(monkeypatch, store)
    return store


def test_a_retried_store_equals_one_that_never_failed(scored: TrainedStore) -> None:
    before = checksum(scored.url)
    set_aside()
    assert checksum(scored.url) != before
    report = retry()
    assert (report.n_shards, report.n_tried, report.n_scored, report.n_still_quarantined) == (6, 18, 18, 0)
    assert checksum(scored.url) == before
    assert rows("SELECT DISTINCT n_samples, n_scored, n_quarantined FROM alchemist.shard_scores") == [(40, 40, 0)]
    assert rows("SELECT count(*) FROM alchemist.leases") == [(0,)]
    assert retry().note == "Nothing is quarantined as transient."


def test_only_the_reason_that_was_named_is_tried(scored: TrainedStore) -> None:
    set_aside(reason="bad_image", is_transient=False)
    assert retry().n_tried == 0
    assert retry(reason="bad_image").n_scored == 18
    with pytest.raises(ConfigError, match="quarantined nothing for this reason"):
        retry(reason="no_such_reason")


def test_what_still_fails_stays_quarantined_with_the_reason_of_today(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    with tarfile.open(next((corpus / "train").rglob("*.tar"))) as tar:
        picture = next(tar.extractfile(member).read() for member in tar if member.name.endswith(".png"))  # type: ignore[union-attr]
    (tmp_path / "mixed").mkdir()
    tar = tmp_path / "mixed" / "x.tar"
    write_tar(tar, [("a.png", picture), ("a.txt", b"whole")])
    ingest(IngestConfig.model_validate({"dataset": "mixed", "root": str(tmp_path / "mixed")}))
    # An image that ingest can decode and the scorer cannot: damaged afterwards, and registered with the new hash.
    spoilt = picture[:60] + bytes(len(picture) - 60)
    tar.write_bytes(tar.read_bytes().replace(picture, spoilt))
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.samples SET image_hash = sha256(:spoilt) WHERE image_hash = sha256(:picture)"),
            {"spoilt": spoilt, "picture": picture},
        )
    assert score(ScoreConfig(dataset="mixed")).n_quarantined == 1
    before = checksum(trained_store.url)
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.quarantined_samples SET is_transient = true, reason = 'read_failed'"))
    report = retry(dataset="mixed")
    assert (report.n_tried, report.n_scored, report.n_still_quarantined) == (1, 0, 1)
    assert checksum(trained_store.url) == before


def test_a_sample_that_was_scored_elsewhere_meanwhile_costs_no_forward_pass(scored: TrainedStore) -> None:
    before = rows("SELECT sample_id, score FROM alchemist.scores ORDER BY 1")
    set_aside(1)
    with open_store().begin() as connection:
        for sample_id, value in before:
            connection.execute(
                text("INSERT INTO alchemist.scores VALUES (1, :score, :id) ON CONFLICT DO NOTHING"),
                {"score": value, "id": sample_id},
            )
    assert retry().n_scored == 6
    assert rows("SELECT DISTINCT n_scored, n_reused, n_quarantined FROM alchemist.shard_scores") == [(40, 1, 0)]


def test_a_decided_night_stays_as_it_is_and_the_retried_belong_to_its_next_revision(scored: TrainedStore) -> None:
    set_aside()
    publish_night(PublishNightConfig(dataset="scenes"))
    engine = open_store()
    rater = find_rater(engine, "production")
    assert rater is not None
    snapshot = take_snapshot(engine, rater, ["scenes"])
    assert len(snapshot.pairs) == 240 - 18
    retry()
    assert rows("SELECT DISTINCT n_scored, n_quarantined FROM alchemist.shard_scores") == [(40, 0)]
    # The frozen set is read again bit for bit; later samples are not eligible before their own night is decided.
    assert snapshot.snapshot_id is not None
    assert reload_snapshot(engine, snapshot.snapshot_id).eligible_hash == snapshot.eligible_hash
    assert len(take_snapshot(engine, rater, ["scenes"]).pairs) == 240 - 18
    assert publish_night(PublishNightConfig(dataset="scenes")).n_nights == 2
    assert len(take_snapshot(engine, rater, ["scenes"]).pairs) == 240
    assert reload_snapshot(engine, snapshot.snapshot_id).eligible_hash == snapshot.eligible_hash


DECIDE = """
UPDATE alchemist.nights SET state = :state, decided_by = 'ann', decided_at = now(), reason = 'captions of another crawl'
"""


@pytest.mark.parametrize("state", ["rejected", "held"])
def test_what_a_retry_scores_of_a_night_is_decided_as_the_night_was(scored: TrainedStore, state: str) -> None:
    set_aside()
    with open_store().begin() as connection:
        connection.execute(text(DECIDE), {"state": state})
    retry()
    assert rows("SELECT DISTINCT revision, state FROM alchemist.nights ORDER BY 1") == [(1, state), (2, "scored")]
    check(CheckConfig(suite="scores", dataset="scenes"))
    check_drift(DriftConfig(dataset="scenes"))
    if state == "held":
        with pytest.raises(CheckFailedError, match="Published 0 nights; 4 are held"):
            publish_night(PublishNightConfig(dataset="scenes"))
    else:
        assert publish_night(PublishNightConfig(dataset="scenes")).n_nights == 0
    assert rows("SELECT DISTINCT revision, state FROM alchemist.nights ORDER BY 1") == [(1, state), (2, state)]
    for day in ("2026-01-01", "2026-01-02"):
        release(ReleaseNightConfig.model_validate({"dataset": "scenes", "crawl_date": day, "reason": "they are right"}))
    assert rows("SELECT DISTINCT state FROM alchemist.nights") == [("released",)]


def test_a_shard_that_another_run_holds_is_left_for_later(scored: TrainedStore) -> None:
    set_aside()
    ((rater_id, shard_id),) = rows("SELECT rater_id, min(shard_id) FROM alchemist.quarantined_samples GROUP BY 1")
    with open_store().begin() as connection:
        assert claim_lease(connection, f"shard:{rater_id}:{shard_id}", run_id=1, ttl_s=600) is not None
    report = retry()
    assert (report.n_shards, report.note) == (5, "Held by another run: 1 shard. Retry later.")


@pytest.mark.faults
def test_killed_between_two_shards_and_run_again_it_ends_as_if_nothing_had_failed(scored: TrainedStore) -> None:
    wanted = table_checksums(scored.url)
    set_aside(20)
    given = {"ALCHEMIST_DATABASE_URL": scored.url, "ALCHEMIST_HOME": str(scored.home), "ALCHEMIST_LEASE_TTL_S": "3"}
    command = [sys.executable, "-m", "alchemist_core", "sample", "retry-quarantine"]
    n_left = [n_set_aside()]
    while n_left[-1]:
        process = subprocess.Popen(command, env=os.environ | given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while n_set_aside() == n_left[-1] and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.communicate()
        n_left.append(n_set_aside())
        # At every moment the ledger adds up with the rows.
        assert rows("SELECT sum(n_quarantined) FROM alchemist.shard_scores") == [(n_left[-1],)]
        assert n_left[-1] < n_left[-2]
        time.sleep(3.2)  # until the killed one's leases have expired
    assert len(n_left) > 2  # it was killed at least once before it ended
    assert table_checksums(scored.url) == wanted


def n_set_aside() -> int:
    ((n,),) = rows("SELECT count(*) FROM alchemist.quarantined_samples")
    return int(str(n))
