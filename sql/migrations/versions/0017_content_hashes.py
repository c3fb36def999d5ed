"""A hash over everything that a record holds: the pair's name says nothing of the rest of its JSON."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    # No default and not validated: neither rewrites nor reads the rows that are there.
    op.execute("""
    ALTER TABLE alchemist.sample_locations ADD COLUMN content_hash bytea;
    ALTER TABLE alchemist.sample_locations
        ADD CONSTRAINT ck_sample_locations_content_hash CHECK (octet_length(content_hash) = 32) NOT VALID;
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.sample_locations DROP COLUMN content_hash")
