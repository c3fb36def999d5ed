"""Locks by name as rows, which a reader cannot take: anybody may take an advisory lock and keep every selection waiting."""

from alembic import op

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    # The fixed names are there from the start: a transaction with one snapshot could not insert a row that another has just made.
    op.execute("""
    CREATE TABLE alchemist.locks (
        name varchar NOT NULL,
        CONSTRAINT pk_locks PRIMARY KEY (name)
    );
    INSERT INTO alchemist.locks (name) VALUES ('duplicates'), ('rank_scales');
    """)


def downgrade() -> None:
    op.execute("DROP TABLE alchemist.locks")
