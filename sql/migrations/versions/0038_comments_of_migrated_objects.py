"""Describe the objects that only migrations make; all other comments come from the models, views and functions."""

from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    op.execute("""
    COMMENT ON TABLE alchemist.alembic_version IS 'Revision of the schema, written by alchemist db migrate.';
    COMMENT ON COLUMN alchemist.alembic_version.version_num IS 'Number of the newest migration that was applied';
    COMMENT ON FUNCTION alchemist.refuse_change() IS 'Trigger function that refuses every change of a row of audit_events';
    """)


def downgrade() -> None:
    op.execute("""
    COMMENT ON TABLE alchemist.alembic_version IS NULL;
    COMMENT ON COLUMN alchemist.alembic_version.version_num IS NULL;
    COMMENT ON FUNCTION alchemist.refuse_change() IS NULL;
    """)
