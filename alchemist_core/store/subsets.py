"""Subset versions: stored once, published by one transaction, found by name."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from alchemist_core.data.manifests import Manifest
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.audit import record_event
from alchemist_core.store.locks import take_lock
from alchemist_core.store.members import count_taken_down, has_members, store_members
from alchemist_core.store.tables import AnyRow, Dataset, RankScale, RankSnapshot, Rater, Run, Subset


@dataclass(frozen=True, slots=True)
class SubsetRow:
    """A subset version."""

    subset_id: int
    name: str
    version: int
    snapshot_id: int
    strategy: str
    retention: float
    seed: int
    spec: dict[str, Any]
    spec_hash: str
    n_samples: int
    manifest_sha256: str
    manifest_uri: str
    state: str
    materialized_uri: str | None
    copy_uris: list[str]
    curves: dict[str, Any] | None
    predecessor_id: int | None
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    withdrawn_reason: str | None

    @property
    def title(self) -> str:
        """Name and version, as people say it."""
        return f"{self.name} v{self.version}"


COLUMNS = tuple(getattr(Subset, name) for name in SubsetRow.__slots__)


def find_subset(engine: Engine, name: str, *, version: int | None = None) -> SubsetRow:
    """Return a version of a subset; without a number the newest, a withdrawn one only where there is no other.

    Raises:
        ConfigError: If there is none; the text lists those that exist.
    """
    statement = select(*COLUMNS).where(Subset.name == name).limit(1)
    statement = statement.order_by(Subset.state == "withdrawn", Subset.version.desc())
    if version is not None:
        statement = statement.where(Subset.version == version)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
        if row is None:
            raise _unknown(connection, name, version)
    return SubsetRow(*row)


def list_subsets(engine: Engine, *, state: str | None = None) -> list[SubsetRow]:
    """Return all subset versions, oldest first, of one state or all."""
    statement = select(*COLUMNS).order_by(Subset.subset_id)
    if state is not None:
        statement = statement.where(Subset.state == state)
    with engine.connect() as connection:
        return [SubsetRow(*row) for row in connection.execute(statement)]


def find_by_spec(engine: Engine, name: str, spec_hash: str) -> SubsetRow | None:
    """Return the version that this spec made, if it was made before."""
    statement = select(*COLUMNS).where(Subset.name == name, Subset.spec_hash == spec_hash)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else SubsetRow(*row)


def find_by_id(engine: Engine, subset_id: int) -> SubsetRow:
    """Return a version by its key."""
    with engine.connect() as connection:
        return SubsetRow(*connection.execute(select(*COLUMNS).where(Subset.subset_id == subset_id)).one())


def store_subset(engine: Engine, **fields: Any) -> SubsetRow:
    """Store the next version of a subset."""
    with engine.begin() as connection:
        lock_name(connection, fields["name"])
        newest = select(func.coalesce(func.max(Subset.version), 0)).where(Subset.name == fields["name"])
        version = connection.execute(newest).scalar_one() + 1
        row = connection.execute(insert(Subset).values(version=version, **fields).returning(*COLUMNS)).one()
    return SubsetRow(*row)


def published_version(engine: Engine, name: str) -> SubsetRow | None:
    """Return the version of a subset that is published now, if one is."""
    statement = select(*COLUMNS).where(Subset.name == name, Subset.state == "published")
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else SubsetRow(*row)


def last_withdrawn(engine: Engine, name: str) -> SubsetRow | None:
    """Return the version that was withdrawn last of those that had been published, if there is one."""
    statement = select(*COLUMNS).where(
        Subset.name == name, Subset.state == "withdrawn", Subset.published_at.is_not(None)
    )
    with engine.connect() as connection:
        row = connection.execute(statement.order_by(Subset.withdrawn_at.desc()).limit(1)).one_or_none()
    return None if row is None else SubsetRow(*row)


def find_predecessor(engine: Engine, subset: SubsetRow) -> SubsetRow | None:
    """Return the version that a rollback goes back to: what was published before, those passed over that were withdrawn since."""
    before, seen = subset, {subset.subset_id}
    # Two versions that were published in turn are each other's predecessor.
    while before.predecessor_id is not None and before.predecessor_id not in seen:
        before = find_by_id(engine, before.predecessor_id)
        if before.state != "withdrawn":
            return before
        seen.add(before.subset_id)
    return None


def withdraw_subset(
    engine: Engine, subset: SubsetRow, *, reason: str, actor: str, fallback: SubsetRow | None
) -> SubsetRow | None:
    """Withdraw a version; where it was the published one, publish the fallback in its place in the same transaction.

    Args:
        engine: The store.
        subset: The version to withdraw; withdrawn already, nothing happens.
        reason: Why.
        actor: Who withdraws.
        fallback: The version to return to, with its membership stored; none: no version is published afterwards.

    Returns:
        The fallback, if it was published.

    Raises:
        DataError: The fallback cannot be published; nothing has changed then.
    """
    with engine.begin() as connection:
        lock_name(connection, subset.name)
        state = connection.execute(select(Subset.state).where(Subset.subset_id == subset.subset_id)).scalar_one()
        if state == "withdrawn":
            return None
        withdrawn: dict[str, Any] = {"state": "withdrawn", "withdrawn_at": func.clock_timestamp()}
        values = {**withdrawn, "withdrawn_by": actor, "withdrawn_reason": reason}
        connection.execute(update(Subset).where(Subset.subset_id == subset.subset_id).values(values))
        record_event(
            connection, actor, "withdraw", f"subset {subset.name}",
            before={"version": subset.version, "state": state}, after={"reason": reason},
        )  # fmt: skip
        if state != "published" or fallback is None:
            return None
        _make_current(connection, fallback, actor=actor, action="rollback")
        return fallback


def selection_report(engine: Engine, subset: SubsetRow) -> dict[str, Any]:
    """Return what `select` reported when it made a version; empty where its run is not kept."""
    statement = select(Run.report).join(Subset, Subset.run_id == Run.run_id).where(Subset.subset_id == subset.subset_id)
    with engine.connect() as connection:
        return connection.execute(statement).scalar() or {}


def publish_subset(
    engine: Engine,
    subset: SubsetRow,
    manifest: Manifest,
    *,
    actor: str,
    action: str = "publish",
    said: dict[str, str] | None = None,
) -> bool:
    """Make a version the published one of its name; False when it was already.

    The membership is stored before, however long that takes; what readers see then changes at once, by two short updates in one
    transaction.

    Args:
        engine: The store.
        subset: The version to publish.
        manifest: Its members.
        actor: Who publishes.
        action: `publish`, or `rollback`: going back does not change what the version itself goes back to; or `reinstate`: as
            `publish`, of a version that was withdrawn.
        said: Who approved it, and with which comment, for the audit event.

    Raises:
        DataError: If a member is not in the store, or its picture was taken down, or the version was withdrawn.
    """
    published = published_version(engine, subset.name)
    if published is not None and published.subset_id == subset.subset_id:
        return False
    store_members(engine, subset.subset_id, manifest)
    with engine.begin() as connection:
        lock_name(connection, subset.name)
        return _make_current(connection, subset, actor=actor, action=action, said=said)


def lock_name(connection: Connection, name: str) -> None:
    """Let one session at a time add versions of a name or change which is published."""
    take_lock(connection, f"subset {name}")


def _make_current(
    connection: Connection, subset: SubsetRow, *, actor: str, action: str, said: dict[str, str] | None = None
) -> bool:
    published = (Subset.name == subset.name, Subset.state == "published")
    before = connection.execute(select(Subset.subset_id, Subset.version).where(*published)).one_or_none()
    if before is not None and before.subset_id == subset.subset_id:
        return False
    state = connection.execute(select(Subset.state).where(Subset.subset_id == subset.subset_id)).scalar_one()
    if state == "withdrawn" and action != "reinstate":
        raise DataError(f"{subset.title} was withdrawn while it was being published: it is not published.")
    # Before the look at its datasets: it waits for the removal of one, which locks this table.
    connection.execute(update(Subset).where(*published).values(state="superseded"))
    _require_publishable(connection, subset, f" v{before.version} stays published." if before else "")
    values: dict[str, Any] = {
        "state": "published", "published_at": func.clock_timestamp(),
        "withdrawn_at": None, "withdrawn_by": None, "withdrawn_reason": None,
    }  # fmt: skip
    if action != "rollback":
        values["predecessor_id"] = before.subset_id if before else None
    connection.execute(update(Subset).where(Subset.subset_id == subset.subset_id).values(values))
    record_event(
        connection, actor, action, f"subset {subset.name}",
        before={"version": before.version if before else None}, after={"version": subset.version, **(said or {})},
    )  # fmt: skip
    return True


def _require_publishable(connection: Connection, subset: SubsetRow, otherwise: str) -> None:
    if not subset.n_samples:
        raise DataError(
            f"{subset.title} has no members: there is nothing to publish. Select again with a larger retention."
        )
    removed = connection.execute(
        select(Dataset.name)
        .join(RankSnapshot, Dataset.name == RankSnapshot.dataset_names.any_())
        .where(RankSnapshot.snapshot_id == subset.snapshot_id, Dataset.removed_at.is_not(None))
    ).scalars()
    if names := ", ".join(removed):
        raise ConfigError(f"{subset.title} draws from {names}, which was removed. Select again without it.{otherwise}")
    if not has_members(connection, subset.subset_id):
        raise DataError(
            f"The membership of {subset.title} was collected while it was being published: publish it again."
        )
    if n_taken_down := count_taken_down(connection, subset.subset_id):
        raise DataError(
            f"{n_taken_down:,} of {subset.n_samples:,} members of {subset.title} were taken down after it was drawn: it is not "
            f"published. Run its alchemist select again: the new version leaves them out.{otherwise}"
        )


def note_copy(engine: Engine, subset_id: int, uri: str) -> None:
    """Note where a version's bytes are about to be copied to, so that a takedown and gc know even of a copy that was killed."""
    statement = update(Subset).where(Subset.subset_id == subset_id, ~Subset.copy_uris.contains([uri]))
    with engine.begin() as connection:
        connection.execute(statement.values(copy_uris=func.array_append(Subset.copy_uris, uri)))


def _unknown(connection: Connection, name: str, version: int | None) -> ConfigError:
    versions = connection.execute(select(Subset.version).where(Subset.name == name).order_by(Subset.version)).scalars()
    if known := ", ".join(map(str, versions)):
        return ConfigError(f"There is no subset {name!r} v{version} (versions: {known}).")
    names = connection.execute(select(Subset.name).distinct().order_by(Subset.name)).scalars()
    known = ", ".join(names) or "none"
    return ConfigError(
        f"There is no subset {name!r}{f' v{version}' if version else ''} (subsets: {known}). Make one: alchemist select."
    )


def forget_copy(engine: Engine, subset_id: int, uri: str) -> None:
    """Forget a copy that was removed again."""
    statement = update(Subset).where(Subset.subset_id == subset_id)
    with engine.begin() as connection:
        connection.execute(statement.values(copy_uris=func.array_remove(Subset.copy_uris, uri)))


def mark_materialized(engine: Engine, subset_id: int, uri: str) -> None:
    """Note where a version's bytes were copied to; the first time stays."""
    statement = update(Subset).where(Subset.subset_id == subset_id, Subset.materialized_at.is_(None))
    with engine.begin() as connection:
        connection.execute(statement.values(materialized_uri=uri, materialized_at=func.clock_timestamp()))


def rater_of_subset(engine: Engine, subset: SubsetRow) -> AnyRow:
    """Return the rater that ranked a subset (id, name, rule, config, checkpoint) and what it was drawn from (datasets, eligible set)."""
    statement = (
        select(
            Rater.rater_id,
            Rater.name,
            Rater.rule,
            Rater.config,
            Rater.checkpoint_uri,
            Rater.checkpoint_sha256,
            RankSnapshot.dataset_names,
            RankSnapshot.eligible_hash,
            RankSnapshot.n_eligible,
        )
        .join(RankScale, RankScale.rater_id == Rater.rater_id)
        .join(RankSnapshot, RankSnapshot.rank_scale_id == RankScale.rank_scale_id)
        .where(RankSnapshot.snapshot_id == subset.snapshot_id)
    )
    with engine.connect() as connection:
        return connection.execute(statement).one()
