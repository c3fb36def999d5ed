"""What must not be learned from: bad locations, and images that are to go."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.quarantined_samples (
        quarantine_id bigint GENERATED ALWAYS AS IDENTITY,
        shard_id bigint NOT NULL,
        ordinal integer NOT NULL,
        key varchar NOT NULL,
        reason varchar NOT NULL,
        detail varchar NOT NULL,
        stage varchar NOT NULL,
        is_transient boolean DEFAULT false NOT NULL,
        rater_id integer,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_quarantined_samples PRIMARY KEY (quarantine_id),
        CONSTRAINT uq_quarantined_samples_shard_id_ordinal_rater_id UNIQUE NULLS NOT DISTINCT (shard_id, ordinal, rater_id),
        CONSTRAINT ck_quarantined_samples_stage CHECK (stage IN ('ingest', 'score')),
        CONSTRAINT ck_quarantined_samples_rater_of_score CHECK ((stage = 'score') = (rater_id IS NOT NULL)),
        CONSTRAINT fk_quarantined_samples_shard_id FOREIGN KEY (shard_id) REFERENCES alchemist.shards (shard_id),
        CONSTRAINT fk_quarantined_samples_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id)
    );
    CREATE TABLE alchemist.takedowns (
        takedown_id integer GENERATED ALWAYS AS IDENTITY,
        image_hash bytea NOT NULL,
        reason varchar NOT NULL,
        requested_by varchar NOT NULL,
        requested_at timestamptz DEFAULT now() NOT NULL,
        bytes_removed_at timestamptz,
        CONSTRAINT pk_takedowns PRIMARY KEY (takedown_id),
        CONSTRAINT ck_takedowns_hash_bytes CHECK (octet_length(image_hash) = 32),
        CONSTRAINT uq_takedowns_image_hash UNIQUE (image_hash)
    );
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.takedowns;
    DROP TABLE alchemist.quarantined_samples;
    """)
