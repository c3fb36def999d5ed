"""The commands for shards: list, show, retire, reread."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.scorer import RegisterConfig, register_scorer
from alchemist_core.cli.shard import COMMANDS, ChangeConfig, ListConfig, ShowConfig, list_, reread, retire, show
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.settings import load_settings
from alchemist_core.shards import reading
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_rater
from alchemist_core.store.registry import find_shards
from alchemist_core.store.snapshots import Snapshot, reload_snapshot, take_snapshot
from tests.shards.conftest import draw_image, make_record, make_tar
from tests.shards.deadly import DeadlyRecordTask
from tests.trained_store import TrainedStore, copy_store, store_once, use_store, used

pytestmark = [pytest.mark.db, pytest.mark.e2e]


PICKY = '''
import numpy as np
from alchemist_core.scorers import Scorer

class Picky(Scorer):
    """Refuses the first three captions."""
    outputs = ("letters", "words")
    is_padded = False

    def score(self, batch):
        found = np.array([[len(text), len(text.split())] for text in batch.captions], np.float32)
        for at, text in enumerate(batch.captions):
            if text in ("caption 0", "caption 1", "caption 2"):
                found[at], batch.faults[at] = np.nan, "odd"
        return found
'''


def copy_two_shards(corpus: Path, folder: Path) -> Path:
    folder.mkdir()
    for name, tar in zip(("a.tar", "b.tar"), sorted((corpus / "train").rglob("*.tar")), strict=False):
        shutil.copy(tar, folder / name)
    return folder


@pytest.fixture
def root(corpus: Path, tmp_path: Path) -> Path:
    """A folder of two shards without common samples."""
    return copy_two_shards(corpus, tmp_path / "web")


@pytest.fixture(scope="module")
def published_web_once(make_database: Callable[..., str], trained_once: TrainedStore, corpus: Path) -> TrainedStore:
    """A store with such a folder, ingested, scored and published as the dataset web; made once, to be copied."""

    def make(home: Path) -> TrainedStore:
        root = copy_two_shards(corpus, home.parent / "web")
        with used(store := copy_store(trained_once, make_database, home)):
            ingest(IngestConfig(dataset="web", root=str(root)))
            score(ScoreConfig(dataset="web"))
            publish_night(PublishNightConfig(dataset="web"))
        return store

    return store_once("published-web", make)


@pytest.fixture
def published(
    published_web_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the folder; settings name a copy of the store, in which the dataset has it as its root."""
    use_store(monkeypatch, copy_store(published_web_once, make_database, tmp_path / "home-0"))
    root = shutil.copytree(published_web_once.home.parent / "web", tmp_path / "web")
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.datasets SET root_uri = :root WHERE name = 'web'"), {"root": str(root)}
        )
    return Path(root)


def snapshot() -> Snapshot:
    rater = find_rater(open_store(), "production")
    assert rater is not None
    return take_snapshot(open_store(), rater, ["web"])


def ask(statement: str) -> list[tuple[object, ...]]:
    with open_store().connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def change(shard: str, reason: str = "it was wrong") -> ChangeConfig:
    return ChangeConfig(shard=shard, reason=reason)


def test_a_retired_shards_samples_leave_the_selection_and_an_earlier_snapshot_keeps_them(published: Path) -> None:
    before = snapshot()
    report = retire(change(f"{published}/a.tar"))
    assert (report.state, report.note) == ("retired", None)
    assert (before.n_eligible, snapshot().n_eligible) == (80, 40)
    assert before.snapshot_id is not None
    assert reload_snapshot(open_store(), before.snapshot_id).n_eligible == 80
    assert ask(
        "SELECT count(*) FROM alchemist.live_locations JOIN alchemist.datasets USING (dataset_id) WHERE name = 'web'"
    ) == [(40,)]


def test_a_sample_that_is_in_a_live_shard_too_stays_selectable(trained_store: TrainedStore, root: Path) -> None:
    shutil.copy(root / "a.tar", root / "again.tar")
    ingest(IngestConfig(dataset="web", root=str(root)))
    score(ScoreConfig(dataset="web"))
    publish_night(PublishNightConfig(dataset="web"))
    retire(change("again.tar"))
    assert snapshot().n_eligible == 80


def test_a_shard_is_retired_once_with_its_reason_and_ingest_leaves_it_alone(published: Path) -> None:
    (shard_id,) = ask("SELECT shard_id FROM alchemist.shards WHERE uri = 'a.tar'")[0]
    retire(change(str(shard_id), "its licence was withdrawn"))
    again = retire(change("a.tar", "another reason"))
    assert again.note == "It had been retired before (its licence was withdrawn)."
    assert ask("SELECT action, subject, after ->> 'reason' FROM alchemist.audit_events WHERE action = 'retire'") == [
        ("retire", "shard web/a.tar", "its licence was withdrawn")
    ]
    (published / "a.tar").unlink()
    assert ingest(IngestConfig(dataset="web")).n_known == 1
    assert score(ScoreConfig(dataset="web")).n_shards == 0
    assert show(ShowConfig(shard="a.tar")).state == "retired"


def test_a_shard_that_was_changed_on_purpose_is_read_again_as_its_next_revision(published: Path) -> None:
    before = snapshot()
    shutil.copy(published / "b.tar", published / "a.tar")
    report = reread(change("a.tar", "repaired"))
    assert (report.n_locations, report.n_new_pairs, report.state) == (40, 0, "verified")
    assert ingest(IngestConfig(dataset="web")).n_known == 2
    assert score(ScoreConfig(dataset="web")).n_reused == 40
    # The samples of the old bytes have no location any more.
    assert snapshot().n_eligible == 40
    assert before.snapshot_id is not None
    assert reload_snapshot(open_store(), before.snapshot_id).n_eligible == 80
    assert ask("SELECT action FROM alchemist.audit_events WHERE action = 'reread'") == [("reread",)]


def test_a_shard_is_read_again_although_another_dataset_has_its_root(published: Path) -> None:
    ingest(IngestConfig(dataset="other", root=str(published)))
    (shard_id,) = (row.shard_id for row in find_shards(open_store(), dataset="web", subject="a.tar"))
    shutil.copy(published / "b.tar", published / "a.tar")
    report = reread(change(str(shard_id), "repaired"))
    (now,) = find_shards(open_store(), dataset="web", subject="a.tar")
    assert (report.dataset, report.shard_id, report.n_locations) == ("web", now.shard_id, 40)
    assert now.shard_id != shard_id
    assert ask("SELECT subject, after ->> 'reason' FROM alchemist.audit_events WHERE action = 'reread'") == [
        ("shard web/a.tar", "repaired")
    ]


def test_a_shard_that_is_read_again_keeps_the_scores_of_its_json(published: Path) -> None:
    record = [("1.png", draw_image(1)), ("1.txt", b"a picture"), ("1.json", b'{"similarity": 0.25}')]
    (published / "a.tar").write_bytes(make_tar(record))
    assert reread(change("a.tar", "repaired")).n_new_pairs == 1
    assert ask("SELECT imported FROM alchemist.heuristic_scores WHERE imported <> '{}'") == [({"similarity": 0.25},)]


def test_a_shard_that_holds_what_was_registered_is_only_confirmed(published: Path) -> None:
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.shards SET state = 'missing', state_reason = 'x' WHERE uri = 'a.tar'")
        )
    assert reread(change("a.tar")).note == "Its bytes and records are those that were registered."
    assert show(ShowConfig(shard="a.tar")).state == "verified"
    assert ask("SELECT count(*) FROM alchemist.shards WHERE uri = 'a.tar'") == [(1,)]


def test_a_shard_that_was_registered_with_a_wrong_size_is_whole_after_it_is_read_again(
    database_url: str, root: Path
) -> None:
    ingest(IngestConfig(dataset="web", root=str(root)))
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET size_bytes = size_bytes + 10240 WHERE uri = 'a.tar'"))
    with pytest.raises(DataError, match=r"a\.tar: replaced under the same address"):
        ingest(IngestConfig(dataset="web"))
    assert reread(change("a.tar")).note == "Its bytes and records are those that were registered."
    assert ingest(IngestConfig(dataset="web")).n_known == 2


@pytest.fixture
def repairable(database_url: str, tmp_path: Path) -> Path:
    """The folder of a shard of two records; the second has a caption in a legacy encoding."""
    (tmp_path / "crawl").mkdir()
    odd = [("b.png", draw_image(2)), ("b.txt", "Un café crème".encode("latin-1"))]
    (tmp_path / "crawl" / "a.tar").write_bytes(make_tar([*make_record("a", 1), *odd]))
    return tmp_path / "crawl"


def test_the_same_bytes_are_registered_again_if_their_records_are_read_differently_now(repairable: Path) -> None:
    assert ingest(IngestConfig(dataset="web", root=str(repairable), repair=False)).n_quarantined == 1
    report = reread(change("a.tar", "repairs are on again"))
    assert (report.n_locations, report.n_new_pairs, report.n_quarantined, report.note) == (2, 1, 0, None)
    assert ask("SELECT state, n_repaired FROM alchemist.shards ORDER BY shard_id") == [
        ("superseded", 0),
        ("verified", 1),
    ]
    assert ask("SELECT key FROM alchemist.live_locations ORDER BY key") == [("a",), ("b",)]
    assert reread(change("a.tar")).note == "Its bytes and records are those that were registered."


def test_rows_of_a_shard_that_were_lost_come_back_by_reading_it_again(repairable: Path) -> None:
    ingest(IngestConfig(dataset="web", root=str(repairable)))
    with open_store().begin() as connection:
        connection.execute(text("DELETE FROM alchemist.sample_locations WHERE key = 'a'"))
    report = reread(change("a.tar", "rows were lost"))
    assert (report.n_locations, report.n_new_pairs) == (2, 0)
    assert ask("SELECT key FROM alchemist.live_locations ORDER BY key") == [("a",), ("b",)]


@pytest.mark.slow
def test_a_record_on_which_two_workers_died_is_read_when_there_is_more_memory(
    repairable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", "1")
    load_settings.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(reading, "ReadShardTask", DeadlyRecordTask)
        assert ingest(IngestConfig(dataset="web", root=str(repairable))).quarantined == {"decoder_died": 1}
    report = reread(change("a.tar", "more memory"))
    assert (report.n_locations, report.n_new_pairs, report.n_quarantined) == (2, 1, 0)


def test_a_retired_shard_comes_back_by_being_read_again(published: Path) -> None:
    retire(change("a.tar"))
    assert reread(change("a.tar", "it was right after all")).n_locations == 40
    score(ScoreConfig(dataset="web"))
    publish_night(PublishNightConfig(dataset="web"))
    assert snapshot().n_eligible == 80


def test_shards_that_need_attention_are_listed_with_their_reasons(
    database_url: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "c.tar").write_bytes(b"no tar at all" * 100)
    (root / "d.tar").write_bytes((root / "a.tar").read_bytes()[:30_000])
    ingest(IngestConfig(dataset="web", root=str(root)))
    report = list_(ListConfig())
    assert report.counts == {"growing": 1, "rejected": 1, "verified": 2}
    assert [(shard.uri, shard.state) for shard in report.shards] == [("c.tar", "rejected"), ("d.tar", "growing")]
    assert "30,000 bytes, incomplete" in report.summary()
    assert [shard.uri for shard in list_(ListConfig(state="verified")).shards] == ["a.tar", "b.tar"]


def test_a_shard_that_is_unknown_is_refused_and_one_of_two_is_named(database_url: str, root: Path) -> None:
    for name in ("web", "other"):
        ingest(IngestConfig(dataset=name, root=str(root)))
    load_settings.cache_clear()
    with pytest.raises(ConfigError, match=r"No shard 'x\.tar' is registered"):
        retire(change("x.tar"))
    with pytest.raises(ConfigError, match=r"'a\.tar' matches 2 shards: \d+ of other, \d+ of web"):
        show(ShowConfig(shard="a.tar"))
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'x' WHERE name = 'other'")
        )
    assert show(ShowConfig(shard=f"{root}/a.tar")).dataset == "web"


@pytest.mark.parametrize("n_unreadable", [0, 1])
def test_a_sample_that_two_scores_of_a_scorer_lack_is_shown_once_with_the_command_that_scores_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_unreadable: int
) -> None:
    (tmp_path / "picky_scorer.py").write_text(PICKY)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "crawl").mkdir()
    entries = [(f"{n}.png", draw_image(n)) for n in range(5)] + [
        (f"{n}.txt", f"caption {n}".encode()) for n in range(5)
    ]
    broken = [("9.png", b"no image"), ("9.txt", b"a caption")][: 2 * n_unreadable]
    (tmp_path / "crawl" / "a.tar").write_bytes(make_tar(sorted([*entries, *broken])))
    ingest(IngestConfig(dataset="web", root=str(tmp_path / "crawl")))
    register_scorer(RegisterConfig(name="picky", use="picky_scorer:Picky"))
    score(ScoreConfig(dataset="web", scorer="picky"))
    shown = show(ShowConfig(shard="a.tar"))
    assert (shown.n_quarantined, shown.n_unreadable) == (3 + n_unreadable, n_unreadable)
    assert [line.partition(",")[0] for line in shown.quarantined_records[:3]] == [
        f"{n}: refused_by_scorer (score by picky_letters)" for n in range(3)
    ]
    assert len(shown.quarantined_records) == 3 + n_unreadable
    said = COMMANDS["show"].next_step(ShowConfig(shard="a.tar"), shown)
    retry = "alchemist sample retry-quarantine --dataset web --rater picky_letters --reason refused_by_scorer"
    assert ("shard reread" in said, retry in said) == (n_unreadable > 0, n_unreadable == 0)
    # An image that was taken down is scored by no rater; the sample after it is named then.
    for where, is_advised in (("key = '0'", True), ("true", False)):
        with open_store().begin() as connection:
            connection.execute(
                text(
                    f"UPDATE alchemist.quarantined_samples SET reason = 'taken_down' WHERE stage = 'score' AND {where}"
                )
            )
        shown = show(ShowConfig(shard="a.tar"))
        assert shown.quarantined_records[0].startswith("0: taken_down (score by picky_letters), ")
        said = COMMANDS["show"].next_step(ShowConfig(shard="a.tar"), shown) or ""
        assert ("retry-quarantine" in said, shown.retry_options is not None) == (
            is_advised and n_unreadable == 0,
            is_advised,
        )


def test_shards_of_a_removed_dataset_are_neither_listed_nor_read_again(repairable: Path) -> None:
    ingest(IngestConfig(dataset="web", root=str(repairable)))
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.shards SET state = 'missing', state_reason = 'x'"))
        connection.execute(text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'sold'"))
    # If it were read, the error would be another one.
    (repairable / "a.tar").unlink()
    report = list_(ListConfig())
    assert (report.counts, report.shards) == ({}, [])
    with pytest.raises(ConfigError, match="Dataset 'web' was removed"):
        reread(change("a.tar"))


def test_a_shard_that_is_read_again_imports_the_scores_that_its_ingest_named(repairable: Path) -> None:
    ingest(IngestConfig(dataset="web", root=str(repairable), imported_scores=("watermark",)))
    for number, value in ((5, b"0.25"), (6, b"0.5")):
        json = b'{"watermark": ' + value + b', "similarity": 1}'
        record = [("1.png", draw_image(number)), ("1.txt", b"a picture"), ("1.json", json)]
        (repairable / "a.tar").write_bytes(make_tar(record))
        assert reread(change("a.tar", "repaired")).n_new_pairs == 1
    found = ask("SELECT imported FROM alchemist.heuristic_scores WHERE imported <> '{}' ORDER BY sample_id")
    assert found == [({"watermark": 0.25},), ({"watermark": 0.5},)]
