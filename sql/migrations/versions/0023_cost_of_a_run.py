"""What a run cost at the price of its day: a price that changes must not change what yesterday cost."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.execute("ALTER TABLE alchemist.runs ADD COLUMN cost double precision")


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.runs DROP COLUMN cost")
