"""Gains of a region that were only predicted have no interval: the predictions promised gains where there were none."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.execute("""
    UPDATE alchemist.region_probes SET gain_low = '-Infinity', gain_high = 'Infinity'
    WHERE measurements -> 'report_seeds' = '[]'
    """)


def downgrade() -> None:
    """Keep the probes as they are: what was predicted is still in their measurements."""
