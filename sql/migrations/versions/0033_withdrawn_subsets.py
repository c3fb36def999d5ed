"""A version that somebody withdrew: readers are refused it, and history keeps who did so, when and why."""

from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subsets
        ADD COLUMN withdrawn_at timestamptz,
        ADD COLUMN withdrawn_by varchar,
        ADD COLUMN withdrawn_reason varchar,
        DROP CONSTRAINT ck_subsets_state,
        DROP CONSTRAINT ck_subsets_published,
        ADD CONSTRAINT ck_subsets_state CHECK (state IN ('selected', 'published', 'superseded', 'withdrawn')),
        ADD CONSTRAINT ck_subsets_published CHECK (state = 'withdrawn' OR (state = 'selected') = (published_at IS NULL)),
        ADD CONSTRAINT ck_subsets_withdrawn CHECK (
            (state = 'withdrawn') = (withdrawn_at IS NOT NULL)
            AND (state = 'withdrawn') = (withdrawn_by IS NOT NULL)
            AND (state = 'withdrawn') = (withdrawn_reason IS NOT NULL)
        );
    """)


def downgrade() -> None:
    # What was published goes back to superseded, and what was not to selected: neither is read by name.
    op.execute("""
    ALTER TABLE alchemist.subsets DROP CONSTRAINT ck_subsets_withdrawn;
    UPDATE alchemist.subsets SET state = CASE WHEN published_at IS NULL THEN 'selected' ELSE 'superseded' END
    WHERE state = 'withdrawn';
    ALTER TABLE alchemist.subsets
        DROP CONSTRAINT ck_subsets_state,
        DROP CONSTRAINT ck_subsets_published,
        ADD CONSTRAINT ck_subsets_state CHECK (state IN ('selected', 'published', 'superseded')),
        ADD CONSTRAINT ck_subsets_published CHECK ((state = 'selected') = (published_at IS NULL)),
        DROP COLUMN withdrawn_at, DROP COLUMN withdrawn_by, DROP COLUMN withdrawn_reason;
    """)
