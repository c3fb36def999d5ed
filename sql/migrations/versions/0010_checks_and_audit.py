"""Outcomes of expectations, and who did what: append-only by trigger."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.check_results (
        check_result_id bigint GENERATED ALWAYS AS IDENTITY,
        suite varchar NOT NULL,
        expectation varchar NOT NULL,
        severity varchar NOT NULL,
        is_success boolean NOT NULL,
        observed jsonb NOT NULL,
        dataset_name varchar,
        crawl_date date,
        subset_name varchar,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_check_results PRIMARY KEY (check_result_id),
        CONSTRAINT ck_check_results_severity CHECK (severity IN ('fail', 'warn'))
    );
    CREATE INDEX ix_check_results_suite_dataset_name_crawl_date ON alchemist.check_results (suite, dataset_name, crawl_date);
    CREATE TABLE alchemist.audit_events (
        audit_event_id bigint GENERATED ALWAYS AS IDENTITY,
        actor varchar NOT NULL,
        action varchar NOT NULL,
        subject varchar NOT NULL,
        before jsonb,
        after jsonb,
        happened_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_audit_events PRIMARY KEY (audit_event_id)
    );
    CREATE FUNCTION alchemist.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%.% is append-only: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP;
    END $$;
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON alchemist.audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION alchemist.refuse_change();
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.audit_events;
    DROP TABLE alchemist.check_results;
    DROP FUNCTION alchemist.refuse_change();
    """)
