"""Rename tables, columns and functions to the words of the glossary. No row changes: every rename is an update of the catalogue."""

from alembic import op

revision = "0039"
down_revision = "0038"

# What is renamed, within which table, from, to.
RENAMES = (
    ("TABLE", "", "evaluation_contracts", "evaluation_protocols"),
    ("TABLE", "", "region_probes", "rank_windows"),
    ("COLUMN", "evaluation_protocols", "contract_id", "protocol_id"),
    ("COLUMN", "evaluation_protocols", "contract_hash", "protocol_hash"),
    ("COLUMN", "evaluation_protocols", "contract", "protocol"),
    ("COLUMN", "evaluations", "contract_id", "protocol_id"),
    ("COLUMN", "rank_windows", "region_probe_id", "rank_window_id"),
    ("COLUMN", "raters", "certificate", "acceptance_report"),
    ("COLUMN", "runs", "report", "result"),
    ("COLUMN", "sample_locations", "member_exts", "file_exts"),
    ("COLUMN", "sample_locations", "member_offsets", "file_offsets"),
    ("COLUMN", "sample_locations", "member_sizes", "file_sizes"),
    ("COLUMN", "subsets", "copy_uris", "all_materialized_uris"),
    ("CONSTRAINT", "evaluation_protocols", "pk_evaluation_contracts", "pk_evaluation_protocols"),
    (
        "CONSTRAINT", "evaluation_protocols", "uq_evaluation_contracts_contract_hash",
        "uq_evaluation_protocols_protocol_hash",
    ),
    (
        "CONSTRAINT", "evaluations", "uq_evaluations_model_id_contract_id_metric",
        "uq_evaluations_model_id_protocol_id_metric",
    ),
    ("CONSTRAINT", "evaluations", "fk_evaluations_contract_id", "fk_evaluations_protocol_id"),
    ("CONSTRAINT", "rank_windows", "pk_region_probes", "pk_rank_windows"),
    ("CONSTRAINT", "rank_windows", "fk_region_probes_rater_id", "fk_rank_windows_rater_id"),
    ("CONSTRAINT", "sample_locations", "ck_sample_locations_members", "ck_sample_locations_files"),
    ("INDEX", "", "ix_region_probes_rater_id", "ix_rank_windows_rater_id"),
)  # fmt: skip
# Made again under their new names, or with other result columns, once the migrations are done.
DROPPED = """
    DROP FUNCTION IF EXISTS alchemist.drawable_pairs(integer, integer[], integer, bigint, text, text, bigint, bigint, integer);
    DROP FUNCTION IF EXISTS alchemist.candidate_samples(integer, integer[], integer, bigint, text, text, bigint, bigint, integer);
    DROP FUNCTION IF EXISTS alchemist.first_place(bigint);
    DROP FUNCTION IF EXISTS alchemist.first_location(bigint);
    DROP FUNCTION IF EXISTS alchemist.is_version_free(integer);
    DROP FUNCTION IF EXISTS alchemist.is_version_collectable(integer);
    DROP FUNCTION IF EXISTS alchemist.end_long_reads(interval);
    DROP FUNCTION IF EXISTS alchemist.end_stalled_sessions();
"""
# Postgres 18 keeps NOT NULL as constraints that are named after their columns.
NOT_NULL_NAMES = """
DO $$
DECLARE
    odd record;
BEGIN
    FOR odd IN
        SELECT relname, conname, relname || '_' || attname || '_not_null' AS wanted
        FROM pg_constraint
        INNER JOIN pg_class ON pg_constraint.conrelid = pg_class.oid
        INNER JOIN pg_attribute ON pg_class.oid = pg_attribute.attrelid AND pg_constraint.conkey[1] = pg_attribute.attnum
        WHERE pg_constraint.contype = 'n' AND pg_class.relnamespace = 'alchemist'::regnamespace
            AND relname IN ('evaluation_contracts', 'evaluation_protocols', 'evaluations', 'region_probes', 'rank_windows', 'raters',
                'sample_locations', 'subsets')
            AND conname <> relname || '_' || attname || '_not_null'
    LOOP
        EXECUTE format('ALTER TABLE alchemist.%I RENAME CONSTRAINT %I TO %I', odd.relname, odd.conname, odd.wanted);
    END LOOP;
END $$;
"""


def upgrade() -> None:
    op.execute(DROPPED)
    for kind, table, old, new in RENAMES:
        op.execute(_rename(kind, table, old, new))
    op.execute(NOT_NULL_NAMES)


def downgrade() -> None:
    op.execute(DROPPED)
    for kind, table, old, new in sorted(RENAMES, key=lambda rename: rename[0] == "TABLE"):
        op.execute(_rename(kind, table, new, old))
    op.execute(NOT_NULL_NAMES)


def _rename(kind: str, table: str, old: str, new: str) -> str:
    if table:
        return f"ALTER TABLE alchemist.{table} RENAME {kind} {old} TO {new}"
    return f"ALTER {kind} alchemist.{old} RENAME TO {new}"
