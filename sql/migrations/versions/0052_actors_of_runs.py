"""A run names who started it, as the audit log names who decided."""

from alembic import op

revision = "0052"
down_revision = "0051"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.runs ADD COLUMN actor varchar;
    COMMENT ON COLUMN alchemist.runs.actor IS
    'Person, service account or Airflow run that started it; null for runs of before this column';
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE alchemist.runs DROP COLUMN actor")
