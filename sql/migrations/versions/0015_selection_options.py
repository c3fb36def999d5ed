"""What decides an eligible set besides nights and takedowns, scales of heuristic scores, and what a draw did to the ranks."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.rank_scales ADD COLUMN score varchar DEFAULT 'rater' NOT NULL;
    ALTER TABLE alchemist.rank_snapshots ADD COLUMN options jsonb DEFAULT '{}' NOT NULL;
    ALTER TABLE alchemist.subsets ADD COLUMN curves jsonb;
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subsets DROP COLUMN curves;
    ALTER TABLE alchemist.rank_snapshots DROP COLUMN options;
    ALTER TABLE alchemist.rank_scales DROP COLUMN score;
    """)
