"""A hash over everything that a record holds: the pair's name says nothing of the rest of its JSON."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    # No default: the rows that are there are not rewritten, and the check reads them under a lock that stops no writer. That is a
    # transaction of its own, so the first one can be run again.
    op.execute("""
    ALTER TABLE alchemist.sample_locations ADD COLUMN IF NOT EXISTS content_hash bytea;
    ALTER TABLE alchemist.sample_locations DROP CONSTRAINT IF EXISTS ck_sample_locations_content_hash;
    ALTER TABLE alchemist.sample_locations
        ADD CONSTRAINT ck_sample_locations_content_hash CHECK (octet_length(content_hash) = 32) NOT VALID;
    """)
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute("ALTER TABLE alchemist.sample_locations VALIDATE CONSTRAINT ck_sample_locations_content_hash")
        op.execute("SET statement_timeout = '5s'")


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.sample_locations DROP COLUMN content_hash")
