"""What ran, and who may write what now."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("""
    CREATE SEQUENCE alchemist.fencing_tokens;
    CREATE TABLE alchemist.runs (
        run_id bigint GENERATED ALWAYS AS IDENTITY,
        stage varchar NOT NULL,
        slot integer DEFAULT 0 NOT NULL,
        config jsonb NOT NULL,
        config_hash varchar NOT NULL,
        state varchar DEFAULT 'running' NOT NULL,
        code_version varchar NOT NULL,
        host varchar NOT NULL,
        pid integer NOT NULL,
        progress jsonb DEFAULT '{}' NOT NULL,
        report jsonb,
        error varchar,
        exit_code integer,
        started_at timestamptz DEFAULT now() NOT NULL,
        heartbeat_at timestamptz DEFAULT now() NOT NULL,
        finished_at timestamptz,
        device varchar DEFAULT 'cpu' NOT NULL,
        work_seconds double precision,
        CONSTRAINT pk_runs PRIMARY KEY (run_id),
        CONSTRAINT ck_runs_state CHECK (state IN ('running', 'succeeded', 'failed', 'lost')),
        CONSTRAINT ck_runs_finished CHECK ((state = 'running') = (finished_at IS NULL))
    );
    CREATE INDEX ix_runs_stage_config_hash ON alchemist.runs (stage, config_hash);
    CREATE TABLE alchemist.leases (
        resource varchar NOT NULL,
        fencing_token bigint NOT NULL,
        run_id bigint NOT NULL,
        acquired_at timestamptz DEFAULT now() NOT NULL,
        expires_at timestamptz NOT NULL,
        CONSTRAINT pk_leases PRIMARY KEY (resource)
    );
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.leases;
    DROP TABLE alchemist.runs;
    DROP SEQUENCE alchemist.fencing_tokens;
    """)
