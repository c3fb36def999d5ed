"""Rater versions, and each crawl date's revisions under them."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.raters (
        rater_id integer GENERATED ALWAYS AS IDENTITY,
        name varchar NOT NULL,
        rule varchar NOT NULL,
        config jsonb NOT NULL,
        identity_hash varchar NOT NULL,
        checkpoint_uri varchar NOT NULL,
        checkpoint_sha256 bytea NOT NULL,
        certificate jsonb DEFAULT '{}' NOT NULL,
        state varchar DEFAULT 'candidate' NOT NULL,
        is_shadow boolean DEFAULT false NOT NULL,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        promoted_at timestamptz,
        retired_at timestamptz,
        CONSTRAINT pk_raters PRIMARY KEY (rater_id),
        CONSTRAINT ck_raters_state CHECK (state IN ('candidate', 'production', 'retired')),
        CONSTRAINT ck_raters_rule CHECK (rule IN ('alignment', 'loss')),
        CONSTRAINT ck_raters_sha256_bytes CHECK (octet_length(checkpoint_sha256) = 32),
        CONSTRAINT uq_raters_name UNIQUE (name),
        CONSTRAINT uq_raters_identity_hash UNIQUE (identity_hash)
    );
    CREATE UNIQUE INDEX uq_raters_one_production ON alchemist.raters (state) WHERE state = 'production';
    CREATE TABLE alchemist.nights (
        night_id integer GENERATED ALWAYS AS IDENTITY,
        dataset_id integer NOT NULL,
        crawl_date date NOT NULL,
        rater_id integer NOT NULL,
        revision integer NOT NULL,
        state varchar DEFAULT 'scored' NOT NULL,
        reason varchar,
        decided_by varchar,
        decided_at timestamptz,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_nights PRIMARY KEY (night_id),
        CONSTRAINT uq_nights_dataset_id_crawl_date_rater_id_revision UNIQUE (dataset_id, crawl_date, rater_id, revision),
        CONSTRAINT ck_nights_state CHECK (state IN ('scored', 'selectable', 'held', 'released')),
        CONSTRAINT ck_nights_decided CHECK ((state = 'scored') = (decided_at IS NULL)),
        CONSTRAINT ck_nights_held_has_reason CHECK (state <> 'held' OR reason IS NOT NULL),
        CONSTRAINT fk_nights_dataset_id FOREIGN KEY (dataset_id) REFERENCES alchemist.datasets (dataset_id),
        CONSTRAINT fk_nights_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id)
    );
    CREATE UNIQUE INDEX uq_nights_one_open ON alchemist.nights (dataset_id, crawl_date, rater_id) WHERE state = 'scored';
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.nights;
    DROP TABLE alchemist.raters;
    """)
