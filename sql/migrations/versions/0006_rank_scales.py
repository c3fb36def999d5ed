"""Frozen scales, what may be drawn at a moment, and fitted regions."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.rank_scales (
        rank_scale_id integer GENERATED ALWAYS AS IDENTITY,
        rater_id integer NOT NULL,
        knot_scores double precision[] NOT NULL,
        knot_ranks double precision[] NOT NULL,
        n_reference bigint NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_rank_scales PRIMARY KEY (rank_scale_id),
        CONSTRAINT ck_rank_scales_knots CHECK (cardinality(knot_scores) = cardinality(knot_ranks)),
        CONSTRAINT ck_rank_scales_knot_count CHECK (cardinality(knot_scores) BETWEEN 1 AND 65536),
        CONSTRAINT fk_rank_scales_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id)
    );
    CREATE INDEX ix_rank_scales_rater_id ON alchemist.rank_scales (rater_id);
    CREATE TABLE alchemist.rank_snapshots (
        snapshot_id integer GENERATED ALWAYS AS IDENTITY,
        rank_scale_id integer NOT NULL,
        dataset_names varchar[] NOT NULL,
        night_ids integer[] NOT NULL,
        last_takedown_id integer DEFAULT 0 NOT NULL,
        n_eligible bigint NOT NULL,
        eligible_hash varchar NOT NULL,
        taken_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_rank_snapshots PRIMARY KEY (snapshot_id),
        CONSTRAINT uq_rank_snapshots_rank_scale_id_dataset_names_eligible_hash UNIQUE (rank_scale_id, dataset_names, eligible_hash),
        CONSTRAINT fk_rank_snapshots_rank_scale_id FOREIGN KEY (rank_scale_id) REFERENCES alchemist.rank_scales (rank_scale_id)
    );
    CREATE TABLE alchemist.region_probes (
        region_probe_id integer GENERATED ALWAYS AS IDENTITY,
        rater_id integer NOT NULL,
        drop_top_ratio double precision NOT NULL,
        mean_rank double precision NOT NULL,
        std_rank double precision NOT NULL,
        gain double precision NOT NULL,
        gain_low double precision NOT NULL,
        gain_high double precision NOT NULL,
        measurements jsonb NOT NULL,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_region_probes PRIMARY KEY (region_probe_id),
        CONSTRAINT fk_region_probes_rater_id FOREIGN KEY (rater_id) REFERENCES alchemist.raters (rater_id)
    );
    CREATE INDEX ix_region_probes_rater_id ON alchemist.region_probes (rater_id);
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.region_probes;
    DROP TABLE alchemist.rank_snapshots;
    DROP TABLE alchemist.rank_scales;
    """)
