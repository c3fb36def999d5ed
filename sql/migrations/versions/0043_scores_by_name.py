"""Selections rank by the scores of scorers and by imported scores: candidate_samples gets one more parameter."""

from alembic import op

revision = "0043"
down_revision = "0042"

# Made again from its file, with its present parameters, once the migrations are done.
BEFORE = "integer, integer[], integer, bigint, text, text, bigint, bigint, integer"


def upgrade() -> None:
    op.execute(f"DROP FUNCTION IF EXISTS alchemist.candidate_samples({BEFORE})")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION IF EXISTS alchemist.candidate_samples({BEFORE}, integer)")
