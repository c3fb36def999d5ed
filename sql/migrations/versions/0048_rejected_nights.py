"""A person can reject a held night: it waits for nobody any more, and is never selected unless it is released later."""

from alembic import op

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    _check("'scored', 'selectable', 'held', 'released', 'rejected'", "'held', 'rejected'")


def downgrade() -> None:
    op.execute("UPDATE alchemist.nights SET state = 'held' WHERE state = 'rejected'")
    _check("'scored', 'selectable', 'held', 'released'", "'held'")


def _check(states: str, with_reason: str) -> None:
    op.execute(f"""
    ALTER TABLE alchemist.nights DROP CONSTRAINT ck_nights_state;
    ALTER TABLE alchemist.nights ADD CONSTRAINT ck_nights_state CHECK (state IN ({states}));
    ALTER TABLE alchemist.nights DROP CONSTRAINT ck_nights_held_has_reason;
    ALTER TABLE alchemist.nights ADD CONSTRAINT ck_nights_held_has_reason CHECK (state NOT IN ({with_reason}) OR reason IS NOT NULL);
    """)
