"""A new scoring rule needs no migration: the table checks the form of its name instead of a list."""

from alembic import op

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    _check("rule ~ '^[a-z][a-z0-9_]*$'", "Scoring rule, such as alignment")


def downgrade() -> None:
    _check("rule IN ('alignment', 'loss', 'learnability')", "Scoring rule: alignment, loss or learnability")


def _check(condition: str, comment: str) -> None:
    op.execute("ALTER TABLE alchemist.raters DROP CONSTRAINT ck_raters_rule")
    op.execute(f"ALTER TABLE alchemist.raters ADD CONSTRAINT ck_raters_rule CHECK ({condition})")
    op.execute(f"COMMENT ON COLUMN alchemist.raters.rule IS '{comment}'")
