"""What ran and who did what: runs, leases, check results, audit events. Not data: `db checksum` leaves these tables out."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Sequence, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from alchemist_core.store.tables.schema import BigKey, Created, Table

fencing_tokens = Sequence("fencing_tokens", schema="alchemist", metadata=Table.metadata)


class Run(Table):
    """One execution of a stage."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'succeeded', 'failed', 'lost')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished"),
        Index(None, "stage", "config_hash"),
    )

    run_id: Mapped[BigKey]
    stage: Mapped[str]
    slot: Mapped[int] = mapped_column(server_default="0")
    config: Mapped[dict[str, Any]]
    config_hash: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="running")
    code_version: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    # What a follower prints: {"done": 3, "total": 12, "note": "…"}.
    progress: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    report: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    exit_code: Mapped[int | None]
    started_at: Mapped[Created]
    heartbeat_at: Mapped[Created]
    finished_at: Mapped[datetime | None]
    device: Mapped[str] = mapped_column(server_default="cpu")
    work_seconds: Mapped[float | None]
    # At the prices of its day; none where no price was set.
    cost: Mapped[float | None]


class Lease(Table):
    """Who may write what now. The token grows with every claim: a writer whose token is old is refused."""

    __tablename__ = "leases"

    resource: Mapped[str] = mapped_column(primary_key=True)
    fencing_token: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[int] = mapped_column(BigInteger)
    acquired_at: Mapped[Created]
    expires_at: Mapped[datetime]


class Lock(Table):
    """A name that a transaction can lock. A row and no advisory lock, which readers could take too."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True)


class CheckResult(Table):
    """One expectation's outcome."""

    __tablename__ = "check_results"
    __table_args__ = (
        CheckConstraint("severity IN ('fail', 'warn')", name="severity"),
        Index(None, "suite", "dataset_name", "crawl_date"),
    )

    check_result_id: Mapped[BigKey]
    suite: Mapped[str]
    expectation: Mapped[str]
    severity: Mapped[str]
    is_success: Mapped[bool]
    observed: Mapped[dict[str, Any]]
    dataset_name: Mapped[str | None]
    crawl_date: Mapped[date | None]
    subset_name: Mapped[str | None]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Created]


class AuditEvent(Table):
    """Who did what, when. Append-only: a trigger refuses changes."""

    __tablename__ = "audit_events"

    audit_event_id: Mapped[BigKey]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    happened_at: Mapped[Created]


class Notification(Table):
    """An event that a person should hear of; `event` is what its receivers are sent."""

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'delivered', 'failed', 'no_receiver')", name="state"),
        UniqueConstraint("key"),
        Index("ix_notifications_waiting", "notification_id", postgresql_where=text("state = 'waiting'")),
    )

    notification_id: Mapped[BigKey]
    key: Mapped[str]
    kind: Mapped[str]
    event: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="waiting")
    n_attempts: Mapped[int] = mapped_column(server_default="0")
    delivered_to: Mapped[list[str]] = mapped_column(ARRAY(String), server_default=text("'{}'"))
    error: Mapped[str | None]
    created_at: Mapped[Created]
