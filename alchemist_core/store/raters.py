"""Rater versions: registered once, found by name, promoted in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, or_, select, text, update

from alchemist_core.errors import ConfigError
from alchemist_core.store.audit import record_event
from alchemist_core.store.tables import Rater, Run


@dataclass(frozen=True, slots=True)
class RaterRow:
    """A registered rater version."""

    rater_id: int
    name: str
    rule: str
    state: str
    checkpoint_uri: str
    checkpoint_sha256: bytes
    certificate: dict[str, Any]
    config: dict[str, Any]
    is_shadow: bool = False


NIGHTLY = "nightly"
COLUMNS = tuple(getattr(Rater, name) for name in RaterRow.__slots__)


def find_rater(engine: Engine, wanted: str) -> RaterRow | None:
    """Return a rater by name, or by a word: `production`, or `newest`, which the last training gave; None when there is none.

    Raises:
        ConfigError: If a rater of that name does not exist; the text lists those that do.
    """
    statement = select(*COLUMNS)
    if wanted == "production":
        statement = statement.where(Rater.state == "production")
    elif wanted == "newest":
        # Not the newest row: a training that found its rater again means that one, and so do the steps behind it.
        last = select(Run.report["rater"].as_string()).where(Run.stage == "train_rater", Run.state == "succeeded")
        trained = last.order_by(Run.run_id.desc()).limit(1).scalar_subquery()
        statement = statement.order_by((Rater.name == trained).desc().nulls_last(), Rater.rater_id.desc()).limit(1)
    else:
        statement = statement.where(Rater.name == wanted)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
        if row is None and wanted not in ("production", "newest"):
            names = ", ".join(connection.execute(select(Rater.name).order_by(Rater.rater_id)).scalars()) or "none"
            raise ConfigError(f"There is no rater {wanted!r} (raters: {names}).")
    return None if row is None else RaterRow(*row)


def find_raters(engine: Engine, wanted: str) -> list[RaterRow]:
    """Return the raters that a word or a name means: `nightly` is the one in production and every shadow beside it.

    Raises:
        ConfigError: As `find_rater`.
    """
    if wanted != NIGHTLY:
        return [rater for rater in [find_rater(engine, wanted)] if rater is not None]
    statement = (
        select(*COLUMNS)
        .where(or_(Rater.state == "production", (Rater.state == "candidate") & Rater.is_shadow))
        .order_by(Rater.state.desc(), Rater.rater_id)
    )
    with engine.connect() as connection:
        return [RaterRow(*row) for row in connection.execute(statement)]


def find_trained(engine: Engine, identity_hash: str) -> RaterRow | None:
    """Return the rater of this config and training data, if it was trained before."""
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Rater.identity_hash == identity_hash)).one_or_none()
    return None if row is None else RaterRow(*row)


def find_twin(engine: Engine, rater: RaterRow) -> RaterRow | None:
    """Return the newest other rater whose config differs in nothing but the seed."""
    statement = select(*COLUMNS).where(Rater.rater_id != rater.rater_id).order_by(Rater.rater_id.desc())
    with engine.connect() as connection:
        rows = [RaterRow(*row) for row in connection.execute(statement)]
    return next((row for row in rows if _without_seed(row.config) == _without_seed(rater.config)), None)


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"training": config["training"] | {"seed": None}}


def record_certificate(
    engine: Engine, rater: RaterRow, checks: Sequence[dict[str, Any]], *, is_certified: bool, actor: str
) -> None:
    """Store what an examination of a rater found, beside the figures of its training."""
    certificate = rater.certificate | {"checks": list(checks), "is_certified": is_certified}
    with engine.begin() as connection:
        connection.execute(update(Rater).where(Rater.rater_id == rater.rater_id).values(certificate=certificate))
        record_event(
            connection,
            actor,
            "certify",
            f"rater {rater.name}",
            after={"is_certified": is_certified, "checks": list(checks)},
        )


def register_rater(engine: Engine, **fields: Any) -> None:
    """Store a rater version and make its partition of scores, in one transaction."""
    with engine.begin() as connection:
        rater_id = connection.execute(insert(Rater).values(**fields).returning(Rater.rater_id)).scalar_one()
        connection.execute(text("SELECT alchemist.add_partition('scores', :rater_id)"), {"rater_id": rater_id})


def mark_shadow(engine: Engine, rater: RaterRow, *, is_shadow: bool, actor: str) -> None:
    """Let a candidate score every night beside the production rater, or no longer.

    Raises:
        ConfigError: If it is no candidate.
    """
    with engine.begin() as connection:
        statement = update(Rater).where(Rater.rater_id == rater.rater_id, Rater.state == "candidate")
        if connection.execute(statement.values(is_shadow=is_shadow)).rowcount == 0:
            raise ConfigError(f"Rater {rater.name} is {rater.state}: only a candidate can be a shadow.")
        if is_shadow != rater.is_shadow:
            record_event(
                connection, actor, "shadow", f"rater {rater.name}",
                before={"is_shadow": rater.is_shadow}, after={"is_shadow": is_shadow},
            )  # fmt: skip


def promote_rater(
    engine: Engine, rater: RaterRow, *, actor: str, reason: str | None = None, said: dict[str, str] | None = None
) -> None:
    """Put a rater into production and retire the one before: every reader switches at the commit.

    The audit event keeps `reason`, why one without a certificate is promoted, and `said`, who approved it.
    """
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE alchemist.raters IN SHARE ROW EXCLUSIVE MODE"))
        before = _production_name(connection)
        if before == rater.name:
            return
        now = func.clock_timestamp()
        connection.execute(update(Rater).where(Rater.state == "production").values(state="retired", retired_at=now))
        connection.execute(
            update(Rater)
            .where(Rater.rater_id == rater.rater_id)
            .values(state="production", is_shadow=False, promoted_at=now)
        )
        record_event(
            connection,
            actor,
            "promote",
            f"rater {rater.name}",
            before={"production": before},
            after={"production": rater.name} | ({"without_certificate": reason} if reason else {}) | (said or {}),
        )


def _production_name(connection: Connection) -> str | None:
    return connection.execute(select(Rater.name).where(Rater.state == "production")).scalar()
