"""Rater versions: registered once, found by name, promoted in one transaction."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, cast, func, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB

from alchemist_core.errors import ConfigError
from alchemist_core.rating.acceptance import HELD_OUT
from alchemist_core.shards.decode_versions import UNPINNED
from alchemist_core.store.audit import current_airflow_run, record_event
from alchemist_core.store.export import scores_by_name
from alchemist_core.store.tables import AuditEvent, Rater, Run


@dataclass(frozen=True, slots=True)
class RaterRow:
    """A registered rater version: a trained network, a scorer, or imported scores (its kind)."""

    rater_id: int
    name: str
    rule: str
    state: str
    checkpoint_uri: str
    checkpoint_sha256: bytes
    acceptance_report: dict[str, Any]
    config: dict[str, Any]
    is_shadow: bool = False
    kind: str = "trained"


NIGHTLY = "nightly"
COLUMNS = tuple(getattr(Rater, name) for name in RaterRow.__slots__)


def rater_option(name: str, state: str | None = None) -> str:
    """Return the option with which a command names a rater, after a space; empty for the one in production, the default of commands.

    >>> rater_option("r1", "candidate"), rater_option("r1", "production"), rater_option("production")
    (' --rater r1', '', '')
    """
    return "" if "production" in (name, state) else f" --rater {shlex.quote(name)}"


def find_rater(engine: Engine, wanted: str) -> RaterRow | None:
    """Return a rater by name, `production`, or `newest`; None if there is none.

    `newest` is the result of the training that ended last; in an Airflow run that trained a rater, of its own last training.

    Raises:
        ConfigError: There is no rater of that name; the message lists the raters.
    """
    statement = select(*COLUMNS)
    if wanted == "production":
        statement = statement.where(Rater.state == "production")
    elif wanted == "newest":
        # By the last training run, not by the newest row: a training can return a rater that exists already.
        last = select(Run.result["rater"].as_string()).where(Run.stage == "train_rater", Run.state == "succeeded")
        # Runs are numbered at their start, and a training that began later may have ended earlier. Runs of version 0.1 have no actor.
        is_own = func.coalesce(Run.actor == (current_airflow_run() or ""), False)
        trained = last.order_by(is_own.desc(), Run.finished_at.desc()).limit(1).scalar_subquery()
        statement = statement.where(Rater.kind == "trained")
        statement = statement.order_by((Rater.name == trained).desc().nulls_last(), Rater.rater_id.desc()).limit(1)
    else:
        statement = statement.where(Rater.name == wanted)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
        if row is None and wanted not in ("production", "newest"):
            names = ", ".join(connection.execute(select(Rater.name).order_by(Rater.rater_id)).scalars()) or "none"
            raise ConfigError(f"There is no rater {wanted!r} (raters: {names}).")
    return None if row is None else RaterRow(*row)


def require_trained(rater: RaterRow) -> None:
    """Require a trained rater: acceptance and production are for raters.

    Raises:
        ConfigError: It is a scorer, or imported scores.
    """
    if rater.kind != "trained":
        raise ConfigError(
            f"{rater.name} is no trained rater but {'a scorer' if rater.kind == 'scorer' else 'imported scores'}. "
            f"Select by it: alchemist select --rank-by {rater.name}, if there is a rater in production."
        )


def find_raters(engine: Engine, wanted: str) -> list[RaterRow]:
    """Return the raters for a name or a word: `nightly` means the production rater and every shadow rater.

    Raises:
        ConfigError: As `find_rater`.
    """
    if wanted != NIGHTLY:
        return [rater for rater in [find_rater(engine, wanted)] if rater is not None]
    statement = (
        select(*COLUMNS)
        .where(
            or_(Rater.state == "production", (Rater.state == "candidate") & Rater.is_shadow), Rater.kind != "imported"
        )
        .order_by(Rater.state.desc(), Rater.rater_id)
    )
    with engine.connect() as connection:
        return [RaterRow(*row) for row in connection.execute(statement)]


class ListedRater(NamedTuple):
    """A rater in the list of all raters, with the datasets it was trained and validated on."""

    name: str
    state: str
    is_shadow: bool
    rule: str
    dataset: str
    validation: str
    trained_at: datetime
    acceptance_report: dict[str, Any]
    decode_version: int


def list_raters(engine: Engine) -> list[ListedRater]:
    """Return every trained rater version, oldest first."""
    datasets = (Rater.config[name].as_string() for name in ("dataset", "validation"))
    version = func.coalesce(Rater.config["training", "decode_version"].as_integer(), UNPINNED)
    statement = select(
        Rater.name,
        Rater.state,
        Rater.is_shadow,
        Rater.rule,
        *datasets,
        Rater.created_at,
        Rater.acceptance_report,
        version,
    ).where(Rater.kind == "trained")
    with engine.connect() as connection:
        return [ListedRater(*row) for row in connection.execute(statement.order_by(Rater.rater_id))]


class NamedRater(NamedTuple):
    """A rater, scorer or import in the list of everything that scores; `is_certified` is true, false or None (not checked)."""

    name: str
    kind: str
    state: str
    is_shadow: bool
    rule: str
    created_at: datetime
    is_certified: str | None


def list_all_raters(engine: Engine) -> list[NamedRater]:
    """Return all raters, scorers and imports: the production rater first, then the newest."""
    statement = select(
        Rater.name, Rater.kind, Rater.state, Rater.is_shadow, Rater.rule, Rater.created_at,
        Rater.acceptance_report["is_certified"].as_string(),
    ).order_by((Rater.state == "production").desc(), Rater.rater_id.desc())  # fmt: skip
    with engine.connect() as connection:
        return [NamedRater._make(row) for row in connection.execute(statement)]


def find_trained(engine: Engine, identity_hash: str) -> RaterRow | None:
    """Return the rater of this config and training data, if it was trained before."""
    with engine.connect() as connection:
        row = connection.execute(select(*COLUMNS).where(Rater.identity_hash == identity_hash)).one_or_none()
    return None if row is None else RaterRow(*row)


def find_twin(engine: Engine, rater: RaterRow, present: Callable[[dict[str, Any]], dict[str, Any]]) -> RaterRow | None:
    """Return the newest rater with another seed whose config differs in nothing else.

    Args:
        engine: The store.
        rater: The rater to compare with.
        present: Converts a stored config to the current names of fields.
    """

    def recipe(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"training": present(config["training"]) | {"seed": None}}

    others = (Rater.rater_id != rater.rater_id, Rater.kind == "trained")
    statement = select(*COLUMNS).where(*others).order_by(Rater.rater_id.desc())
    with engine.connect() as connection:
        rows = [RaterRow(*row) for row in connection.execute(statement)]
    own, seed = recipe(rater.config), rater.config["training"]["seed"]
    # A rater of the same seed, trained before the dataset grew, began with the same weights.
    return next((row for row in rows if recipe(row.config) == own and row.config["training"]["seed"] != seed), None)


def record_acceptance_report(
    engine: Engine, rater: RaterRow, checks: Sequence[dict[str, Any]], *, is_certified: bool, actor: str
) -> None:
    """Store the acceptance report of a rater, with the figures of its training."""
    acceptance_report = rater.acceptance_report | {"checks": list(checks), "is_certified": is_certified}
    with engine.begin() as connection:
        connection.execute(
            update(Rater).where(Rater.rater_id == rater.rater_id).values(acceptance_report=acceptance_report)
        )
        record_event(
            connection,
            actor,
            "certify",
            f"rater {rater.name}",
            after={"is_certified": is_certified, "checks": list(checks)},
        )


def record_held_out(engine: Engine, names: Sequence[str], quantiles: Sequence[float]) -> None:
    """Store the quantiles of the scores that held-out validation samples get from a scorer.

    Args:
        engine: The store.
        names: Its rows.
        quantiles: From 0% to 100%, in steps of 1%.
    """
    report = Rater.acceptance_report.op("||")(cast({HELD_OUT: list(quantiles)}, JSONB))
    with engine.begin() as connection:
        connection.execute(update(Rater).where(Rater.name.in_(names)).values(acceptance_report=report))


def register_rater(engine: Engine, **fields: Any) -> None:
    """Store a rater version and create its partition of scores, in one transaction."""
    register_raters(engine, [fields])


def register_raters(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store several rater versions, such as the outputs of one scorer, with their partitions of scores, in one transaction."""
    with engine.begin() as connection:
        for fields in rows:
            rater_id = connection.execute(insert(Rater).values(**fields).returning(Rater.rater_id)).scalar_one()
            connection.execute(text("SELECT alchemist.add_partition('scores', :rater_id)"), {"rater_id": rater_id})


def update_scorer(engine: Engine, configs: Mapping[str, Mapping[str, Any]], uri: str, sha256: bytes) -> None:
    """Replace the description of a scorer's outputs, whose identity stays.

    Args:
        engine: The store.
        configs: Config of each output, by its name.
        uri: Address of the folder that describes the scorer.
        sha256: Hash of that folder.
    """
    with engine.begin() as connection:
        for name, config in configs.items():
            values = {"config": dict(config), "checkpoint_uri": uri, "checkpoint_sha256": sha256}
            connection.execute(update(Rater).where(Rater.name == name).values(**values))


def note_section(engine: Engine, rater_ids: Sequence[int], section: str) -> None:
    """Store the hash of the project file's section that a scorer follows."""
    flag = cast({"section": section}, JSONB)
    is_changed = func.coalesce(Rater.config["section"].as_string(), "") != section
    with engine.begin() as connection:
        statement = update(Rater).where(Rater.rater_id.in_(rater_ids), is_changed)
        connection.execute(statement.values(config=Rater.config.concat(flag)))


def find_identities(engine: Engine, identity_hashes: Sequence[str]) -> list[str]:
    """Return the names of the scorers that have an output with one of these identities."""
    name = Rater.config["name"].as_string()
    with engine.connect() as connection:
        statement = select(name).where(Rater.identity_hash.in_(identity_hashes)).order_by(Rater.rater_id)
        return list(dict.fromkeys(connection.execute(statement).scalars()))


class ListedScorer(NamedTuple):
    """A scorer's output, or imported scores, in the list of all."""

    name: str
    kind: str
    state: str
    is_shadow: bool
    config: dict[str, Any]
    created_at: datetime


def list_scorers(engine: Engine) -> list[ListedScorer]:
    """Return every registered scorer's outputs and every set of imported scores, oldest first."""
    columns = (getattr(Rater, name) for name in ListedScorer._fields)
    statement = select(*columns).where(Rater.kind != "trained").order_by(Rater.rater_id)
    with engine.connect() as connection:
        return [ListedScorer(*row) for row in connection.execute(statement)]


def find_named(engine: Engine, names: Sequence[str]) -> list[RaterRow]:
    """Return the raters of these names; those that do not exist are left out."""
    with engine.connect() as connection:
        rows = connection.execute(select(*COLUMNS).where(Rater.name.in_(names)).order_by(Rater.rater_id))
        return [RaterRow(*row) for row in rows]


def find_score(engine: Engine, name: str) -> RaterRow | None:
    """Return the rater, scorer or import whose score a selection names so; None for heuristics and numbers of the crawl."""
    with engine.connect() as connection:
        rater_id = scores_by_name(connection).get(name)
        row = connection.execute(select(*COLUMNS).where(Rater.rater_id == rater_id)).one_or_none()
        return None if row is None else RaterRow(*row)


def find_outputs(engine: Engine, scorer: str) -> list[RaterRow]:
    """Return the outputs of a registered scorer, in their order; none if there is no such scorer."""
    of_scorer = (Rater.kind == "scorer", Rater.config["name"].as_string() == scorer)
    with engine.connect() as connection:
        return [
            RaterRow(*row) for row in connection.execute(select(*COLUMNS).where(*of_scorer).order_by(Rater.rater_id))
        ]


def retire_scorers(engine: Engine, names: Sequence[str], *, actor: str, reason: str | None) -> None:
    """Retire the outputs of a scorer: they score nothing more, and their scores stay.

    Raises:
        ConfigError: One of them is in production.
    """
    with engine.begin() as connection:
        is_meant = (Rater.name.in_(names), Rater.kind != "trained")
        found = connection.execute(select(Rater.name, Rater.state).where(*is_meant).with_for_update()).all()
        for name, state in found:
            if state == "production":
                raise ConfigError(
                    f"Scorer {name} is in production. Promote another rater first: alchemist rater promote"
                )
            record_event(
                connection,
                actor,
                "retire",
                f"rater {name}",
                before={"state": state},
                after={"state": "retired", "reason": reason},
            )
        values = {"state": "retired", "is_shadow": False, "retired_at": func.clock_timestamp()}
        connection.execute(update(Rater).where(*is_meant, Rater.state == "candidate").values(values))


def reinstate_scorer(engine: Engine, rows: Sequence[RaterRow], *, actor: str) -> None:
    """Make the retired outputs of a scorer candidates again, which score what came meanwhile when they are asked to."""
    with engine.begin() as connection:
        for row in rows:
            is_retired = (Rater.rater_id == row.rater_id, Rater.state == "retired")
            statement = update(Rater).where(*is_retired).values(state="candidate", retired_at=None)
            if connection.execute(statement).rowcount:
                states = {"before": {"state": "retired"}, "after": {"state": "candidate"}}
                record_event(connection, actor, "reinstate", f"rater {row.name}", **states)


def mark_shadow(engine: Engine, rater: RaterRow, *, is_shadow: bool, actor: str) -> None:
    """Make a candidate a shadow rater, which scores every night beside the production rater, or end that.

    Raises:
        ConfigError: It is not a candidate.
    """
    with engine.begin() as connection:
        statement = update(Rater).where(Rater.rater_id == rater.rater_id, Rater.state == "candidate")
        if connection.execute(statement.values(is_shadow=is_shadow)).rowcount == 0:
            raise ConfigError(f"Rater {rater.name} is in state {rater.state}. Only a candidate can be a shadow rater.")
        if is_shadow != rater.is_shadow:
            record_event(
                connection, actor, "shadow", f"rater {rater.name}",
                before={"is_shadow": rater.is_shadow}, after={"is_shadow": is_shadow},
            )  # fmt: skip


def promote_rater(
    engine: Engine, rater: RaterRow, *, actor: str, reason: str | None = None, approved: dict[str, str] | None = None
) -> None:
    """Promote a rater to production and retire the current one, in one transaction.

    The audit event stores `reason` (why a rater is promoted that has not passed its acceptance checks) and `approved` (who approved it).
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
            after={"production": rater.name} | ({"without_acceptance": reason} if reason else {}) | (approved or {}),
        )


def promotion_reason(engine: Engine, rater: RaterRow) -> str | None:
    """Return why a rater was last promoted without having passed its acceptance checks; None if no reason is stored."""
    statement = (
        select(AuditEvent.after)
        .where(AuditEvent.action == "promote", AuditEvent.subject == f"rater {rater.name}")
        .order_by(AuditEvent.audit_event_id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        after = connection.execute(statement).scalar_one_or_none()
    return (after or {}).get("without_acceptance")


def _production_name(connection: Connection) -> str | None:
    return connection.execute(select(Rater.name).where(Rater.state == "production")).scalar()
