"""Backups: a snapshot of the database that several sessions share, checksums, and an empty schema for a restore."""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, text

from alchemist_core.cores import n_own_cores
from alchemist_core.errors import StoreError
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.engine import head_revision, make_engine
from alchemist_core.store.postgres import LOGINS
from alchemist_core.store.queries import fetch_bounded, load_query
from alchemist_core.store.tables import AuditEvent

QUERIES = {
    "checksum_sources": (
        "sample_locations", "samples", "distinct_images", "heuristic_scores", "sample_urls", "duplicate_samples", "quarantined_samples",
        "sample_flags", "shards", "takedowns", "datasets",
    ),
    "checksum_ratings": (
        "scores", "retried_samples", "shard_scores", "score_distributions", "nights", "rank_scales", "rank_snapshots", "region_probes",
        "raters",
    ),
    "checksum_embeddings": ("clusters", "semantic_duplicates", "shard_embeddings", "cluster_centroids"),
    "checksum_subsets": (
        "subset_samples", "models", "evaluations", "blind_judgements", "experiments", "subsets", "evaluation_contracts",
    ),
}  # fmt: skip
"""Tables of each query, the large ones first. Two have their former names, so that checksums of older backups still match."""
# Excludes tables about runs and people.
LEFT_OUT = frozenset({"runs", "leases", "locks", "check_results", "audit_events", "notifications"})
# The first ones determine the text of numbers, bytes and dates; the last ones only the time.
SETTINGS = (
    "extra_float_digits = 1",
    "bytea_output = 'hex'",
    "datestyle = 'ISO'",
    "timezone = 'UTC'",
    "work_mem = '256MB'",
    "jit = off",
)
MAX_READERS = 4
"""Most tables that are sorted at the same time: the disk of Postgres holds a copy of each as text meanwhile."""


def checksum(url: str, *, pg_snapshot: str | None = None) -> str:
    """Return one hash over all data tables of a database: now, or of a snapshot that another session exported."""
    digest = hashlib.sha256()
    for table_name, table_hash in sorted(table_checksums(url, pg_snapshot=pg_snapshot).items()):
        digest.update(f"{table_name} {table_hash}\n".encode())
    return digest.hexdigest()


def table_checksums(url: str, *, pg_snapshot: str | None = None) -> dict[str, str]:
    """Return a hash of each data table that has rows, so that two stores can be compared table by table.

    Several connections read one snapshot; the largest tables are sorted in temporary files of Postgres.
    """
    if pg_snapshot is None:
        with export_snapshot(url) as own:
            return table_checksums(url, pg_snapshot=own)
    tables = [(query, table_name) for query, names in QUERIES.items() for table_name in names]
    engine = make_engine(url)
    try:
        with ThreadPoolExecutor(min(n_own_cores(), MAX_READERS)) as threads:
            found = list(threads.map(lambda table: _hash_table(engine, pg_snapshot, *table), tables))
    finally:
        engine.dispose()
    return {name: sha256 for (_, name), sha256 in zip(tables, found, strict=True) if sha256 is not None}


def _hash_table(engine: Engine, pg_snapshot: str, query: str, table_name: str) -> str | None:
    """Return the hash of a table's rows as text, in order; None if it has none."""
    digest, is_empty = hashlib.sha256(), True
    with _reading(engine, pg_snapshot) as connection:
        for setting in SETTINGS:
            connection.execute(text(f"SET LOCAL {setting}"))
        lines = connection.execute(
            load_query(query), {"table_name": table_name}, execution_options={"stream_results": True}
        )
        for rows, _ in fetch_bounded(lines):
            for (line,) in rows:
                digest.update(line.encode() + b"\0")
            is_empty = False
    return None if is_empty else digest.hexdigest()


@contextmanager
def _snapshot(url: str, pg_snapshot: str | None) -> Iterator[Connection]:
    """Yield a connection that reads one snapshot of all tables, even while stages write: that of another session, or a new one."""
    engine = make_engine(url)
    try:
        with _reading(engine, pg_snapshot) as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _reading(engine: Engine, pg_snapshot: str | None) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        if pg_snapshot is not None:
            connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT {_quoted(pg_snapshot)}")
        yield connection


def _quoted(pg_snapshot: str) -> str:
    # SET TRANSACTION SNAPSHOT takes no bound parameters.
    if not re.fullmatch(r"[0-9A-F]+(-[0-9A-F]+)+", pg_snapshot):
        raise StoreError(f"{pg_snapshot!r} is not a snapshot id. Give one that pg_export_snapshot() returned.")
    return f"'{pg_snapshot}'"


TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace('alchemist') AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname
""")


@contextmanager
def export_snapshot(url: str) -> Iterator[str]:
    """Hold a snapshot of a database and all partitions of members; yield the id by which other sessions can read the same snapshot."""
    with _snapshot(url, None) as connection:
        # Readers of a snapshot do not see partitions that are dropped after it. This lock is taken before the snapshot and lasts as long,
        # so that garbage collection drops none meanwhile; it does not keep stages from adding partitions.
        connection.execute(text("LOCK TABLE alchemist.subset_samples IN ACCESS SHARE MODE"))
        # This session waits while others read its snapshot.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield str(connection.scalar(text("SELECT pg_export_snapshot()")))


# Imported scores have no checkpoint. Garbage collection removes the manifest of a version, which select can make again, and keeps its
# row; it spares a version that is published or that a model was trained on.
ARTIFACTS = text("""
    SELECT uri FROM alchemist.shard_embeddings UNION SELECT uri FROM alchemist.cluster_centroids
    UNION SELECT checkpoint_uri FROM alchemist.raters WHERE checkpoint_uri <> '' UNION SELECT checkpoint_uri FROM alchemist.models
    UNION SELECT manifest_uri FROM alchemist.subsets
    WHERE state = 'published' OR subset_id IN (SELECT subset_id FROM alchemist.models)
""")


def list_artifacts(url: str, *, pg_snapshot: str) -> set[str]:
    """Return the addresses of the files and folders of the home without which rows of a snapshot cannot be used."""
    with _snapshot(url, pg_snapshot) as connection:
        return set(connection.execute(ARTIFACTS).scalars())


@dataclass(frozen=True, slots=True)
class Restored:
    """Which backup was restored last, by its checksum, and the checksum of the data after the migration; None before its end."""

    checksum: str
    became: str | None


def names_of_restored(backup: str) -> dict[str, str]:
    """Return the psql variables of `BEGIN_RESTORED`."""
    return {"actor": current_actor(), "action": _RESTORE, "subject": f"{_BACKUP}{backup}"}


BEGIN_RESTORED = "INSERT INTO alchemist.audit_events (actor, action, subject) VALUES (:'actor', :'action', :'subject');"
"""Statement of psql that records which backup its transaction restored."""


def record_restored(url: str, backup: str, became: str) -> None:
    """Record that a backup was restored and migrated, and the checksum of its data now; nothing if that is recorded already."""
    if last_restored(url) == Restored(backup, became):
        return
    after = {"checksum": became, "revision": head_revision()}
    engine = make_engine(url)
    with engine.begin() as connection:
        record_event(connection, current_actor(), _RESTORE, f"{_BACKUP}{backup}", after=after)
    engine.dispose()


def last_restored(url: str) -> Restored | None:
    """Return the restore that was recorded last; None without one."""
    events = select(AuditEvent.subject, AuditEvent.after).where(AuditEvent.action == _RESTORE)
    engine = make_engine(url)
    with engine.connect() as connection:
        row = connection.execute(events.order_by(AuditEvent.audit_event_id.desc()).limit(1)).first()
    engine.dispose()
    return None if row is None else Restored(row.subject.removeprefix(_BACKUP), (row.after or {}).get("checksum"))


_RESTORE, _BACKUP = "restore", "backup "


def clear_for_restore(url: str) -> bool:
    """Drop the schema of a store without data, atomically. Returns False and changes nothing if it contains data.

    A schema without a revision is dropped too: a restore by older code was killed, and no command can use it.

    Raises:
        StoreError: The user of the address may not create the schema again, or must not own it; nothing was changed.
    """
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            tables = list(connection.execute(TABLES).scalars())
            if (
                "alembic_version" in tables
                and connection.execute(text("SELECT * FROM alchemist.alembic_version")).first()
            ):
                names = ", ".join(f'alchemist."{name}"' for name in tables)
                connection.execute(text("SET LOCAL lock_timeout = '10s'"))
                # Lock the tables, so that no rows are inserted between the check and the drop.
                connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
                data = [name for name in tables if name not in {*LEFT_OUT, "alembic_version"}]
                # Table names cannot be bound parameters; these come from the catalogue.
                looks = [f'SELECT 1 FROM alchemist."{name}" LIMIT 1' for name in data]  # noqa: S608
                if any(connection.exec_driver_sql(look).first() for look in looks):
                    return False
            database, user = connection.execute(
                text("SELECT quote_ident(current_database()), quote_ident(current_user)")
            ).one()
            # They would own the schema, and so could change it.
            if user in (LOGINS["writer"], LOGINS["reader"]):
                raise StoreError(
                    f"A restore creates the schema alchemist, which {user} must not own. Set ALCHEMIST_DATABASE_URL to the address of the "
                    "owner of the database; then run the same command again."
                )
            if not connection.scalar(text("SELECT has_database_privilege(current_database(), 'CREATE')")):
                raise StoreError(
                    "A restore creates the schema alchemist, but this database user may not create schemas. Run, as the owner of the "
                    f"database, GRANT CREATE ON DATABASE {database} TO {user}; then run the same command again."
                )
            connection.execute(text("DROP SCHEMA IF EXISTS alchemist CASCADE"))
            return True
    finally:
        engine.dispose()
