"""What came in: sources of shards, and their tars."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.datasets (
        dataset_id integer GENERATED ALWAYS AS IDENTITY,
        name varchar NOT NULL,
        root_uri varchar NOT NULL,
        role varchar NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_datasets PRIMARY KEY (dataset_id),
        CONSTRAINT ck_datasets_role CHECK (role IN ('train', 'validation', 'evaluation')),
        CONSTRAINT uq_datasets_name UNIQUE (name)
    );
    CREATE TABLE alchemist.shards (
        shard_id bigint GENERATED ALWAYS AS IDENTITY,
        dataset_id integer NOT NULL,
        uri varchar NOT NULL,
        sha256 bytea NOT NULL,
        size_bytes bigint NOT NULL,
        n_samples integer DEFAULT 0 NOT NULL,
        crawl_date date NOT NULL,
        state varchar DEFAULT 'registered' NOT NULL,
        rejected_reason varchar,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        verified_at timestamptz,
        CONSTRAINT pk_shards PRIMARY KEY (shard_id),
        CONSTRAINT uq_shards_dataset_id_uri UNIQUE (dataset_id, uri),
        CONSTRAINT ck_shards_state CHECK (state IN ('registered', 'verified', 'retired', 'rejected')),
        CONSTRAINT ck_shards_sha256_bytes CHECK (octet_length(sha256) = 32),
        CONSTRAINT ck_shards_counts CHECK (size_bytes >= 0 AND n_samples >= 0),
        CONSTRAINT ck_shards_rejected_has_reason CHECK ((state = 'rejected') = (rejected_reason IS NOT NULL)),
        CONSTRAINT fk_shards_dataset_id FOREIGN KEY (dataset_id) REFERENCES alchemist.datasets (dataset_id)
    );
    CREATE INDEX ix_shards_dataset_id_crawl_date ON alchemist.shards (dataset_id, crawl_date);
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.shards;
    DROP TABLE alchemist.datasets;
    """)
