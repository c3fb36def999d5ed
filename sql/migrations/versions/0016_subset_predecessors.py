"""The version that stood before each published one: what a rollback goes back to, and what a diff compares it with."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subsets ADD COLUMN predecessor_id integer,
        ADD CONSTRAINT fk_subsets_predecessor_id FOREIGN KEY (predecessor_id) REFERENCES alchemist.subsets (subset_id);
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.subsets DROP COLUMN predecessor_id")
