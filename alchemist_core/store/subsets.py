"""Subset versions: stored once, published by one transaction, found by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text, update

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.audit import record_event
from alchemist_core.store.copy_in import copy_rows
from alchemist_core.store.tables import AnyRow, RankScale, RankSnapshot, Rater, Subset, SubsetSample, utc_now


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

    @property
    def title(self) -> str:
        """Name and version, as people say it."""
        return f"{self.name} v{self.version}"


COLUMNS = tuple(getattr(Subset, name) for name in SubsetRow.__slots__)


def find_subset(engine: Engine, name: str, *, version: int | None = None) -> SubsetRow:
    """Return a version of a subset; without a number the newest.

    Raises:
        ConfigError: If there is none; the text lists those that exist.
    """
    statement = select(*COLUMNS).where(Subset.name == name).order_by(Subset.version.desc()).limit(1)
    if version is not None:
        statement = statement.where(Subset.version == version)
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
        if row is None:
            names = (
                ", ".join(connection.execute(select(Subset.name).distinct().order_by(Subset.name)).scalars()) or "none"
            )
            raise ConfigError(
                f"There is no subset {name!r}{f' v{version}' if version else ''} (subsets: {names}). Make one: alchemist select."
            )
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


def store_subset(engine: Engine, **fields: Any) -> SubsetRow:
    """Store the next version of a subset."""
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtext('alchemist.subsets:' || :name))"), {"name": fields["name"]}
        )
        newest = select(func.coalesce(func.max(Subset.version), 0)).where(Subset.name == fields["name"])
        version = connection.execute(newest).scalar_one() + 1
        row = connection.execute(insert(Subset).values(version=version, **fields).returning(*COLUMNS)).one()
    return SubsetRow(*row)


def publish_subset(engine: Engine, subset: SubsetRow, members: Sequence[tuple[bytes, float]], *, actor: str) -> bool:
    """Make a version the published one of its name; membership and state appear at once. False when it was already.

    Args:
        engine: The store.
        subset: The version to publish.
        members: (pair_hash, rank) of every member.
        actor: Who publishes.
    """
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtext('alchemist.subsets:' || :name))"), {"name": subset.name}
        )
        published = select(Subset.subset_id, Subset.version).where(
            Subset.name == subset.name, Subset.state == "published"
        )
        before = connection.execute(published).one_or_none()
        if before is not None and before.subset_id == subset.subset_id:
            return False
        _store_members(connection, subset, members)
        connection.execute(
            update(Subset).where(Subset.name == subset.name, Subset.state == "published").values(state="superseded")
        )
        values = {"state": "published", "published_at": utc_now()}
        connection.execute(update(Subset).where(Subset.subset_id == subset.subset_id).values(values))
        record_event(
            connection, actor, "publish", f"subset {subset.name}",
            before={"version": before.version if before else None}, after={"version": subset.version},
        )  # fmt: skip
        return True


def _store_members(connection: Connection, subset: SubsetRow, members: Sequence[tuple[bytes, float]]) -> None:
    """Fill the subset's partition once: membership of a version never changes."""
    subset_id = {"subset_id": subset.subset_id}
    connection.execute(text("SELECT alchemist.add_partition('subset_samples', :subset_id)"), subset_id)
    if connection.execute(
        select(SubsetSample.sample_id).where(SubsetSample.subset_id == subset.subset_id).limit(1)
    ).first():
        return
    connection.execute(text("CREATE TEMPORARY TABLE members (pair_hash bytea, rank double precision) ON COMMIT DROP"))
    copy_rows(connection, "members", ("pair_hash", "rank"), members)
    statement = text("""
        INSERT INTO alchemist.subset_samples (subset_id, sample_id, rank)
        SELECT :subset_id, samples.sample_id, members.rank FROM members INNER JOIN alchemist.samples USING (pair_hash)
    """)
    n_stored = connection.execute(statement, subset_id).rowcount
    if n_stored != subset.n_samples:
        raise DataError(
            f"Subset {subset.title} has {subset.n_samples:,} members, {n_stored:,} of them are in the store: not published."
        )


def mark_materialized(engine: Engine, subset_id: int, uri: str) -> None:
    """Note where a version's bytes were copied to; the first time stays."""
    statement = update(Subset).where(Subset.subset_id == subset_id, Subset.materialized_at.is_(None))
    with engine.begin() as connection:
        connection.execute(statement.values(materialized_uri=uri, materialized_at=utc_now()))


def rater_of_subset(engine: Engine, subset: SubsetRow) -> AnyRow:
    """Return the rater that ranked a subset (id, name, rule, config, checkpoint) and the names of its datasets."""
    statement = (
        select(
            Rater.rater_id,
            Rater.name,
            Rater.rule,
            Rater.config,
            Rater.checkpoint_uri,
            Rater.checkpoint_sha256,
            RankSnapshot.dataset_names,
        )
        .join(RankScale, RankScale.rater_id == Rater.rater_id)
        .join(RankSnapshot, RankSnapshot.rank_scale_id == RankScale.rank_scale_id)
        .where(RankSnapshot.snapshot_id == subset.snapshot_id)
    )
    with engine.connect() as connection:
        return connection.execute(statement).one()
