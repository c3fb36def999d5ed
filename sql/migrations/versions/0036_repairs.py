"""What was repaired at a location, so that it can be counted, and every reader repairs in the same way."""

from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    # The rows that are there are not rewritten, and none of them was repaired. The count stands beside n_samples, so that an overview
    # does not read every location.
    op.execute("""
    ALTER TABLE alchemist.sample_locations ADD COLUMN repair varchar;
    ALTER TABLE alchemist.shards ADD COLUMN n_repaired integer DEFAULT 0 NOT NULL;
    """)


def downgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.shards DROP COLUMN n_repaired;
    ALTER TABLE alchemist.sample_locations DROP COLUMN repair;
    """)
