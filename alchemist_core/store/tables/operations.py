"""Tables of operations: runs, leases, check results, audit events. `db checksum` excludes them, because they are not data."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Sequence, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from alchemist_core.store.tables.schema import BigKey, Created, Table

fencing_tokens = Sequence("fencing_tokens", schema="alchemist", metadata=Table.metadata)


class Run(Table):
    """One run of a stage or command."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'lost')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished"),
        Index(None, "stage", "config_hash"),
    )

    run_id: Mapped[BigKey] = mapped_column(comment="Key of the run")
    stage: Mapped[str] = mapped_column(comment="Stage or command, such as ingest or score")
    slot: Mapped[int] = mapped_column(server_default="0", comment="Number of the worker slot that ran, from 0")
    config: Mapped[dict[str, Any]] = mapped_column(comment="Every option of the run, as JSON")
    config_hash: Mapped[str] = mapped_column(
        comment="sha256 of the configuration: equal configurations have equal hashes"
    )
    state: Mapped[str] = mapped_column(
        server_default="running", comment="running, succeeded, failed, or lost (it stopped without reporting an end)"
    )
    code_version: Mapped[str] = mapped_column(comment="Version of Alchemist that ran")
    host: Mapped[str] = mapped_column(comment="Name of the machine")
    pid: Mapped[int] = mapped_column(comment="Process id on that machine")
    progress: Mapped[dict[str, Any]] = mapped_column(
        server_default="{}", comment="Latest progress as JSON: done, total and a note"
    )
    result: Mapped[dict[str, Any] | None] = mapped_column(comment="Result of the run as JSON; null until it succeeds")
    error: Mapped[str | None] = mapped_column(comment="Error message of a failed run")
    exit_code: Mapped[int | None] = mapped_column(comment="Exit code of a run that has ended")
    started_at: Mapped[Created] = mapped_column(comment="Start of the run")
    heartbeat_at: Mapped[Created] = mapped_column(comment="When the run last reported that it is alive")
    finished_at: Mapped[datetime | None] = mapped_column(comment="End of the run; null while it is running")
    device: Mapped[str] = mapped_column(
        server_default="cpu", comment="Device that did the work: cpu, or the name of a GPU"
    )
    work_seconds: Mapped[float | None] = mapped_column(comment="Seconds of work, without waiting for a device")
    cost: Mapped[float | None] = mapped_column(
        comment="Cost in the currency of the configured prices; null where no price was set"
    )


class Lease(Table):
    """Right of one run to write to a resource until it expires. A writer with an older token than the lease's is refused."""

    __tablename__ = "leases"

    resource: Mapped[str] = mapped_column(
        primary_key=True, comment="What the lease protects, such as a shard, a run key or a device"
    )
    fencing_token: Mapped[int] = mapped_column(
        BigInteger, comment="Number that grows with every claim; a writer with an older token is refused"
    )
    run_id: Mapped[int] = mapped_column(BigInteger, comment="Run that holds the lease")
    acquired_at: Mapped[Created] = mapped_column(comment="When the run took the lease")
    expires_at: Mapped[datetime] = mapped_column(comment="When the lease ends unless the run renews it")


class Lock(Table):
    """Names that a transaction can lock. They are rows, not advisory locks, because readers could take advisory locks too."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True, comment="Name that a transaction can lock")


class CheckResult(Table):
    """Outcome of one expectation of a data quality check."""

    __tablename__ = "check_results"
    __table_args__ = (
        CheckConstraint("severity IN ('fail', 'warn')", name="severity"),
        Index(None, "suite", "dataset_name", "crawl_date"),
    )

    check_result_id: Mapped[BigKey] = mapped_column(comment="Key of the result")
    suite: Mapped[str] = mapped_column(
        comment="Suite that the expectation belongs to: shards, samples, scores, subset, evaluation, or a suite of your own"
    )
    expectation: Mapped[str] = mapped_column(comment="Name of the expectation")
    severity: Mapped[str] = mapped_column(comment="fail (a failure holds the night) or warn")
    is_success: Mapped[bool] = mapped_column(comment="Whether the expectation was met")
    observed: Mapped[dict[str, Any]] = mapped_column(comment="Measured values and their limits, as JSON")
    dataset_name: Mapped[str | None] = mapped_column(comment="Dataset that was checked; null for all training datasets")
    crawl_date: Mapped[date | None] = mapped_column(comment="Crawl date that was checked; null for all dates")
    subset_name: Mapped[str | None] = mapped_column(
        comment="Subset version that was checked; null for checks of a night"
    )
    run_id: Mapped[int | None] = mapped_column(BigInteger, comment="Run that checked")
    created_at: Mapped[Created] = mapped_column(comment="When the result was stored")


class AuditEvent(Table):
    """Who did what, and when. Append-only: a trigger refuses changes."""

    __tablename__ = "audit_events"

    audit_event_id: Mapped[BigKey] = mapped_column(comment="Key of the event")
    actor: Mapped[str] = mapped_column(comment="Person or service account that acted")
    action: Mapped[str] = mapped_column(comment="What was done, such as promote or takedown")
    subject: Mapped[str] = mapped_column(comment="What it was done to: its kind and its name, such as subset good-half")
    before: Mapped[dict[str, Any] | None] = mapped_column(comment="State before, as JSON")
    after: Mapped[dict[str, Any] | None] = mapped_column(
        comment="State after, as JSON; of a published subset version, approved_by and comment"
    )
    happened_at: Mapped[Created] = mapped_column(comment="When it was done")


class Notification(Table):
    """Event of which people are notified."""

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'delivered', 'failed', 'no_receiver')", name="state"),
        UniqueConstraint("key"),
        Index("ix_notifications_waiting", "notification_id", postgresql_where=text("state = 'waiting'")),
    )

    notification_id: Mapped[BigKey] = mapped_column(comment="Key of the notification")
    key: Mapped[str] = mapped_column(comment="Name of the event: the same event is stored once")
    kind: Mapped[str] = mapped_column(comment="Kind of event")
    event: Mapped[dict[str, Any]] = mapped_column(comment="Payload that receivers are sent, as JSON")
    state: Mapped[str] = mapped_column(
        server_default="waiting", comment="waiting, delivered, failed, or no_receiver (no receiver is configured)"
    )
    n_attempts: Mapped[int] = mapped_column(server_default="0", comment="Number of delivery attempts")
    delivered_to: Mapped[list[str]] = mapped_column(
        ARRAY(String), server_default=text("'{}'"), comment="Receivers that accepted it"
    )
    error: Mapped[str | None] = mapped_column(comment="Error of the latest failed attempt")
    created_at: Mapped[Created] = mapped_column(comment="When the event was stored")
