"""A fast checksum beside the sha256 of a record, so that a copy computes one cryptographic hash of each byte instead of two."""

from alembic import op

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    # No default: the rows that exist are not rewritten. `materialize` fills a row when it reads its record. The constraint is validated
    # in a transaction of its own, under a lock that stops no writer, so the first one can be run again.
    op.execute("""
    ALTER TABLE alchemist.sample_locations ADD COLUMN IF NOT EXISTS content_checksum bytea;
    ALTER TABLE alchemist.sample_locations DROP CONSTRAINT IF EXISTS ck_sample_locations_content_checksum;
    ALTER TABLE alchemist.sample_locations
        ADD CONSTRAINT ck_sample_locations_content_checksum CHECK (octet_length(content_checksum) = 16) NOT VALID;
    """)
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute("ALTER TABLE alchemist.sample_locations VALIDATE CONSTRAINT ck_sample_locations_content_checksum")
        op.execute("SET statement_timeout = '5s'")


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.sample_locations DROP COLUMN content_checksum")
