"""Embeddings that scorers compute are kept: a file for each shard, whose row commits with the scores."""

from alembic import op

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.shard_embeddings (
        embedding_file_id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_shard_embeddings PRIMARY KEY,
        rater_id integer NOT NULL,
        shard_id bigint NOT NULL,
        uri varchar NOT NULL CONSTRAINT uq_shard_embeddings_uri UNIQUE,
        sha256 bytea NOT NULL CONSTRAINT ck_shard_embeddings_sha256_bytes CHECK (octet_length(sha256) = 32),
        n_samples integer NOT NULL,
        dim integer NOT NULL,
        first_sample_id bigint NOT NULL,
        last_sample_id bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_shard_embeddings_counts CHECK (n_samples > 0 AND dim > 0 AND first_sample_id <= last_sample_id),
        CONSTRAINT fk_shard_embeddings_rater_id_shard_id FOREIGN KEY (rater_id, shard_id)
            REFERENCES alchemist.shard_scores (rater_id, shard_id)
    );
    CREATE INDEX ix_shard_embeddings_rater_id_shard_id ON alchemist.shard_embeddings (rater_id, shard_id);
    """)


def downgrade() -> None:
    op.execute("DROP TABLE alchemist.shard_embeddings")
