"""What people prefer of two grids of samples without names: append-only, so that every answer counts once."""

from alembic import op

revision = "0049"
down_revision = "0048"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.blind_judgements (
        judgement_id bigint GENERATED ALWAYS AS IDENTITY,
        subset_id integer NOT NULL,
        other_subset_id integer,
        seed bigint NOT NULL,
        sample_ids bigint[] NOT NULL,
        other_sample_ids bigint[] NOT NULL,
        preferred varchar NOT NULL,
        judged_by varchar NOT NULL,
        judged_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_blind_judgements PRIMARY KEY (judgement_id),
        CONSTRAINT ck_blind_judgements_preferred CHECK (preferred IN ('subset', 'other', 'neither')),
        CONSTRAINT ck_blind_judgements_other CHECK (other_subset_id <> subset_id),
        CONSTRAINT uq_blind_judgements_subset_id_judged_by_seed UNIQUE (subset_id, judged_by, seed),
        CONSTRAINT fk_blind_judgements_subset_id FOREIGN KEY (subset_id) REFERENCES alchemist.subsets (subset_id),
        CONSTRAINT fk_blind_judgements_other_subset_id FOREIGN KEY (other_subset_id) REFERENCES alchemist.subsets (subset_id)
    );
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON alchemist.blind_judgements
    FOR EACH STATEMENT EXECUTE FUNCTION alchemist.refuse_change();
    COMMENT ON FUNCTION alchemist.refuse_change() IS
        'Trigger function that refuses every change of a row of audit_events, sample_flags or blind_judgements';
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.blind_judgements;
    COMMENT ON FUNCTION alchemist.refuse_change() IS 'Trigger function that refuses every change of a row of audit_events or sample_flags';
    """)
