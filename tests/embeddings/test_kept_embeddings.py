"""Embeddings are kept with the scores: each once, whatever is killed, retried or taken down."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from alchemist_core.cli import db
from alchemist_core.cli.export import ExportEmbeddingsConfig
from alchemist_core.cli.export import embeddings as export_embeddings
from alchemist_core.cli.maintain import MaintainConfig, takedowns
from alchemist_core.cli.sample import RetryQuarantineConfig, retry_quarantine
from alchemist_core.cli.scorer import RegisterConfig, register_scorer
from alchemist_core.embeddings.files import list_on_disk
from alchemist_core.embeddings.reading import Embeddings, open_embeddings
from alchemist_core.embeddings.upkeep import remove_orphans
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.scorers.vlm import ANSWERS, Answer, AnswerFile
from alchemist_core.settings import load_settings
from alchemist_core.stages.score import ScoreConfig, run
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import take_down
from tests.trained_store import TrainedStore, use_store

pytestmark = [pytest.mark.db, pytest.mark.e2e]

SCORERS = '''
import os
import numpy as np
from alchemist_core.scorers import Batch, Scorer

class Colours(Scorer):
    """Embeds an image as its mean colour; two outputs."""
    image_side, outputs = 16, ("red", "green")

    def score(self, batch):
        return self.embed(batch)[:, :2]

    def embed(self, batch):
        return batch.image_BHWC.mean((1, 2), dtype=np.float32)

class Picky(Colours):
    """Refuses samples whose caption has an odd length, and fails on some that are longer than 30."""
    def score(self, batch):
        score = super().score(batch)
        for at, text in enumerate(batch.captions):
            if len(text) % 2 and not os.environ.get("IS_WELL"):
                score[at], batch.faults[at] = np.nan, "odd"
        return score

class Raising(Colours):
    """Fails on a batch with a caption of an odd length."""
    def score(self, batch):
        if any(len(text) % 2 for text in batch.captions):
            raise ValueError("odd")
        return super().score(batch)

class Huge(Colours):
    """Embeddings of some samples do not fit into fp16, others are NaN."""
    def score(self, batch):
        return Colours.embed(self, batch)[:, :2]

    def embed(self, batch):
        found = super().embed(batch)
        found[::4, 0], found[1::4, 1] = 1e6, np.nan
        return found
'''
KILL = """
import os, signal
from alchemist_core.store import ledger
from alchemist_core.stages.score import ScoreConfig, run

real, n = ledger.insert_file, 0
def insert_file(*args):
    global n
    n += 1
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
ledger.insert_file = insert_file
run(ScoreConfig(scorer="colours"))
"""


@pytest.fixture
def corpus_store(
    database_url: str, ingest_corpus: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The ingested corpus, of 6 shards with 40 samples each, and a module of scorers."""
    (tmp_path / "embedding_scorers.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    ingest_corpus()
    return tmp_path


@pytest.fixture
def restored(
    make_database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """restored(folder): restore a backup into another database and home, and use them."""

    def restore(folder: Path) -> None:
        use_store(monkeypatch, TrainedStore(make_database(template=None), tmp_path / "restored"))
        db.restore(db.RestoreConfig(folder=folder))

    return restore


def score(kind: str, name: str | None = None, **fields: object) -> None:
    name = name or kind.lower()
    register_scorer(
        RegisterConfig(name=name, use=f"embedding_scorers:{kind}", keep_embeddings=fields.pop("keep", None))
    )
    run(ScoreConfig(scorer=name, **fields))


def ask(query: str) -> object:
    with open_store().connect() as connection:
        return connection.execute(text(query)).scalar()


def all_of(embeddings: Embeddings) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for block in embeddings.blocks(should_verify=True, n_rows=7):
        assert not set(found) & set(block.sample_id_B.tolist()), "a sample came twice"
        found |= dict(zip(block.sample_id_B.tolist(), block.embedding_BD.tolist(), strict=True))
    return found


def stored_scores(name: str) -> dict[int, float]:
    with open_store().connect() as connection:
        rows = connection.execute(
            text(
                "SELECT sample_id, score FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = :name"
            ),
            {"name": name},
        )
        return {row.sample_id: row.score for row in rows}


def test_each_scored_sample_has_one_embedding_under_the_scorers_first_output(corpus_store: Path) -> None:
    score("Colours")
    embeddings = open_embeddings(open_store(), None)
    found = all_of(embeddings)
    reds = stored_scores("colours_red")
    assert {sample_id: np.float16(red) for sample_id, red in reds.items()} == {
        sample_id: np.float16(vector[0]) for sample_id, vector in found.items()
    }
    assert (len(found), embeddings.dim) == (240, 3)
    assert ask(
        "SELECT array_agg(DISTINCT name) FROM alchemist.shard_embeddings JOIN alchemist.raters USING (rater_id)"
    ) == ["colours_red"]
    assert ask("SELECT count(*) FROM alchemist.shard_embeddings") == 6


@pytest.mark.slow
def test_samples_are_read_by_id_in_any_number_and_those_that_are_unknown_are_absent(corpus_store: Path) -> None:
    score("Colours")
    embeddings = open_embeddings(open_store(), "colours")
    found = all_of(embeddings)
    some = np.array([*sorted(found)[::-3], 10**9, -5, min(found)])
    read = embeddings.read(some)
    assert read.sample_id_B.tolist() == sorted(set(some.tolist()) & set(found))
    assert read.embedding_BD.tolist() == [found[sample_id] for sample_id in read.sample_id_B.tolist()]
    assert embeddings.read(np.array([10**9])).embedding_BD.shape == (0, 3)


@pytest.mark.slow
def test_a_kill_before_a_commit_leaves_an_orphan_and_every_embedding_comes_once(
    corpus_store: Path, database_url: str
) -> None:
    register_scorer(RegisterConfig(name="colours", use="embedding_scorers:Colours"))
    environment = {**os.environ, "PYTHONPATH": str(corpus_store)}
    done = subprocess.run([sys.executable, "-c", KILL], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    n_rows = ask("SELECT count(*) FROM alchemist.shard_embeddings")
    assert (n_rows, len(list_on_disk())) == (2, 3)
    with open_store().begin() as connection:
        # Instead of waiting for the leases of the killed process.
        connection.execute(text("UPDATE alchemist.leases SET expires_at = now() - interval '1 minute'"))
    run(ScoreConfig(scorer="colours"))
    assert len(all_of(open_embeddings(open_store(), None))) == 240
    assert remove_orphans(open_store()) == 0, "a young file may belong to a commit that is under way"
    assert remove_orphans(open_store(), min_age_s=0) == 1
    assert len(list_on_disk()) == ask("SELECT count(*) FROM alchemist.shard_embeddings") == 6
    assert len(all_of(open_embeddings(open_store(), None))) == 240


@pytest.mark.slow
def test_a_quarantined_sample_has_no_embedding_until_its_retry(
    corpus_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score("Picky")
    before = all_of(open_embeddings(open_store(), None))
    assert before.keys() == stored_scores("picky_red").keys()
    assert 0 < len(before) < 240
    monkeypatch.setenv("IS_WELL", "1")
    retry_quarantine(RetryQuarantineConfig(rater="picky_green", reason="refused_by_scorer"))
    assert all_of(open_embeddings(open_store(), None)) == before, "embeddings belong to the first output"
    retry_quarantine(RetryQuarantineConfig(rater="picky_red", reason="refused_by_scorer"))
    after = all_of(open_embeddings(open_store(), None))
    assert len(after) == 240
    assert before.items() <= after.items()


@pytest.mark.slow
def test_a_batch_whose_samples_were_tried_one_by_one_keeps_the_embeddings_of_the_good_ones(corpus_store: Path) -> None:
    score("Raising")
    found = all_of(open_embeddings(open_store(), None))
    assert found.keys() == stored_scores("raising_red").keys()
    assert 0 < len(found) < 240


@pytest.mark.slow
def test_what_is_not_finite_in_fp16_is_not_kept(corpus_store: Path) -> None:
    score("Huge")
    found = all_of(open_embeddings(open_store(), None))
    assert len(stored_scores("huge_red")) == 240
    assert len(found) == 120
    assert np.isfinite(list(found.values())).all()


@pytest.mark.slow
def test_a_scorer_that_shall_keep_none_keeps_none_and_is_not_asked(corpus_store: Path) -> None:
    score("Huge", keep=False)
    assert len(stored_scores("huge_red")) == 240
    with pytest.raises(ConfigError, match="No scorer has embeddings"):
        open_embeddings(open_store(), None)
    score("Colours", crawl_date="2026-01-01")
    score("Colours", keep=False)
    assert len(all_of(open_embeddings(open_store(), "colours"))) == 120
    with pytest.raises(ConfigError, match=r"Scorer 'huge' has no embeddings \(with embeddings: colours\)"):
        open_embeddings(open_store(), "huge")


def test_a_taken_down_sample_is_returned_by_nothing_and_maintenance_removes_it_from_its_file(
    corpus_store: Path, tmp_path: Path
) -> None:
    score("Colours")
    before = all_of(open_embeddings(open_store(), None))
    gone, image_hash = (
        ask("SELECT min(sample_id) FROM alchemist.scores"),
        ask("SELECT image_hash FROM alchemist.samples WHERE sample_id = (SELECT min(sample_id) FROM alchemist.scores)"),
    )
    take_down(open_store(), [bytes(image_hash)], "asked", actor="ann")
    kept = {sample_id: vector for sample_id, vector in before.items() if sample_id != gone}
    embeddings = open_embeddings(open_store(), None)
    assert all_of(embeddings) == kept
    assert not len(embeddings.read(np.array([gone])).sample_id_B)
    result = export_embeddings(ExportEmbeddingsConfig(out=tmp_path / "x.parquet"))
    table = pq.read_table(tmp_path / "x.parquet")
    assert (result.n_rows, table.column_names) == (239, ["sample_id", "embedding"])
    assert dict(zip(table["sample_id"].to_pylist(), table["embedding"].to_pylist(), strict=True)) == kept
    assert takedowns(MaintainConfig()).note == "Removed 1 embedding."
    assert takedowns(MaintainConfig()).note is None
    again = Embeddings(open_store(), embeddings.rater_id)
    assert len(again) == 239
    assert all_of(again) == kept
    assert remove_orphans(open_store(), min_age_s=0) == 0


def take_down_and_maintain(sample_id: object) -> None:
    image_hash = ask(f"SELECT image_hash FROM alchemist.samples WHERE sample_id = {sample_id}")
    take_down(open_store(), [bytes(image_hash)], "asked", actor="ann")
    takedowns(MaintainConfig())


def test_a_takedown_after_the_dump_takes_no_embeddings_from_a_backup(
    corpus_store: Path, restored: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score("Colours")
    before, dump = all_of(open_embeddings(open_store(), None)), db._run

    def dump_then_take_down(*arguments: str) -> None:
        dump(*arguments)
        take_down_and_maintain(min(before))

    monkeypatch.setattr(db, "_run", dump_then_take_down)
    db.backup(db.BackupConfig(folder=tmp_path / "monday"))
    monkeypatch.setattr(db, "_run", dump)
    assert min(before) not in all_of(open_embeddings(open_store(), None))
    restored(tmp_path / "monday")
    assert all_of(open_embeddings(open_store(), None)) == before


def test_a_backup_takes_a_later_snapshot_if_a_takedown_deletes_embeddings_before_they_are_copied(
    corpus_store: Path, restored: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two files that the takedown deletes, one was there before the backup, and one is as new as its snapshot."""
    score("Colours", crawl_date="2026-01-01")
    export, snapshots = db.export_snapshot, list[str]()

    @contextmanager
    def score_export_and_take_down(url: str) -> Iterator[str]:
        if not snapshots:
            score("Colours")
        with export(url) as pg_snapshot:
            snapshots.append(pg_snapshot)
            if len(snapshots) == 1:
                for which in ("min", "max"):
                    take_down_and_maintain(ask(f"SELECT {which}(sample_id) FROM alchemist.scores"))
            yield pg_snapshot

    monkeypatch.setattr(db, "export_snapshot", score_export_and_take_down)
    db.backup(db.BackupConfig(folder=tmp_path / "monday"))
    assert len(snapshots) == 2
    after = all_of(open_embeddings(open_store(), None))
    assert len(after) == 238
    restored(tmp_path / "monday")
    assert all_of(open_embeddings(open_store(), None)) == after
    assert len(list_on_disk()) == ask("SELECT count(*) FROM alchemist.shard_embeddings") == 6


@pytest.mark.slow
def test_a_file_that_cannot_be_read_keeps_no_takedown_from_the_other_files(corpus_store: Path) -> None:
    score("Colours")
    with open_store().connect() as connection:
        uris = list(
            connection.execute(text("SELECT uri FROM alchemist.shard_embeddings ORDER BY first_sample_id")).scalars()
        )
        hashes = connection.execute(text("SELECT DISTINCT image_hash FROM alchemist.samples")).scalars()
        take_down(open_store(), [bytes(image_hash) for image_hash in hashes], "asked", actor="ann")
    answers = AnswerFile(load_settings().home.resolve() / ANSWERS / "judge.sqlite")
    answers.keep((bytes(32), bytes(32)), Answer((1.0,)))
    image_hash = bytes(ask("SELECT min(image_hash) FROM alchemist.takedowns"))
    answers.keep((image_hash, bytes(32)), Answer((1.0,)))
    artifact_path(uris[0]).unlink()
    with pytest.raises(DataError, match=rf"{uris[0]}.* cannot be read(?s:.*)Everything else was done"):
        takedowns(MaintainConfig())
    assert ask("SELECT string_agg(uri, '') FROM alchemist.shard_embeddings") == uris[0]
    assert ask("SELECT count(*) FROM alchemist.takedowns WHERE bytes_removed_at IS NULL") == 0
    # An answer that a run stored after the takedown goes too.
    assert list(answers.find([(bytes(32), bytes(32)), (image_hash, bytes(32))])) == [(bytes(32), bytes(32))]
    answers.close()


def test_a_takedown_deletes_no_file_outside_of_the_folder_of_embeddings(corpus_store: Path) -> None:
    """A person who may change rows could name any file of embeddings, of another scorer or an export."""
    score("Colours")
    first = str(ask("SELECT uri FROM alchemist.shard_embeddings ORDER BY first_sample_id LIMIT 1"))
    mine = artifact_path("exports/mine.arrow")
    mine.parent.mkdir()
    artifact_path(first).rename(mine)
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.shard_embeddings SET uri = 'exports/mine.arrow' WHERE uri = :uri"), {"uri": first}
        )
        hashes = connection.execute(text("SELECT DISTINCT image_hash FROM alchemist.samples")).scalars().all()
    take_down(open_store(), [bytes(image_hash) for image_hash in hashes], "asked", actor="ann")
    with pytest.raises(DataError, match=r"'exports/mine\.arrow' (?s:.*)Everything else was done"):
        takedowns(MaintainConfig())
    assert mine.exists()
    assert ask("SELECT string_agg(uri, '') FROM alchemist.shard_embeddings") == "exports/mine.arrow"


@pytest.mark.slow
def test_a_file_that_changed_or_is_missing_is_refused_by_name(corpus_store: Path) -> None:
    score("Colours")
    path = artifact_path(str(ask("SELECT min(uri) FROM alchemist.shard_embeddings")))
    path.write_bytes(path.read_bytes()[:-9] + b"otherwise")
    with pytest.raises(DataError, match=rf"{path}.* is registered"):
        all_of(open_embeddings(open_store(), None))
    path.unlink()
    with pytest.raises(DataError, match=r"Restore the file from a backup"):
        open_embeddings(open_store(), None).read(np.arange(1000))


def test_an_export_needs_a_parquet_file(corpus_store: Path, tmp_path: Path) -> None:
    load_settings.cache_clear()
    with pytest.raises(ConfigError, match=r"ends in \.parquet"):
        export_embeddings(ExportEmbeddingsConfig(out=tmp_path / "x.csv"))
