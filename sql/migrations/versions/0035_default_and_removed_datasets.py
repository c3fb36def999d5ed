"""Which evaluation dataset is the default, and which datasets were removed: removed ones keep their rows, as history."""

from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.datasets
        ADD COLUMN is_default boolean DEFAULT false NOT NULL,
        ADD COLUMN removed_at timestamptz,
        ADD COLUMN removed_reason varchar,
        ADD CONSTRAINT ck_datasets_default_is_for_evaluation CHECK (NOT is_default OR role = 'evaluation' AND removed_at IS NULL),
        ADD CONSTRAINT ck_datasets_removed_has_reason CHECK ((removed_at IS NULL) = (removed_reason IS NULL));
    CREATE UNIQUE INDEX uq_datasets_is_default ON alchemist.datasets (is_default) WHERE is_default;
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.datasets DROP COLUMN is_default, DROP COLUMN removed_at, DROP COLUMN removed_reason;
    """)
