"""Subset versions and their members (partitioned by subset)."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.subsets (
        subset_id integer GENERATED ALWAYS AS IDENTITY,
        name varchar NOT NULL,
        version integer NOT NULL,
        snapshot_id integer NOT NULL,
        strategy varchar NOT NULL,
        retention double precision NOT NULL,
        seed bigint NOT NULL,
        spec jsonb NOT NULL,
        spec_hash varchar NOT NULL,
        n_samples bigint NOT NULL,
        manifest_sha256 varchar NOT NULL,
        manifest_uri varchar NOT NULL,
        state varchar DEFAULT 'selected' NOT NULL,
        created_by varchar NOT NULL,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        published_at timestamptz,
        materialized_at timestamptz,
        materialized_uri varchar,
        CONSTRAINT pk_subsets PRIMARY KEY (subset_id),
        CONSTRAINT uq_subsets_name_version UNIQUE (name, version),
        CONSTRAINT uq_subsets_name_spec_hash UNIQUE (name, spec_hash),
        CONSTRAINT ck_subsets_state CHECK (state IN ('selected', 'published', 'superseded')),
        CONSTRAINT ck_subsets_retention CHECK (retention > 0 AND retention <= 1),
        CONSTRAINT ck_subsets_n_samples CHECK (n_samples >= 0),
        CONSTRAINT ck_subsets_published CHECK ((state = 'selected') = (published_at IS NULL)),
        CONSTRAINT fk_subsets_snapshot_id FOREIGN KEY (snapshot_id) REFERENCES alchemist.rank_snapshots (snapshot_id)
    );
    CREATE UNIQUE INDEX uq_subsets_one_published ON alchemist.subsets (name) WHERE state = 'published';
    CREATE TABLE alchemist.subset_samples (
        subset_id integer NOT NULL,
        sample_id bigint NOT NULL,
        rank double precision NOT NULL,
        CONSTRAINT pk_subset_samples PRIMARY KEY (subset_id, sample_id)
    ) PARTITION BY LIST (subset_id);
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.subset_samples;
    DROP TABLE alchemist.subsets;
    """)
