"""A corpus of any size, made inside the database: shards, samples, locations, scores and ledger rows as after a finished night.

Only the timed part runs the platform's own code; making 30 million samples with it would take an hour.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

SHARD_PAIRS = 1_000  # of the corpus; 30 million samples are 30,000 ledger rows
SHARDS_A_DATE = 30
FIRST_DATE = "2020-01-01"

SOURCES = """
INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('pool', '/pool', 'train'), ('tonight', '/tonight', 'train');
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256, state)
SELECT 'r', 'loss', '{}', 'r', '', sha256('r'), 'production';
SELECT alchemist.add_partition('scores', 1);
"""
SHARDS = """
INSERT INTO alchemist.shards (dataset_id, uri, sha256, size_bytes, n_samples, crawl_date, state)
SELECT CAST(:dataset_id AS integer), CAST(:prefix AS text) || i || '.tar', sha256('s'), 1, CAST(:n_pairs AS integer),
    CAST(:first_date AS date) + CAST(i / :shards_a_date AS integer), 'verified'
FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS i RETURNING shard_id
"""
# `numbers` is the samples of a block of shards: sample i is in shard first_shard + i / n_pairs.
SAMPLES = """
INSERT INTO alchemist.samples (image_hash, caption_hash, pair_hash, caption, width, height, format)
SELECT hash, hash, hash, 'a photograph of the thing with number ' || i, 512, 512, 'JPEG'
FROM (
    SELECT i, sha256(CAST(:prefix || i AS bytea)) AS hash
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i
) AS numbers
"""
LOCATIONS = """
INSERT INTO alchemist.sample_locations (shard_id, ordinal, sample_id, key, file_exts, file_offsets, file_sizes)
SELECT :first_shard + i / :n_pairs, i % :n_pairs, :first_sample + i, lpad(CAST(i AS text), 9, '0'), '{jpg,txt}', '{512,40448}', '{39000,60}'
FROM generate_series(0, CAST(:n AS bigint) - 1) AS i
"""
SCORES = """
INSERT INTO alchemist.scores (rater_id, sample_id, score)
SELECT 1, i, sqrt(-2 * ln(1 - random())) * cos(6.283185307 * random())
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i
"""
LEDGER = """
WITH opened AS (
    INSERT INTO alchemist.nights (dataset_id, crawl_date, rater_id, revision, state, decided_by, decided_at)
    SELECT DISTINCT dataset_id, crawl_date, 1, 1, 'selectable', 'benchmark', now()
    FROM alchemist.shards WHERE shard_id BETWEEN :first_shard AND :last_shard
    ON CONFLICT (dataset_id, crawl_date, rater_id, revision) DO UPDATE SET state = 'selectable'
    RETURNING night_id, dataset_id, crawl_date
)
INSERT INTO alchemist.shard_scores (
    rater_id, shard_id, night_id, n_samples, n_scored, n_reused, n_quarantined, code_version, device, dtype, run_id
)
SELECT 1, shard_id, night_id, n_samples, n_samples, 0, 0, '1', 'cpu', 'float32', 1
FROM alchemist.shards INNER JOIN opened USING (dataset_id, crawl_date)
WHERE shard_id BETWEEN :first_shard AND :last_shard
"""
SCALE = """
INSERT INTO alchemist.rank_scales (rater_id, knot_scores, knot_ranks, n_reference)
SELECT 1, array_agg(score ORDER BY score), array_agg(1 - (number - 1) / 65535.0 ORDER BY score), 65536
FROM (
    SELECT DISTINCT ON (score) CAST(score AS float8) AS score, row_number() OVER (ORDER BY score) AS number
    FROM (SELECT DISTINCT score FROM alchemist.scores WHERE sample_id % :step = 0 LIMIT 65536) AS drawn
) AS numbered
"""
# Indexes are built once per block instead of row by row; rows of a night always maintain them.
SECONDARY = {
    "uq_samples_pair_hash": "ALTER TABLE alchemist.samples ADD CONSTRAINT uq_samples_pair_hash UNIQUE (pair_hash)",
    "ix_samples_image_hash": "CREATE INDEX ix_samples_image_hash ON alchemist.samples (image_hash)",
    "ix_sample_locations_sample_id": "CREATE INDEX ix_sample_locations_sample_id ON alchemist.sample_locations (sample_id)",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Shards that were added together."""

    first_shard: int
    n_shards: int
    first_sample: int
    n_samples: int


class Pool:
    """The store of the benchmark, and its number of samples."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.n, self._n_shards = engine, 0, 0
        with engine.begin() as connection:
            connection.execute(text(SOURCES))

    def grow(self, n: int) -> None:
        """Grow the corpus to n scored samples, with all rows that finished nights have."""
        if n <= self.n:
            return
        with self.engine.begin() as connection:
            connection.execute(
                text("SET LOCAL session_replication_role = replica")
            )  # foreign keys hold by construction
            for name in SECONDARY:
                kind = "ALTER TABLE alchemist.samples DROP CONSTRAINT" if name.startswith("uq") else "DROP INDEX"
                connection.execute(text(f"{kind} {name if name.startswith('uq') else f'alchemist.{name}'}"))
            block = self._add(connection, "pool", n - self.n, n_pairs=SHARD_PAIRS)
            self._score(connection, block)
            for statement in SECONDARY.values():
                connection.execute(text(statement))
        self.n = n
        self.settle()

    def grow_scores(self, n: int) -> None:
        """Bring scores and ledger alone to n: what the questions about 30 million scores read."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            last = connection.execute(text("SELECT max(sample_id) FROM alchemist.scores")).scalar_one()
            n_more = n - self.n
            first_shard = self._add_shards(connection, "pool", n_more // SHARD_PAIRS, n_pairs=SHARD_PAIRS)
            self._score(connection, Block(first_shard, n_more // SHARD_PAIRS, last + 1, n_more))
        self.n = n
        self.settle()

    def begin_date(self) -> None:
        """Let the next shard be the first of its crawl date."""
        self._n_shards += -self._n_shards % SHARDS_A_DATE

    def add_night(self, n_shards: int, *, n_pairs: int) -> Block:
        """Insert a night's shards and samples as ingest does; none of them is scored."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            block = self._add(connection, "tonight", n_shards * n_pairs, n_pairs=n_pairs)
        self.settle()
        return block

    def add_scored_night(self, n: int) -> None:
        """Insert a night of the corpus and its scores, as a nightly run does, without dropping an index."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            self._score(connection, self._add(connection, "pool", n, n_pairs=SHARD_PAIRS))
        self.n += n
        self.settle()

    def freeze_scale(self) -> None:
        """Fit a rank scale with as many knots as one may have."""
        with self.engine.begin() as connection:
            connection.execute(text(SCALE), {"step": max(1, self.n // 100_000)})

    def settle(self) -> None:
        """Leave nothing to autovacuum and the checkpointer that would be charged to what is timed next."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
            connection.execute(text("CHECKPOINT"))

    def _add(self, connection: Connection, dataset: str, n: int, *, n_pairs: int) -> Block:
        first_shard = self._add_shards(connection, dataset, n // n_pairs, n_pairs=n_pairs)
        last = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()
        # Scores may already have ids without a sample row, so a new sample gets an unused id.
        known = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.scores")).scalar_one()
        start = max(last, known)
        connection.execute(text("SELECT setval('alchemist.samples_sample_id_seq', :last)"), {"last": max(start, 1)})
        first_sample = start + 1 if start else 2
        connection.execute(
            text(SAMPLES), {"prefix": f"{dataset} ", "first": first_sample, "last": first_sample + n - 1}
        )
        place = {"first_shard": first_shard, "n_pairs": n_pairs, "first_sample": first_sample, "n": n}
        connection.execute(text(LOCATIONS), place)
        return Block(first_shard, n // n_pairs, first_sample, n)

    def _add_shards(self, connection: Connection, dataset: str, n_shards: int, *, n_pairs: int) -> int:
        where = {
            "dataset_id": 1 if dataset == "pool" else 2, "prefix": f"{dataset}/", "n_pairs": n_pairs, "first_date": FIRST_DATE,
            "shards_a_date": SHARDS_A_DATE, "first": self._n_shards, "last": self._n_shards + n_shards - 1,
        }  # fmt: skip
        self._n_shards += n_shards
        return min(connection.execute(text(SHARDS), where).scalars())

    def _score(self, connection: Connection, block: Block) -> None:
        connection.execute(
            text(SCORES), {"first": block.first_sample, "last": block.first_sample + block.n_samples - 1}
        )
        shards = {"first_shard": block.first_shard, "last_shard": block.first_shard + block.n_shards - 1}
        connection.execute(text(LEDGER), shards)
