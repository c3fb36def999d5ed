"""A third rule of rating: learnability, two proxies in place of a rater's network."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    _allow("alignment", "loss", "learnability")


def downgrade() -> None:
    _allow("alignment", "loss")


def _allow(*rules: str) -> None:
    words = ", ".join(f"'{rule}'" for rule in rules)
    op.execute("ALTER TABLE alchemist.raters DROP CONSTRAINT ck_raters_rule")
    op.execute(f"ALTER TABLE alchemist.raters ADD CONSTRAINT ck_raters_rule CHECK (rule IN ({words}))")
