"""Where autovacuum and fill factors must differ from the defaults, and why."""

from alembic import op

revision = "0012"
down_revision = "0011"

# Only ever inserted into. By default they are vacuumed after a fifth is new (at 30 million: after six million rows, a week of nights)
# and analyzed after a tenth. Small nights must reach the visibility map and the statistics too, since the planner chooses by them;
# and rows that never change are frozen at the first visit, so that no anti-wraparound vacuum rewrites the pool later.
# Fill factor 100: nothing is ever updated, so room for it would only be read.
APPENDED = "autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_freeze_min_age = 0"
# Each row is rewritten every ten seconds by a heartbeat: room on its page keeps the update off the indexes (HOT).
# Few rows, so dead ones are counted, not compared with the table's size.
REWRITTEN = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500"

PARTITIONS = """
DO $$
DECLARE
    child regclass;
BEGIN
    FOR child IN
        SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent IN ('alchemist.scores'::regclass, 'alchemist.subset_samples'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE %s CHANGE', child);
    END LOOP;
END $$;
"""


def names(settings: str) -> str:
    return ", ".join(part.split(" = ")[0].strip() for part in settings.split(","))


def upgrade() -> None:
    # SHARE UPDATE EXCLUSIVE: beside readers and writers. Partitions to come get the same from functions/partitions.sql.
    for table in ("samples", "sample_locations"):
        op.execute(f"ALTER TABLE alchemist.{table} SET ({APPENDED})")
    for table in ("runs", "leases"):
        op.execute(f"ALTER TABLE alchemist.{table} SET ({REWRITTEN})")
    op.execute(PARTITIONS.replace("CHANGE", f"SET ({APPENDED})"))


def downgrade() -> None:
    for table in ("samples", "sample_locations"):
        op.execute(f"ALTER TABLE alchemist.{table} RESET ({names(APPENDED)})")
    for table in ("runs", "leases"):
        op.execute(f"ALTER TABLE alchemist.{table} RESET ({names(REWRITTEN)})")
    op.execute(PARTITIONS.replace("CHANGE", f"RESET ({names(APPENDED)})"))
