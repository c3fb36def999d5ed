"""A filled store of an earlier revision is migrated while people read: no row changes, and no reader waits too long."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from alchemist_core.errors import StoreError
from alchemist_core.store.engine import MIGRATIONS, current_revision, head_revision, make_engine, migrate

pytestmark = pytest.mark.db

EARLIER = "0011"
N_SAMPLES = 40_000
LOCK_TIMEOUT_S = 4.0
"""How long sql/migrations/env.py lets a migration wait for a lock; later queries wait behind it."""
BUSY_S = 4.0
"""How much longer a query of milliseconds may take on a busy machine."""
FILLED = """
INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/data', 'train');
INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
SELECT 1, i || '.tar', sha256('s'), 1, 1000, '2026-01-01', 'verified' FROM generate_series(1, N_SAMPLES / 1000) AS i;
INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
SELECT sha256(('i' || i)::bytea), sha256(('c' || i)::bytea), sha256(('p' || i)::bytea), 'pair ' || i, 64, 64, 'JPEG'
FROM generate_series(1, N_SAMPLES) AS i;
INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, member_exts, member_offsets, member_sizes)
SELECT 1 + (i - 1) / 1000, mod(i, 1000), i, i, '{jpg,txt}', '{512,1536}', '{9,9}' FROM generate_series(1, N_SAMPLES) AS i;
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256)
VALUES ('r', 'loss', '{}', 'r', 'r', sha256('r'));
CREATE TABLE alchemist.scores_1 PARTITION OF alchemist.scores FOR VALUES IN (1);
INSERT INTO alchemist.scores (rater_id, score, sample_id) SELECT 1, sin(i), i FROM generate_series(1, N_SAMPLES) AS i;
INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference) VALUES (1, '{0}', '{0}', 1);
INSERT INTO alchemist.rank_snapshots (rank_scale_id, dataset_names, night_ids, n_eligible, eligible_hash)
VALUES (1, '{web}', '{}', 1, 'e');
INSERT INTO alchemist.subsets (
    name, version, snapshot_id, strategy, retention, seed, spec, spec_hash, n_samples, manifest_sha256, manifest_uri, created_by,
    materialized_at, materialized_uri
) VALUES ('half', 1, 1, 'top_k', 0.5, 0, '{}', 's', 9, 'm', 'm.parquet', 'ann', now(), 'materialized/half/v1-1000');
INSERT INTO alchemist.region_probes (rater_id, drop_top_ratio, mean_rank, std_rank, gain, gain_low, gain_high, measurements) VALUES
    (1, 0, 0.5, 0.2, 0.03, 0.01, 0.05, '{"retention": 0.2, "report_seeds": []}'),
    (1, 0, 0.5, 0.2, 0.03, 0.01, 0.05, '{"retention": 0.2, "report_seeds": [3, 4]}');
"""
TABLES = (
    "datasets",
    "shards",
    "samples",
    "sample_locations",
    "raters",
    "scores",
    "rank_scales",
    "rank_snapshots",
    "subsets",
)
RENAMED = {
    "member_exts": "file_exts",
    "member_offsets": "file_offsets",
    "member_sizes": "file_sizes",
    "certificate": "acceptance_report",
}
QUESTIONS = (
    "SELECT count(*) FROM alchemist.scores WHERE score > 0.5",
    "SELECT caption FROM alchemist.samples WHERE sample_id = 777",
    "SELECT count(*) FROM alchemist.sample_locations WHERE shard_id = 3",
    "SELECT materialized_uri FROM alchemist.subsets",
)


@pytest.fixture
def earlier(make_database: Callable[..., str]) -> Iterator[Engine]:
    """A store of an earlier revision with rows in it."""
    engine = make_engine(make_database(template=None))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, EARLIER)
    with engine.begin() as connection:
        connection.exec_driver_sql(FILLED.replace("N_SAMPLES", str(N_SAMPLES)))
    yield engine
    engine.dispose()


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def read_columns(engine: Engine) -> dict[str, list[str]]:
    statement = text("""
        SELECT column_name FROM information_schema.columns WHERE table_schema = 'alchemist' AND table_name = :name ORDER BY column_name
    """)
    with engine.connect() as connection:
        return {name: list(connection.execute(statement, {"name": name}).scalars()) for name in TABLES}


def fingerprints(engine: Engine, columns: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
    """Rows and their hash, of these columns of each table."""
    found = {}
    with engine.connect() as connection:
        for name, names in columns.items():
            hashes = f"SELECT md5(ROW({', '.join(names)})::text) AS hash FROM alchemist.{name}"
            statement = f"SELECT count(*), md5(string_agg(hash, '' ORDER BY hash)) FROM ({hashes}) AS hashes"
            found[name] = tuple(connection.execute(text(statement)).one())
    return found


class Readers:
    """Sessions that run one query after another, and the duration of the longest."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._stop = engine, threading.Event()
        self.longest_s, self.n_asked = 0.0, 0
        self.refused: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(question,)) for question in QUESTIONS]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, question: str) -> None:
        while not self._stop.wait(0.01):
            began = time.monotonic()
            try:
                with self._engine.connect() as connection:
                    assert connection.execute(text(question)).first() is not None
            except Exception as error:  # noqa: BLE001  every error of a reader is a finding
                self.refused.append(f"{question}: {error}")
            self.longest_s, self.n_asked = max(self.longest_s, time.monotonic() - began), self.n_asked + 1


@contextmanager
def long_reader(engine: Engine, table: str) -> Iterator[None]:
    """A session that has read a table and stays in its transaction."""
    with engine.connect() as connection:
        connection.execute(text(f"SELECT count(*) FROM alchemist.{table}"))
        yield
        connection.rollback()


def test_a_filled_store_keeps_its_rows_and_its_readers(earlier: Engine) -> None:
    assert current_revision(url_of(earlier)) == EARLIER < head_revision()
    columns = read_columns(earlier)
    before = fingerprints(earlier, columns)
    with Readers(earlier) as readers:
        while readers.n_asked < len(QUESTIONS):
            time.sleep(0.01)
        assert migrate(url_of(earlier))
    assert readers.refused == []
    assert readers.longest_s < LOCK_TIMEOUT_S
    renamed = {table: [RENAMED.get(name, name) for name in names] for table, names in columns.items()}
    assert fingerprints(earlier, renamed) == before
    assert before["scores"][0] == before["samples"][0] == N_SAMPLES
    with earlier.connect() as connection:
        copies = connection.execute(text("SELECT all_materialized_uris FROM alchemist.subsets")).scalar_one()
    assert copies == ["materialized/half/v1-1000"], "what a migration adds is filled from what was there"


def test_a_gain_that_was_only_predicted_loses_its_interval(earlier: Engine) -> None:
    migrate(url_of(earlier))
    with earlier.connect() as connection:
        ends = text("SELECT gain_low, gain_high FROM alchemist.rank_windows ORDER BY rank_window_id")
        assert [tuple(row) for row in connection.execute(ends)] == [(-math.inf, math.inf), (0.01, 0.05)]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["sample_locations", "subsets"])
def test_a_reader_who_stays_makes_the_migration_give_up_and_not_the_others(earlier: Engine, table: str) -> None:
    columns = read_columns(earlier)
    before = fingerprints(earlier, columns)
    began = time.monotonic()
    with long_reader(earlier, table), Readers(earlier) as readers, pytest.raises(StoreError, match="lock timeout"):
        migrate(url_of(earlier))
    assert time.monotonic() - began < 60
    assert readers.refused == []
    assert readers.longest_s < LOCK_TIMEOUT_S + BUSY_S, "who came behind the migration waited no longer than it did"
    assert fingerprints(earlier, columns) == before
    assert migrate(url_of(earlier)), "once the reader is gone it goes on where it stood"
    renamed = {table: [RENAMED.get(name, name) for name in names] for table, names in columns.items()}
    assert fingerprints(earlier, renamed) == before
