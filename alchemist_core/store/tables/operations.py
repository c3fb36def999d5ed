"""Tables of operations: runs, leases, check results, audit events. `db checksum` excludes them, because they are not data."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Sequence, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY

from alchemist_core.store.tables.schema import Table, Typed, big_identity, column, created

fencing_tokens = Sequence("fencing_tokens", schema="alchemist", metadata=Table.metadata)


class Run(Table):
    """One run of a stage or command."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'lost')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished"),
        Index(None, "stage", "config_hash"),
    )

    run_id: Typed[int] = big_identity(comment="Key of the run")
    stage: Typed[str] = column(comment="Stage or command, such as ingest or score")
    slot: Typed[int] = column(server_default="0", comment="Number of the worker slot that ran, from 0")
    config: Typed[dict[str, Any]] = column(comment="Every option of the run, as JSON")
    config_hash: Typed[str] = column(comment="sha256 of the configuration: equal configurations have equal hashes")
    state: Typed[str] = column(
        server_default="running", comment="running, succeeded, failed, or lost (it stopped without reporting an end)"
    )
    code_version: Typed[str] = column(comment="Version of Alchemist that ran")
    host: Typed[str] = column(comment="Name of the machine")
    pid: Typed[int] = column(comment="Process id on that machine")
    progress: Typed[dict[str, Any]] = column(
        server_default="{}",
        comment="Latest progress as JSON: done, total, a note, and how much of both this run did in the passes before",
    )
    result: Typed[dict[str, Any] | None] = column(comment="Result of the run as JSON; null until it succeeds")
    error: Typed[str | None] = column(comment="Error message of a failed run")
    exit_code: Typed[int | None] = column(comment="Exit code of a run that has ended")
    started_at: Typed[datetime] = created(comment="Start of the run")
    heartbeat_at: Typed[datetime] = created(comment="When the run last reported that it is alive")
    finished_at: Typed[datetime | None] = column(comment="End of the run; null while it is running")
    device: Typed[str] = column(server_default="cpu", comment="Device that did the work: cpu, or the name of a GPU")
    work_seconds: Typed[float | None] = column(
        comment="Seconds of work, without waiting for a device; of a lost run, from its start to its last sign of life"
    )
    cost: Typed[float | None] = column(
        comment="Cost in the currency of the configured prices; null where no price was set"
    )
    actor: Typed[str | None] = column(
        comment="Person, service account or Airflow run that started it; null for runs of before this column"
    )


class Lease(Table):
    """Right of one run to write to a resource until it expires. A writer with an older token than the lease's is refused."""

    __tablename__ = "leases"

    resource: Typed[str] = column(
        primary_key=True, comment="What the lease protects, such as a shard, a run key or a device"
    )
    fencing_token: Typed[int] = column(
        BigInteger, comment="Number that grows with every claim; a writer with an older token is refused"
    )
    run_id: Typed[int] = column(BigInteger, comment="Run that holds the lease")
    acquired_at: Typed[datetime] = created(comment="When the run took the lease")
    expires_at: Typed[datetime] = column(comment="When the lease ends unless the run renews it")


class Lock(Table):
    """Names that a transaction can lock. They are rows, not advisory locks, because readers could take advisory locks too."""

    __tablename__ = "locks"

    name: Typed[str] = column(primary_key=True, comment="Name that a transaction can lock")


class CheckResult(Table):
    """Outcome of one expectation of a data quality check."""

    __tablename__ = "check_results"
    __table_args__ = (
        CheckConstraint("severity IN ('fail', 'warn')", name="severity"),
        Index(None, "suite", "dataset_name", "crawl_date"),
    )

    check_result_id: Typed[int] = big_identity(comment="Key of the result")
    suite: Typed[str] = column(
        comment="Suite that the expectation belongs to: shards, samples, scores, subset, evaluation, or a suite of your own"
    )
    expectation: Typed[str] = column(comment="Name of the expectation")
    severity: Typed[str] = column(comment="fail (a failure holds the night) or warn")
    is_success: Typed[bool] = column(comment="Whether the expectation was met")
    observed: Typed[dict[str, Any]] = column(comment="Measured values and their limits, as JSON")
    dataset_name: Typed[str | None] = column(comment="Dataset that was checked; null for all training datasets")
    crawl_date: Typed[date | None] = column(comment="Crawl date that was checked; null for all dates")
    subset_name: Typed[str | None] = column(comment="Subset version that was checked; null for checks of a night")
    run_id: Typed[int | None] = column(BigInteger, comment="Run that checked")
    created_at: Typed[datetime] = created(comment="When the check began to read, or a person decided")


class AuditEvent(Table):
    """Who did what, and when. Append-only: a trigger refuses changes."""

    __tablename__ = "audit_events"

    audit_event_id: Typed[int] = big_identity(comment="Key of the event")
    actor: Typed[str] = column(comment="Person or service account that acted")
    action: Typed[str] = column(comment="What was done, such as promote or takedown")
    subject: Typed[str] = column(comment="What it was done to: its kind and its name, such as subset good-half")
    before: Typed[dict[str, Any] | None] = column(comment="State before, as JSON")
    after: Typed[dict[str, Any] | None] = column(
        comment="State after, as JSON; of a published subset version, approved_by and comment"
    )
    happened_at: Typed[datetime] = created(comment="When it was done")


class Notification(Table):
    """Event of which people are notified."""

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'delivered', 'failed', 'no_receiver')", name="state"),
        UniqueConstraint("key"),
        Index("ix_notifications_waiting", "notification_id", postgresql_where=text("state = 'waiting'")),
    )

    notification_id: Typed[int] = big_identity(comment="Key of the notification")
    key: Typed[str] = column(comment="Name of the event: the same event is stored once")
    kind: Typed[str] = column(comment="Kind of event")
    event: Typed[dict[str, Any]] = column(comment="Payload that receivers are sent, as JSON")
    state: Typed[str] = column(
        server_default="waiting", comment="waiting, delivered, failed, or no_receiver (no receiver is configured)"
    )
    n_attempts: Typed[int] = column(server_default="0", comment="Number of delivery attempts")
    delivered_to: Typed[list[str]] = column(
        ARRAY(String), server_default=text("'{}'"), comment="Receivers that accepted it"
    )
    error: Typed[str | None] = column(comment="Error of the latest failed attempt")
    created_at: Typed[datetime] = created(comment="When the event was stored")
