"""Maintenance of the store: expired leases, complete takedowns, old check results, planner statistics."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from alchemist_core.store.runs import LOST

MANY_ROWS = (
    "shards", "samples", "sample_locations", "quarantined_samples", "shard_scores", "scores", "subset_samples", "check_results",
)  # fmt: skip
"""Tables to analyze, with partitioned parent tables, which autovacuum never analyzes."""

MOST_READ_S = 90.0
"""Longest statement of a reader: the timeout of its role is 60 s, but a session can change it."""


def remove_expired_leases(engine: Engine) -> tuple[int, int]:
    """Delete leases that expired an hour ago, and mark the runs that held them as lost, as `mark_lost_runs` does; return both counts."""
    leases = text(
        "DELETE FROM alchemist.leases WHERE expires_at < clock_timestamp() - make_interval(hours => 1) RETURNING run_id"
    )
    runs = text(f"""
        UPDATE alchemist.runs SET {LOST}
        WHERE state = 'running' AND heartbeat_at < clock_timestamp() - make_interval(hours => 1)
          AND NOT EXISTS (SELECT FROM alchemist.leases WHERE leases.run_id = runs.run_id)
    """)  # noqa: S608  constants
    with engine.begin() as connection:
        n_leases = len(connection.execute(leases).all())
        return n_leases, connection.execute(runs).rowcount


def end_long_reads(connection: Connection, *, most_s: float = MOST_READ_S) -> int:
    """End sessions of readers whose statement runs longer than the limit, even if they raised their timeout; return their number."""
    sweep = text("SELECT pid FROM alchemist.end_long_reads(make_interval(secs => :most_s)) WHERE is_signalled")
    return len(connection.execute(sweep, {"most_s": most_s}).all())


def newest_pending_takedown(engine: Engine) -> datetime | None:
    """Return when the newest takedown was asked for that is not marked as complete; None if all are."""
    with engine.connect() as connection:
        pending = text("SELECT max(requested_at) FROM alchemist.takedowns WHERE bytes_removed_at IS NULL")
        found: datetime | None = connection.execute(pending).scalar_one()
        return found


def complete_takedowns(engine: Engine) -> tuple[int, int]:
    """Mark takedowns as complete if no published version or materialized dataset has the image; return how many are done and pending."""
    with engine.connect() as connection:
        pending = connection.execute(
            text("SELECT image_hash FROM alchemist.takedowns WHERE bytes_removed_at IS NULL ORDER BY takedown_id")
        ).scalars()
        hashes = [bytes(image_hash) for image_hash in pending]
    removed = [image_hash for image_hash in hashes if not _is_held(engine, image_hash)]
    _note_removed(engine, removed)
    return len(removed), len(hashes) - len(removed)


def _is_held(engine: Engine, image_hash: bytes) -> bool:
    from alchemist_core.store.samples import find_reach  # noqa: PLC0415  only for a pending takedown; each stage loads this module

    return any(row.state == "published" or row.all_materialized_uris for row in find_reach(engine, [image_hash]))


def _note_removed(engine: Engine, image_hashes: Sequence[bytes]) -> None:
    statement = text("""
        UPDATE alchemist.takedowns SET bytes_removed_at = clock_timestamp()
        WHERE image_hash = ANY(CAST(:image_hashes AS bytea[])) AND bytes_removed_at IS NULL
    """)
    with engine.begin() as connection:
        connection.execute(statement, {"image_hashes": list(image_hashes)})


def forget_old_checks(engine: Engine, *, keep_days: float) -> int:
    """Delete check results older than this many days, except the newest of each night, which decide whether it can be published."""
    statement = text("""
        DELETE FROM alchemist.check_results AS old
        WHERE created_at < clock_timestamp() - make_interval(secs => :keep_days * 86400.0)
          AND EXISTS (
            SELECT FROM alchemist.check_results AS newer
            WHERE newer.suite = old.suite AND newer.expectation = old.expectation
              AND newer.dataset_name IS NOT DISTINCT FROM old.dataset_name
              AND newer.crawl_date IS NOT DISTINCT FROM old.crawl_date
              AND newer.subset_name IS NOT DISTINCT FROM old.subset_name
              AND newer.check_result_id > old.check_result_id
          )
          AND observed -> 'released_by' IS NULL
    """)
    with engine.begin() as connection:
        return connection.execute(statement, {"keep_days": keep_days}).rowcount


def refresh_statistics(engine: Engine) -> int:
    """Analyse the large tables, so that the planner has current statistics; return their number. Takes seconds at 30 million rows."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in MANY_ROWS:
            connection.execute(text("SELECT alchemist.analyze_table(:name)"), {"name": table})
    return len(MANY_ROWS)
