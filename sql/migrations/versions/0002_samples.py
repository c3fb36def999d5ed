"""Pairs, where their bytes lie, and the scores that need no rater."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.samples (
        sample_id bigint GENERATED ALWAYS AS IDENTITY,
        image_hash bytea NOT NULL,
        caption_hash bytea NOT NULL,
        pair_hash bytea NOT NULL,
        pair_hash64 bigint
            GENERATED ALWAYS AS (('x' || encode(substring(pair_hash FROM 1 FOR 8), 'hex'))::bit(64)::bigint) STORED NOT NULL,
        caption varchar NOT NULL,
        width integer NOT NULL,
        height integer NOT NULL,
        format varchar NOT NULL,
        perceptual_hash bigint,
        source_url varchar,
        licence varchar,
        metadata jsonb DEFAULT '{}' NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_samples PRIMARY KEY (sample_id),
        CONSTRAINT ck_samples_hash_bytes CHECK (octet_length(image_hash) = 32 AND octet_length(caption_hash) = 32
            AND octet_length(pair_hash) = 32),
        CONSTRAINT ck_samples_size CHECK (width > 0 AND height > 0),
        CONSTRAINT uq_samples_pair_hash UNIQUE (pair_hash)
    );
    CREATE INDEX ix_samples_image_hash ON alchemist.samples (image_hash);
    CREATE TABLE alchemist.sample_locations (
        shard_id bigint NOT NULL,
        ordinal integer NOT NULL,
        sample_id bigint NOT NULL,
        key varchar NOT NULL,
        member_exts varchar[] NOT NULL,
        member_offsets bigint[] NOT NULL,
        member_sizes bigint[] NOT NULL,
        CONSTRAINT pk_sample_locations PRIMARY KEY (shard_id, ordinal),
        CONSTRAINT uq_sample_locations_shard_id_key UNIQUE (shard_id, key),
        CONSTRAINT ck_sample_locations_members CHECK (cardinality(member_exts) = cardinality(member_offsets)
            AND cardinality(member_exts) = cardinality(member_sizes)),
        CONSTRAINT fk_sample_locations_shard_id FOREIGN KEY (shard_id) REFERENCES alchemist.shards (shard_id),
        CONSTRAINT fk_sample_locations_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id)
    );
    CREATE INDEX ix_sample_locations_sample_id ON alchemist.sample_locations (sample_id);
    CREATE TABLE alchemist.heuristic_scores (
        sample_id bigint NOT NULL,
        aesthetic real,
        clarity real,
        frequency real,
        edge_density real,
        imported jsonb DEFAULT '{}' NOT NULL,
        CONSTRAINT pk_heuristic_scores PRIMARY KEY (sample_id),
        CONSTRAINT fk_heuristic_scores_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id)
    );
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.heuristic_scores;
    DROP TABLE alchemist.sample_locations;
    DROP TABLE alchemist.samples;
    """)
