"""Every place that a version was ever copied to, from before its first byte: what a takedown names and gc removes."""

from alembic import op

revision = "0022"
down_revision = "0017"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.subsets ADD COLUMN copy_uris varchar[] NOT NULL DEFAULT '{}';
    UPDATE alchemist.subsets SET copy_uris = ARRAY[materialized_uri] WHERE materialized_uri IS NOT NULL;
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.subsets DROP COLUMN copy_uris")
