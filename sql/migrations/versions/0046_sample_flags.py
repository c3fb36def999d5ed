"""Flags that people set on samples: append-only, so that a selection can read them as they were."""

from alembic import op

revision = "0046"
down_revision = "0045"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.sample_flags (
        flag_id bigint GENERATED ALWAYS AS IDENTITY,
        sample_id bigint NOT NULL,
        label varchar NOT NULL,
        is_set boolean NOT NULL,
        comment varchar,
        flagged_by varchar NOT NULL,
        flagged_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_sample_flags PRIMARY KEY (flag_id),
        CONSTRAINT ck_sample_flags_label CHECK (label ~ '^[a-z][a-z0-9_]{0,39}$'),
        CONSTRAINT ck_sample_flags_comment CHECK (length(comment) <= 2000),
        CONSTRAINT fk_sample_flags_sample_id FOREIGN KEY (sample_id) REFERENCES alchemist.samples (sample_id)
    );
    CREATE INDEX ix_sample_flags_label_sample_id_flag_id ON alchemist.sample_flags (label, sample_id, flag_id);
    CREATE INDEX ix_sample_flags_sample_id ON alchemist.sample_flags (sample_id);
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON alchemist.sample_flags
    FOR EACH STATEMENT EXECUTE FUNCTION alchemist.refuse_change();
    COMMENT ON FUNCTION alchemist.refuse_change() IS 'Trigger function that refuses every change of a row of audit_events or sample_flags';
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.sample_flags;
    COMMENT ON FUNCTION alchemist.refuse_change() IS 'Trigger function that refuses every change of a row of audit_events';
    """)
