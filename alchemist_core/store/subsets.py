"""Subset versions: how they are stored, published, withdrawn, found by name and garbage-collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from alchemist_core.config import current_names
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.lazy import NDArray, np
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.store.audit import record_event
from alchemist_core.store.copy import copy_columns
from alchemist_core.store.leases import take_lock, try_lock
from alchemist_core.store.manifests import Manifest
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import Dataset, RankScale, RankSnapshot, Rater, Run, Subset, SubsetSample
from alchemist_core.telemetry import say

CHUNK_ROWS = 250_000
"""Members that are encoded and sent at a time: 12 MB."""
# In the order of the key, so that rows are only appended to its index.
STORE = text("""
    INSERT INTO alchemist.subset_samples (subset_id, sample_id, rank, weight)
    SELECT :subset_id, samples.sample_id, members.rank, members.weight FROM members INNER JOIN alchemist.samples USING (pair_hash)
    ORDER BY samples.sample_id
""")


def store_members(engine: Engine, subset_id: int, manifest: Manifest) -> None:
    """COPY a manifest's members into the version's partition, unless it is filled: members never change.

    Raises:
        DataError: A member is not in the store; the partition then stays empty.
    """
    with _locked_partition(engine, subset_id) as connection:
        with connection.begin():
            # In a transaction of its own: attaching locks the parent table, and the COPY after it can take minutes.
            connection.execute(text("SELECT alchemist.add_partition('subset_samples', :id)"), {"id": subset_id})
        with connection.begin():
            if not has_members(connection, subset_id):
                _fill(connection, subset_id, manifest)


def has_members(connection: Connection, subset_id: int) -> bool:
    """Return whether a version's members are in the store."""
    statement = SubsetSample.__table__.select().where(SubsetSample.subset_id == subset_id).limit(1)
    return connection.execute(statement).first() is not None


def has_stored_members(engine: Engine, subset_id: int) -> bool:
    """Return whether a version's members are in the store, for readers without a transaction."""
    with engine.connect() as connection:
        return has_members(connection, subset_id)


def lock_members(connection: Connection, subset_id: int) -> bool:
    """Keep other sessions from storing a version's members until this transaction ends; False if one is storing them now."""
    return try_lock(connection, f"members {subset_id}")


def drop_members(connection: Connection, subset_id: int) -> None:
    """Drop a version's members, locked by `lock_members`, from the store; its manifest can restore them."""
    connection.execute(text("SELECT alchemist.drop_partition('subset_samples', :id)"), {"id": subset_id})


@contextmanager
def _locked_partition(engine: Engine, subset_id: int) -> Iterator[Connection]:
    """Yield a connection while a lock keeps other sessions from filling or dropping the version's partition."""
    # The lock ends with its transaction, so it has a connection of its own and can span several transactions of the other.
    with engine.connect() as connection, engine.connect() as holder:
        with holder.begin():
            # Insert and commit the row first: an uncommitted insert would make `lock_members` wait.
            take_lock(holder, f"members {subset_id}")
        with holder.begin():
            take_lock(holder, f"members {subset_id}")
            yield connection


def count_taken_down(connection: Connection, subset_id: int) -> int:
    """Count the stored members whose image was taken down after the selection."""
    return int(connection.execute(load_query("count_taken_down"), {"subset_id": subset_id}).scalar_one())


def _copy_members(connection: Connection, manifest: Manifest) -> None:
    connection.execute(
        text("CREATE TEMPORARY TABLE members (pair_hash bytea, rank float8, weight float8) ON COMMIT DROP")
    )
    # numpy sees 32 bytes as one value, like a column of bytea.
    pair_hash_K = np.ascontiguousarray(manifest.pair_hash_K32).view("V32").ravel()
    for start in range(0, len(manifest), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        columns = {"pair_hash": pair_hash_K[chunk], "rank": manifest.rank_K[chunk]}
        if manifest.weight_K is not None:
            columns["weight"] = manifest.weight_K[chunk]
        copy_columns(connection, "members", columns)
    # Without statistics the planner expects few rows and looks up millions of them one by one.
    connection.execute(text("ANALYZE members"))


def _copy_ids(connection: Connection, subset_id: int, sample_id_K: NDArray[np.int64], manifest: Manifest) -> None:
    """COPY members whose ids are known, in their order, so that the primary key grows at its end."""
    order_K = np.argsort(sample_id_K)
    for start in range(0, len(order_K), CHUNK_ROWS):
        chunk = order_K[start : start + CHUNK_ROWS]
        columns: dict[str, NDArray[Any]] = {
            "subset_id": np.full(len(chunk), subset_id, np.int32), "sample_id": sample_id_K[chunk], "rank": manifest.rank_K[chunk]
        }  # fmt: skip
        if manifest.weight_K is not None:
            columns["weight"] = manifest.weight_K[chunk]
        copy_columns(connection, "alchemist.subset_samples", columns)


def _fill(connection: Connection, subset_id: int, manifest: Manifest) -> None:
    from alchemist_core.store.night_files import find_ids  # noqa: PLC0415  loads numpy

    sample_id_K = find_ids(connection, subset_id, manifest.pair_hash_K32)
    if sample_id_K is not None:
        _copy_ids(connection, subset_id, sample_id_K, manifest)
        return
    _copy_members(connection, manifest)
    n_stored = connection.execute(STORE, {"subset_id": subset_id}).rowcount
    if n_stored != len(manifest):
        raise DataError(
            f"The manifest has {len(manifest):,} members, but only {n_stored:,} of them are in this store, so it was not published. "
            "It may have been selected from another store: select it again here."
        )


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
    epoch_size: int | None
    manifest_sha256: str
    manifest_uri: str
    state: str
    materialized_uri: str | None
    all_materialized_uris: list[str]
    curves: dict[str, Any] | None
    predecessor_id: int | None
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    withdrawn_reason: str | None

    def __post_init__(self) -> None:
        """Translate former names of options in the stored specification."""
        object.__setattr__(self, "spec", current_names(SelectionPolicy, self.spec))

    @property
    def title(self) -> str:
        """Name and version, such as `web-r20 v3`."""
        return f"{self.name} v{self.version}"

    @property
    def n_reads(self) -> int:
        """Number of samples that an epoch reads: the members, or more if they are repeated."""
        return self.n_samples if self.epoch_size is None else self.epoch_size


COLUMNS = tuple(getattr(Subset, name) for name in SubsetRow.__slots__)


def find_subset(engine: Engine, name: str, *, version: int | None = None) -> SubsetRow:
    """Return a version of a subset; by default the newest that was not withdrawn, else the newest.

    Raises:
        ConfigError: There is no such version; the message lists those that exist.
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
    """Return the subset versions in one state, or all of them, oldest first."""
    statement = select(*COLUMNS).order_by(Subset.subset_id)
    if state is not None:
        statement = statement.where(Subset.state == state)
    with engine.connect() as connection:
        return [SubsetRow(*row) for row in connection.execute(statement)]


def find_by_spec(engine: Engine, name: str, spec_hash: str) -> SubsetRow | None:
    """Return the version with this specification, or None."""
    with engine.connect() as connection:
        return _with_spec(connection, name, spec_hash)


def _with_spec(connection: Connection, name: str, spec_hash: str) -> SubsetRow | None:
    statement = select(*COLUMNS).where(Subset.name == name, Subset.spec_hash == spec_hash)
    row = connection.execute(statement).one_or_none()
    return None if row is None else SubsetRow(*row)


def find_by_id(engine: Engine, subset_id: int) -> SubsetRow:
    """Return a version by its key."""
    with engine.connect() as connection:
        return SubsetRow(*connection.execute(select(*COLUMNS).where(Subset.subset_id == subset_id)).one())


def store_subset(engine: Engine, **fields: Any) -> tuple[SubsetRow, bool]:
    """Store the next version of a subset, unless another session has stored this specification; return it and whether it is new."""
    with engine.begin() as connection:
        lock_name(connection, fields["name"])
        if (known := _with_spec(connection, fields["name"], fields["spec_hash"])) is not None:
            return known, False
        newest = select(func.coalesce(func.max(Subset.version), 0)).where(Subset.name == fields["name"])
        version = connection.execute(newest).scalar_one() + 1
        row = connection.execute(insert(Subset).values(version=version, **fields).returning(*COLUMNS)).one()
    return SubsetRow(*row), True


def published_version(engine: Engine, name: str) -> SubsetRow | None:
    """Return the published version of a subset, or None."""
    statement = select(*COLUMNS).where(Subset.name == name, Subset.state == "published")
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else SubsetRow(*row)


def last_withdrawn(engine: Engine, name: str) -> SubsetRow | None:
    """Return the last withdrawn version that had been published, or None."""
    statement = select(*COLUMNS).where(
        Subset.name == name, Subset.state == "withdrawn", Subset.published_at.is_not(None)
    )
    with engine.connect() as connection:
        row = connection.execute(statement.order_by(Subset.withdrawn_at.desc()).limit(1)).one_or_none()
    return None if row is None else SubsetRow(*row)


def find_version_before(engine: Engine, subset: SubsetRow) -> SubsetRow | None:
    """Return the version of the same name that was selected before this one, or None."""
    statement = select(*COLUMNS).where(Subset.name == subset.name, Subset.version < subset.version)
    with engine.connect() as connection:
        row = connection.execute(statement.order_by(Subset.version.desc()).limit(1)).one_or_none()
    return None if row is None else SubsetRow(*row)


def find_predecessor(engine: Engine, subset: SubsetRow) -> SubsetRow | None:
    """Return the version that a rollback returns to: the one published before, passing over withdrawn versions."""
    before, seen = subset, {subset.subset_id}
    # Two versions that were published alternately are each other's predecessor.
    while before.predecessor_id is not None and before.predecessor_id not in seen:
        before = find_by_id(engine, before.predecessor_id)
        if before.state != "withdrawn":
            return before
        seen.add(before.subset_id)
    return None


def withdraw_subset(
    engine: Engine, subset: SubsetRow, *, reason: str, actor: str, fallback: SubsetRow | None
) -> SubsetRow | None:
    """Withdraw a version; if it is the published one, publish the fallback in the same transaction.

    Args:
        engine: The store.
        subset: The version to withdraw; if it is already withdrawn, nothing happens.
        reason: Why.
        actor: Who withdraws.
        fallback: Version to publish instead, with its members stored; None: no version is published afterwards.

    Returns:
        The fallback, if it was published.

    Raises:
        DataError: The fallback cannot be published; then nothing changes.
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


def selection_result(engine: Engine, subset: SubsetRow) -> dict[str, Any]:
    """Return the result of the `select` run that made a version; empty if the run is not stored."""
    statement = select(Run.result).join(Subset, Subset.run_id == Run.run_id).where(Subset.subset_id == subset.subset_id)
    with engine.connect() as connection:
        return connection.execute(statement).scalar() or {}


def publish_subset(
    engine: Engine,
    subset: SubsetRow,
    manifest: Manifest,
    *,
    actor: str,
    action: str = "publish",
    approved: dict[str, str] | None = None,
) -> bool:
    """Publish a version of a subset; returns False if it is already published.

    The members are stored first, which can take minutes. Then two short updates in one transaction change what readers see.

    Args:
        engine: The store.
        subset: The version to publish.
        manifest: Its members.
        actor: Who publishes.
        action: `publish`; `rollback`, which leaves the version's own predecessor unchanged; or `reinstate`, which publishes a
            withdrawn version.
        approved: Who approved it and their comment, for the audit event.

    Raises:
        DataError: A member is not in the store, an image was taken down, or the version was withdrawn.
    """
    published = published_version(engine, subset.name)
    if published is not None and published.subset_id == subset.subset_id:
        return False
    store_members(engine, subset.subset_id, manifest)
    with engine.begin() as connection:
        lock_name(connection, subset.name)
        return _make_current(connection, subset, actor=actor, action=action, approved=approved)


def lock_name(connection: Connection, name: str) -> None:
    """Lock a name: only one session at a time adds, publishes or withdraws its versions."""
    take_lock(connection, f"subset {name}")


def _make_current(
    connection: Connection, subset: SubsetRow, *, actor: str, action: str, approved: dict[str, str] | None = None
) -> bool:
    published = (Subset.name == subset.name, Subset.state == "published")
    before = connection.execute(select(Subset.subset_id, Subset.version).where(*published)).one_or_none()
    if before is not None and before.subset_id == subset.subset_id:
        return False
    state = connection.execute(select(Subset.state).where(Subset.subset_id == subset.subset_id)).scalar_one()
    if state == "withdrawn" and action != "reinstate":
        raise DataError(f"{subset.title} was withdrawn while it was being published, so it was not published.")
    # Before the datasets are checked: this update waits for the removal of a dataset, which locks this table.
    connection.execute(update(Subset).where(*published).values(state="superseded"))
    # A takedown either commits before its images are counted here, or waits and then finds this version published. It takes no lock of a
    # name, so that neither waits for the other.
    take_lock(connection, "takedowns")
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
        before={"version": before.version if before else None}, after={"version": subset.version, **(approved or {})},
    )  # fmt: skip
    return True


def _require_publishable(connection: Connection, subset: SubsetRow, otherwise: str) -> None:
    if not subset.n_samples:
        raise DataError(
            f"{subset.title} has no members, so it cannot be published. Select again with a larger retention."
        )
    removed = connection.execute(
        select(Dataset.name)
        .join(RankSnapshot, Dataset.name == RankSnapshot.dataset_names.any_())
        .where(RankSnapshot.snapshot_id == subset.snapshot_id, Dataset.removed_at.is_not(None))
    ).scalars()
    if names := ", ".join(removed):
        raise ConfigError(
            f"{subset.title} was selected from {names}, which was removed. Select again without it.{otherwise}"
        )
    # The caller holds the name's lock, which garbage collection needs before it removes either of them.
    if not (has_members(connection, subset.subset_id) and artifact_path(subset.manifest_uri).is_file()):
        raise DataError(
            f"The members of {subset.title} were garbage-collected while it was being published. Publish it again."
        )
    if n_taken_down := count_taken_down(connection, subset.subset_id):
        raise DataError(
            f"{n_taken_down:,} of {subset.n_samples:,} members of {subset.title} were taken down after it was selected, so it "
            f"was not published. Run its alchemist select again: the new version leaves them out.{otherwise}"
        )


def note_copy(engine: Engine, subset_id: int, uri: str) -> None:
    """Record where a version is about to be materialized, so that takedowns and garbage collection find it even if that is killed."""
    statement = update(Subset).where(Subset.subset_id == subset_id, ~Subset.all_materialized_uris.contains([uri]))
    with engine.begin() as connection:
        connection.execute(statement.values(all_materialized_uris=func.array_append(Subset.all_materialized_uris, uri)))


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
    """Remove the record of a materialized dataset that was deleted."""
    statement = update(Subset).where(Subset.subset_id == subset_id)
    with engine.begin() as connection:
        connection.execute(statement.values(all_materialized_uris=func.array_remove(Subset.all_materialized_uris, uri)))


def mark_materialized(engine: Engine, subset_id: int, uri: str) -> None:
    """Record the first complete materialized dataset of a version, and when one was last needed: garbage collection counts from then."""
    first_uri = func.coalesce(Subset.materialized_uri, uri)
    statement = update(Subset).where(Subset.subset_id == subset_id)
    with engine.begin() as connection:
        connection.execute(statement.values(materialized_uri=first_uri, materialized_at=func.clock_timestamp()))


class SubsetRater(NamedTuple):
    """The rater that ranked a subset, and the snapshot that the subset was selected from."""

    rater_id: int
    name: str
    rule: str
    config: dict[str, Any]
    checkpoint_uri: str
    checkpoint_sha256: bytes
    dataset_names: list[str]
    eligible_hash: str
    n_eligible: int
    kind: str


def require_tokenizer(rater: SubsetRater) -> None:
    """Refuse a version whose models cannot share the tokenizer of its rater.

    Raises:
        ConfigError: A scorer ranked the version.
    """
    if rater.kind != "trained":
        raise ConfigError(
            f"Scorer {rater.name} ranked this version. It has no tokenizer, which models other than FLUX-mini share with a trained rater. "
            f"Select under a rater: alchemist select --rater RATER --rank-by {rater.name}."
        )


def rater_of_subset(engine: Engine, subset: SubsetRow) -> SubsetRater:
    """Return the rater that ranked a subset, and what the subset was selected from."""
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
            Rater.kind,
        )
        .join(RankScale, RankScale.rater_id == Rater.rater_id)
        .join(RankSnapshot, RankSnapshot.rank_scale_id == RankScale.rank_scale_id)
        .where(RankSnapshot.snapshot_id == subset.snapshot_id)
    )
    with engine.connect() as connection:
        return SubsetRater._make(connection.execute(statement).one())


def ranking_rule(engine: Engine, subset: SubsetRow) -> str:
    """Return the scoring rule whose scores ranked a version; empty if other scores ranked it, alone or with them."""
    is_rated = subset.spec.get("rank_by", RATER_SCORE) == RATER_SCORE
    return rater_of_subset(engine, subset).rule if is_rated else ""


LOCK_NOT_AVAILABLE = "55P03"


class CollectableVersion(NamedTuple):
    """A version that garbage collection may remove, and what it holds. `members_bytes` is 0 if its members are not in the store."""

    subset_id: int
    name: str
    version: int
    state: str
    manifest_uri: str
    all_materialized_uris: list[str]
    members_bytes: int


class TaintedVersion(NamedTuple):
    """A version whose materialized datasets contain images that were taken down; its members are kept."""

    subset_id: int
    name: str
    version: int
    state: str
    all_materialized_uris: list[str]
    n_taken_down: int


def find_collectable(connection: Connection, name: str | None, min_age_days: float) -> list[CollectableVersion]:
    """Return the versions that garbage collection may remove (query `collectable_versions`)."""
    parameters = {"name": name, "min_age_days": min_age_days}
    return [CollectableVersion._make(row) for row in connection.execute(load_query("collectable_versions"), parameters)]


def find_tars_with_taken_down(connection: Connection, name: str | None) -> list[TaintedVersion]:
    """Return the versions whose materialized datasets contain images that were taken down (query `tars_with_taken_down`)."""
    return [TaintedVersion._make(row) for row in connection.execute(load_query("tars_with_taken_down"), {"name": name})]


def manifest_uris(engine: Engine) -> set[str]:
    """Return the URI of every version's manifest."""
    with engine.connect() as connection:
        return set(connection.execute(select(Subset.manifest_uri)).scalars())


def collect(
    engine: Engine,
    row: CollectableVersion | TaintedVersion,
    *,
    is_still_free: Callable[[Connection], bool],
    remove_copies: Callable[[], None],
    remove_manifest: Callable[[], None],
) -> bool:
    """Remove a version's materialized datasets, members and manifest, unless the version is in use again.

    Two transactions, because deleting tars can take minutes and dropping members makes readers of every subset wait. Members are dropped
    last, because takedowns find by them which tars contain an image. Both lock the members: materializing starts by storing them, so
    no dataset is materialized meanwhile.

    Args:
        engine: The store.
        row: The version. A tainted one keeps its members.
        is_still_free: Checked again under the locks, in both transactions.
        remove_copies: Deletes the tars; called at the end of its transaction, so that an interrupted collection can be repeated.
        remove_manifest: Deletes the manifest, likewise.

    Returns:
        False if the version is in use again, has other materialized datasets now, its members are being stored, or a reader keeps
        its partition locked for more than 5 s.
    """
    try:
        with _locked_name(engine, row.name) as connection:
            if not (_is_as_found(connection, row.subset_id, row.all_materialized_uris) and is_still_free(connection)):
                return False
            values: dict[str, Any] = {"materialized_uri": None, "materialized_at": None, "all_materialized_uris": []}
            connection.execute(update(Subset).where(Subset.subset_id == row.subset_id).values(values))
            remove_copies()
        if isinstance(row, CollectableVersion):
            with _locked_name(engine, row.name) as connection:
                if not (_is_as_found(connection, row.subset_id, []) and is_still_free(connection)):
                    return False
                drop_members(connection, row.subset_id)
                remove_manifest()
    except DBAPIError as refused:
        if getattr(refused.orig, "pgcode", None) != LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


@contextmanager
def _locked_name(engine: Engine, name: str) -> Iterator[Connection]:
    """Begin a transaction during which no other session adds, publishes or collects versions of the name."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        lock_name(connection, name)
        yield connection


def _is_as_found(connection: Connection, subset_id: int, all_materialized_uris: Sequence[str]) -> bool:
    """Return whether a version has exactly these materialized datasets, and lock that until the transaction ends."""
    noted = select(Subset.all_materialized_uris).where(Subset.subset_id == subset_id).with_for_update()
    return lock_members(connection, subset_id) and connection.execute(noted).scalar_one() == list(all_materialized_uris)


VERSION_TEXT = "Version number; none: the published version, else the newest"
NEWEST_TEXT = "Use the newest version even if another one is published, for example to check it before publishing"


class Versioned(Protocol):
    """A config with the options --version and --newest."""

    @property
    def version(self) -> int | None:
        """Version number, or None."""

    @property
    def newest(self) -> bool:
        """Whether to use the newest version."""


AnyVersioned = TypeVar("AnyVersioned", bound=Versioned)


def refuse_two_versions(config: AnyVersioned) -> AnyVersioned:
    """Return the config, unless it has both --version and --newest.

    Raises:
        ValueError: Both options are given.
    """
    if config.newest and config.version is not None:
        message = f"--version {config.version} and --newest contradict each other. Give only one of them"
        raise ValueError(message)
    return config


def choose_version(
    engine: Engine, name: str, *, version: int | None, is_newest: bool = False, may_be_withdrawn: bool = False
) -> SubsetRow:
    """Return the named version, else the published one, else the newest; prints the choice if no version is named.

    Args:
        engine: The store.
        name: Name of the subset.
        version: Version number, or None.
        is_newest: Use the newest version even if another one is published.
        may_be_withdrawn: Whether to accept a withdrawn version: for commands that show history, never for those that read members.

    Raises:
        ConfigError: There is no such version, or it was withdrawn; the message has the reason and an alternative.
    """
    if version is not None:
        return _named(engine, name, version, may_be_withdrawn=may_be_withdrawn)
    newest, published = find_subset(engine, name), published_version(engine, name)
    if published is not None and not is_newest:
        _print_published(engine, published, newest)
        return published
    withdrawn = last_withdrawn(engine, name) if published is None else None
    if not may_be_withdrawn and (newest.state == "withdrawn" or (withdrawn is not None and not is_newest)):
        # The published version was withdrawn: readers must not silently get another one.
        raise ConfigError(f"{describe_withdrawal(withdrawn or newest)} {_instead(engine, name)}")
    why = "none is published" if published is None else f"published is v{published.version}"
    say(f"Using {newest.title}, the newest version; {why}.")
    return newest


def _named(engine: Engine, name: str, version: int, *, may_be_withdrawn: bool) -> SubsetRow:
    found = find_subset(engine, name, version=version)
    if found.state == "withdrawn":
        if not may_be_withdrawn:
            raise ConfigError(f"{describe_withdrawal(found)} {_instead(engine, name)}")
        say(describe_withdrawal(found))
    return found


def describe_withdrawal(subset: SubsetRow) -> str:
    """Return a sentence about who withdrew a version, when and why."""
    return f"{subset.title} was withdrawn on {subset.withdrawn_at:%Y-%m-%d} by {subset.withdrawn_by}: {subset.withdrawn_reason!r}."


def _print_published(engine: Engine, published: SubsetRow, newest: SubsetRow) -> None:
    withdrawn = last_withdrawn(engine, published.name)
    more = (
        "" if newest.version == published.version else f"; the newest is v{newest.version} (--version {newest.version})"
    )
    # Mention the withdrawn version only if the published one replaced it.
    before = find_predecessor(engine, withdrawn) if withdrawn is not None else None
    if withdrawn is not None and before is not None and before.subset_id == published.subset_id:
        more += f". {describe_withdrawal(withdrawn)}".removesuffix(".")
    say(f"Using {published.title}, the published version{more}.")


def _instead(engine: Engine, name: str) -> str:
    published = published_version(engine, name)
    if published is not None:
        return f"Use the published version {published.title}: omit --version."
    return (
        f"No version of {name} is published now. Give --version N (alchemist subset list shows the versions), "
        f"or publish one: alchemist subset publish {name} --version N."
    )


def seconds_per_member(engine: Engine) -> float | None:
    """Return the seconds per member, over all epochs, of the newest downstream training; None before the first."""
    with engine.connect() as connection:
        row = connection.execute(load_query("measure_training_speed")).one_or_none()
    return None if row is None else float(row.seconds_per_member)
