"""The ledger, the scores (partitioned by rater) and their shape night by night."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.shard_scores (
        rater_id integer NOT NULL,
        shard_id bigint NOT NULL,
        night_id integer NOT NULL,
        n_samples integer NOT NULL,
        n_scored integer NOT NULL,
        n_reused integer NOT NULL,
        n_quarantined integer NOT NULL,
        code_version varchar NOT NULL,
        device varchar NOT NULL,
        dtype varchar NOT NULL,
        run_id bigint NOT NULL,
        scored_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_shard_scores PRIMARY KEY (rater_id, shard_id),
        CONSTRAINT ck_shard_scores_accounting CHECK (n_samples = n_scored + n_quarantined),
        CONSTRAINT ck_shard_scores_counts CHECK (n_reused BETWEEN 0 AND n_scored AND n_quarantined >= 0),
        CONSTRAINT fk_shard_scores_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id),
        CONSTRAINT fk_shard_scores_shard_id FOREIGN KEY (shard_id) REFERENCES alchemist.shards (shard_id),
        CONSTRAINT fk_shard_scores_night_id FOREIGN KEY (night_id) REFERENCES alchemist.nights (night_id)
    );
    CREATE INDEX ix_shard_scores_night_id ON alchemist.shard_scores (night_id);
    CREATE TABLE alchemist.scores (
        rater_id integer NOT NULL,
        score real NOT NULL,
        sample_id bigint NOT NULL,
        CONSTRAINT pk_scores PRIMARY KEY (rater_id, sample_id),
        CONSTRAINT ck_scores_finite CHECK (score > '-Infinity'::real AND score < 'Infinity'::real)
    ) PARTITION BY LIST (rater_id);
    CREATE TABLE alchemist.score_distributions (
        night_id integer NOT NULL,
        n integer NOT NULL,
        quantiles double precision[] NOT NULL,
        histogram jsonb NOT NULL,
        psi double precision,
        ks_distance double precision,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_score_distributions PRIMARY KEY (night_id),
        CONSTRAINT fk_score_distributions_night_id FOREIGN KEY (night_id) REFERENCES alchemist.nights (night_id)
    );
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.score_distributions;
    DROP TABLE alchemist.scores;
    DROP TABLE alchemist.shard_scores;
    """)
