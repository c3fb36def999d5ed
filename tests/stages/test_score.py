"""Scoring: every location ends scored or quarantined, exactly once, and a score belongs to its sample alone."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.sample import RetryQuarantineConfig, RetryQuarantineResult, retry_quarantine
from alchemist_core.errors import CheckFailedError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig, ScoreResult, Scoring, run
from alchemist_core.store.backups import checksum, table_checksums
from alchemist_core.store.engine import make_engine, open_store
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import take_snapshot
from tests.object_store import BUCKET
from tests.trained_store import TrainedStore, use_store

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def score(**fields: object) -> ScoreResult:
    return run(ScoreConfig.model_validate(fields))


def scores_of(engine: Engine) -> dict[bytes, float]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT pair_hash, score FROM alchemist.scores JOIN alchemist.samples USING (sample_id)")
        ).all()
    return {bytes(row.pair_hash): row.score for row in rows}


def ingest_folder(name: str, root: Path) -> None:
    ingest(IngestConfig.model_validate({"dataset": name, "root": str(root)}))


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_without_a_rater_nothing_is_scored_and_the_night_succeeds(database_url: str) -> None:
    assert score().note == "No rater is in production, so nothing was scored."


def test_every_location_is_scored_and_scoring_again_changes_nothing(trained_store: TrainedStore) -> None:
    report = score(dataset="scenes")
    assert (report.n_shards, report.n_samples, report.n_scored, report.n_quarantined) == (6, 240, 240, 0)
    before = checksum(trained_store.url)
    assert score(dataset="scenes").n_shards == 0
    assert checksum(trained_store.url) == before
    assert len(set(scores_of(open_store()).values())) > 150


@pytest.mark.slow
def test_fifteen_replays_leave_what_one_run_left(trained_store: TrainedStore) -> None:
    score(dataset="scenes")
    before = checksum(trained_store.url)
    files = {path: path.stat().st_mtime_ns for path in trained_store.home.rglob("*") if path.is_file()}
    for _ in range(15):
        assert score(dataset="scenes").note == "Everything in scope was scored before."
    assert checksum(trained_store.url) == before
    assert {path: path.stat().st_mtime_ns for path in trained_store.home.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_worker_processes_move_no_score_and_no_measure_by_one_bit(
    copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums = []
    for n_workers in (0, 1, 2):
        store = copy_trained()
        use_store(monkeypatch, store)
        monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", str(n_workers))
        load_settings.cache_clear()
        assert score(dataset="scenes").n_scored == 240
        checksums.append(table_checksums(store.url))
    assert checksums[0] == checksums[1] == checksums[2]


def test_heuristics_are_stored_once_for_every_scored_sample(trained_store: TrainedStore) -> None:
    score(dataset="scenes", crawl_date="2026-01-01")
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.heuristic_scores SET clarity = -1"))
    score(dataset="scenes")
    assert ask("SELECT count(*) FROM alchemist.heuristic_scores WHERE clarity = -1") == 120, (
        "a measured pair is not again"
    )
    assert ask("SELECT count(*) FROM alchemist.heuristic_scores WHERE clarity > 0 AND frequency BETWEEN 0 AND 1") == 120
    assert ask("SELECT count(*) FROM alchemist.heuristic_scores WHERE edge_density BETWEEN 0.001 AND 1") == 240


def test_heuristics_do_not_touch_scores_and_can_be_left_out(
    trained_store: TrainedStore, copy_trained: Callable[[], TrainedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    score(dataset="scenes")
    expected = table_checksums(trained_store.url)["scores"]
    other = copy_trained()
    use_store(monkeypatch, other)
    score(dataset="scenes", heuristics=False)
    found = table_checksums(other.url)
    assert found["scores"] == expected
    assert "heuristic_scores" not in found


def ask(statement: str) -> int:
    with open_store().connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def test_a_sample_twice_in_a_shard_is_scored_once_and_counted_twice(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    source = members_of(next((corpus / "train").rglob("*.tar")))[:9]
    again = [(f"again-{name}", data) for name, data in source]
    (tmp_path / "twice").mkdir()
    write_tar(tmp_path / "twice" / "a.tar", source + again)
    ingest_folder("twice", tmp_path / "twice")
    report = score(dataset="twice")
    assert (report.n_samples, report.n_scored, report.n_reused) == (6, 6, 3)
    assert ask("SELECT count(*) FROM alchemist.scores") == 3


def test_a_new_caption_costs_a_forward_pass(trained_store: TrainedStore, corpus: Path, tmp_path: Path) -> None:
    score(dataset="scenes")
    source = members_of(next((corpus / "train").rglob("*.tar")))[:3]
    renamed = [(name, b"something else" if name.endswith(".txt") else data) for name, data in source]
    (tmp_path / "recaptioned").mkdir()
    write_tar(tmp_path / "recaptioned" / "a.tar", [entry for entry in renamed if not entry[0].endswith(".json")])
    ingest_folder("recaptioned", tmp_path / "recaptioned")
    report = score(dataset="recaptioned")
    assert (report.n_scored, report.n_reused) == (1, 0)


def test_one_crawl_date_is_scored_alone(trained_store: TrainedStore) -> None:
    assert score(dataset="scenes", crawl_date="2026-01-02").n_samples == 120


def test_a_sample_seen_again_elsewhere_costs_no_forward_pass(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    score(dataset="scenes")
    (tmp_path / "again").mkdir()
    shutil.copy(next((corpus / "train").rglob("*.tar")), tmp_path / "again" / "x.tar")
    ingest_folder("again", tmp_path / "again")
    report = score(dataset="again")
    assert (report.n_samples, report.n_scored, report.n_reused) == (40, 40, 40)


def test_company_and_order_do_not_move_a_score_by_one_bit(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    """The same samples, scored in another order beside a damaged record, in a new store."""
    score(dataset="scenes")
    expected = scores_of(open_store())
    with open_store().begin() as connection:
        for table in ("shard_scores", "nights", "scores"):
            connection.execute(text(f"DELETE FROM alchemist.{table}"))
    source = members_of(next((corpus / "train").rglob("*.tar")))
    records = [source[i : i + 3] for i in range(0, len(source), 3)]
    picture = next(data for name, data in source if name.endswith(".png"))
    broken = [("zzz.png", picture[: len(picture) // 2]), ("zzz.txt", b"half a picture")]
    (tmp_path / "mixed").mkdir()
    write_tar(
        tmp_path / "mixed" / "a.tar", [member for record in [*reversed(records[:7]), broken] for member in record]
    )
    ingest_folder("mixed", tmp_path / "mixed")
    report = score(dataset="mixed")
    assert (report.n_scored, report.n_quarantined) == (7, 1)
    found = scores_of(open_store())
    assert len(found) == 7
    assert all(found[pair_hash] == expected[pair_hash] for pair_hash in found)


def copy_shards(corpus: Path, root: Path, *names: str) -> None:
    root.mkdir(exist_ok=True)
    for name, tar in zip(names, sorted((corpus / "train").rglob("*.tar")), strict=False):
        shutil.copy(tar, root / name)


@pytest.mark.slow
def test_worker_processes_score_the_shards_of_an_object_store(
    trained_store: TrainedStore, corpus: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "1")
    load_settings.cache_clear()
    tar = next((corpus / "train").rglob("*.tar"))
    s3._client().upload_file(str(tar), BUCKET, "web/a.tar")
    ingest(IngestConfig.model_validate({"dataset": "web", "root": f"{object_store}/web"}))
    report = score(dataset="web")
    assert (report.n_shards, report.n_quarantined) == (1, 0)


def states() -> dict[str, str]:
    with open_store().connect() as connection:
        statement = text(
            "SELECT uri, state FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE name = 'web'"
        )
        return {row.uri: row.state for row in connection.execute(statement)}


@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_shard_that_is_gone_or_has_changed_since_ingest_stops_no_other(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_workers: int
) -> None:
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", str(n_workers))
    load_settings.cache_clear()
    root = tmp_path / "web"
    copy_shards(corpus, root, "0.tar", "1.tar", "2.tar", "3.tar")
    ingest_folder("web", root)
    kept = (root / "0.tar").read_bytes()
    (root / "0.tar").unlink()
    shutil.copy(root / "3.tar", root / "1.tar")
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            score(dataset="web")
        said = str(caught.value)
        assert "web: 0.tar is missing (found by score at" in said
        assert "web: 1.tar is changed (found by score at" in said
        assert "alchemist shard retire" in said
        assert said.endswith("Everything else was scored.")
    assert states() == {"0.tar": "missing", "1.tar": "changed", "2.tar": "verified", "3.tar": "verified"}
    assert ask("SELECT count(*) FROM alchemist.shard_scores") == 2
    assert ask("SELECT count(*) FROM alchemist.leases WHERE resource LIKE 'shard:%'") == 0
    # Skipped shards do not prevent publishing the rest of the night.
    assert publish_night(PublishNightConfig(dataset="web")).n_nights == 1
    (root / "0.tar").write_bytes(kept)
    with pytest.raises(DataError, match=r"1\.tar: replaced under the same address"):
        ingest_folder("web", root)
    with pytest.raises(DataError, match=r"1\.tar is changed"):
        score(dataset="web")
    assert ask("SELECT count(*) FROM alchemist.shard_scores") == 3


def test_a_root_that_is_away_stops_no_other_dataset_and_marks_no_shard(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    root = tmp_path / "web"
    copy_shards(corpus, root, "0.tar", "1.tar")
    ingest_folder("web", root)
    root.rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"The root .*/web is unreachable .*\nEverything else was scored"):
        score()
    assert set(states().values()) == {"verified"}
    assert ask("SELECT count(*) FROM alchemist.shard_scores") == 6
    (tmp_path / "away").rename(root)
    assert score().n_shards == 2


def test_an_upload_that_was_read_while_it_grew_is_scored_again_only_where_it_is_new(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_UPLOAD_SETTLE_S", "0")
    load_settings.cache_clear()
    root = tmp_path / "web"
    copy_shards(corpus, root, "a.tar")
    whole = (root / "a.tar").read_bytes()
    (root / "a.tar").write_bytes(whole[:30_000])
    ingest_folder("web", root)
    first = score(dataset="web")
    before = scores_of(open_store())
    publish_night(PublishNightConfig(dataset="web"))
    assert run_retry("transient").note is not None
    assert "alchemist shard reread" in str(run_retry("truncated_tar").note)
    (root / "a.tar").write_bytes(whole)
    ingest_folder("web", root)
    again = score(dataset="web")
    assert (again.n_shards, again.n_scored, again.n_reused, again.n_quarantined) == (1, 40, first.n_scored, 0)
    after = scores_of(open_store())
    assert {pair_hash: after[pair_hash] for pair_hash in before} == before
    assert publish_night(PublishNightConfig(dataset="web")).n_nights == 1
    rater = find_rater(open_store(), "production")
    assert rater is not None
    assert len(take_snapshot(open_store(), rater, ["web"]).pairs) == 40


def run_retry(reason: str) -> RetryQuarantineResult:
    return retry_quarantine(RetryQuarantineConfig(reason=reason, dataset="web"))


def test_the_database_refuses_a_ledger_row_that_lost_a_location(trained_store: TrainedStore) -> None:
    score(dataset="scenes", crawl_date="2026-01-01")
    engine = make_engine(trained_store.url)
    with engine.connect() as connection, pytest.raises(Exception, match="ck_shard_scores_accounting"):
        connection.execute(text("UPDATE alchemist.shard_scores SET n_scored = n_scored - 1"))
    engine.dispose()


def test_an_empty_shard_is_a_completed_shard(trained_store: TrainedStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    (tmp_path / "empty" / "a.tar").write_bytes(buffer.getvalue())
    ingest_folder("empty", tmp_path / "empty")
    assert score(dataset="empty").n_shards == 1
    assert score(dataset="empty").n_shards == 0


def test_a_late_shard_opens_a_new_revision_of_its_night_only(
    trained_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    score(dataset="scenes")
    assert publish_night(PublishNightConfig(dataset="scenes")).n_nights == 2
    late = tmp_path / "late"
    shutil.copytree(corpus / "train", late)
    source = members_of(next((corpus / "validation").rglob("*.tar")))
    write_tar(late / "2026-01-02" / "late.tar", source[:9])
    ingest(IngestConfig.model_validate({"dataset": "scenes", "root": str(late), "move_root": True}))
    with pytest.raises(CheckFailedError, match="not complete"):
        score_half_then_publish()
    assert score(dataset="scenes").n_samples == 3
    assert publish_night(PublishNightConfig(dataset="scenes")).n_nights == 1
    with open_store().connect() as connection:
        rows = connection.execute(
            text("SELECT crawl_date::text, revision, state FROM alchemist.nights ORDER BY night_id")
        ).all()
    assert [tuple(row) for row in rows] == [
        ("2026-01-01", 1, "selectable"),
        ("2026-01-02", 1, "selectable"),
        ("2026-01-02", 2, "selectable"),
    ]


def score_half_then_publish() -> None:
    # An open revision with an unscored shard of its date, made by hand like one that a killed scoring run leaves.
    with open_store().begin() as connection:
        connection.execute(
            text(
                "INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision)"
                " SELECT dataset_id, '2026-01-02', rater_id, 2 FROM alchemist.nights LIMIT 1"
            )
        )
    publish_night(PublishNightConfig(dataset="scenes"))


def add_shadow(name: str = "shadow", *, is_damaged: bool = False) -> None:
    """A candidate with the production rater's checkpoint, marked as a shadow rater."""
    sha256 = "sha256('x')" if is_damaged else "checkpoint_sha256"
    with open_store().begin() as connection:
        rater_id = connection.execute(
            text(
                "INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, is_shadow)"
                f" SELECT :name, rule, config, :name, checkpoint_uri, {sha256}, true FROM alchemist.raters LIMIT 1 RETURNING rater_id"
            ),
            {"name": name},
        ).scalar_one()
        connection.execute(text("SELECT alchemist.add_partition('scores', :id)"), {"id": rater_id})


def test_a_night_is_scored_with_the_production_rater_and_every_shadow(trained_store: TrainedStore) -> None:
    add_shadow()
    report = score(dataset="scenes", crawl_date="2026-01-01", rater="nightly")
    assert (report.n_shards, report.n_samples, report.n_scored) == (6, 240, 240)
    assert str(report.rater).endswith(", shadow")
    with open_store().connect() as connection:
        rows = connection.execute(
            text("SELECT count(*), count(DISTINCT score) FROM alchemist.scores GROUP BY sample_id")
        ).all()
    assert {tuple(row) for row in rows} == {(2, 1)}  # the same weights give the same scores, each in its own partition
    assert score(dataset="scenes", crawl_date="2026-01-01", rater="nightly").n_shards == 0


@pytest.mark.slow
def test_a_shadow_that_cannot_be_loaded_costs_the_night_nothing(trained_store: TrainedStore) -> None:
    add_shadow(is_damaged=True)
    report = score(dataset="scenes", rater="nightly")
    assert (report.n_shards, report.n_scored) == (6, 240)
    assert "shadow scored nothing more: The artifact" in str(report.note)


def break_forward(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Let the forward pass of one rater raise an error; everything else of it is real."""
    load = Scoring._load

    def fail(*_: object) -> None:
        raise error

    def load_broken(self: Scoring, rater: Any, *given: Any) -> Any:
        scorer = load(self, rater, *given)
        if rater.name == name:
            scorer._rater = SimpleNamespace(score=fail)  # type: ignore[attr-defined]
        return scorer

    monkeypatch.setattr(Scoring, "_load", load_broken)


def n_scores_of(name: str) -> int:
    with open_store().connect() as connection:
        statement = text(
            "SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = :name"
        )
        return int(connection.execute(statement, {"name": name}).scalar_one())


def test_a_shadow_whose_forward_pass_fails_is_a_warning_and_the_night_goes_on(
    trained_store: TrainedStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_shadow()
    break_forward(monkeypatch, "shadow", RuntimeError("out of memory"))
    report = score(dataset="scenes", rater="nightly")
    assert (report.n_shards, report.n_scored) == (6, 240)
    told = "shadow scored nothing more: RuntimeError: out of memory"
    assert told in str(report.note)
    assert told in capsys.readouterr().err
    assert n_scores_of("shadow") == 0


@pytest.mark.parametrize("kind", [RuntimeError, DataError])
def test_a_production_rater_whose_forward_pass_fails_fails_the_night(
    trained_store: TrainedStore, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    add_shadow()
    rater = find_rater(open_store(), "production")
    assert rater is not None
    break_forward(monkeypatch, rater.name, kind("out of memory"))
    with pytest.raises((RuntimeError, DataError), match="out of memory"):
        score(dataset="scenes", rater="nightly")
    assert n_scores_of(rater.name) == 0
