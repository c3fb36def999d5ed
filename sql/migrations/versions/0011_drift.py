"""What a night's scores were compared with, what came of it, and which part of the night moved them."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # Columns without a default that must be computed: the table's rows stay as they are, so the lock is held for an instant.
    op.execute("""
    ALTER TABLE alchemist.score_distributions
        ADD COLUMN verdict varchar DEFAULT 'recorded' NOT NULL,
        ADD COLUMN n_tested integer DEFAULT 0 NOT NULL,
        ADD COLUMN reference varchar,
        ADD COLUMN n_reference bigint,
        ADD COLUMN explanation jsonb DEFAULT '[]' NOT NULL,
        ADD CONSTRAINT ck_score_distributions_verdict
            CHECK (verdict IN ('recorded', 'pooled', 'steady', 'warned', 'held'));
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.score_distributions
        DROP CONSTRAINT ck_score_distributions_verdict,
        DROP COLUMN explanation,
        DROP COLUMN n_reference,
        DROP COLUMN reference,
        DROP COLUMN n_tested,
        DROP COLUMN verdict;
    """)
