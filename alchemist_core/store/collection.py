"""What subset versions take up, and how they give it back: membership in the store, the address of their tars."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, select, text, update
from sqlalchemy.exc import DBAPIError

from alchemist_core.store.members import drop_members, lock_members
from alchemist_core.store.queries import load_query
from alchemist_core.store.subsets import lock_name
from alchemist_core.store.tables import AnyRow, Subset

LOCK_NOT_AVAILABLE = "55P03"


def find_collectable(connection: Connection, name: str | None, min_age_days: float) -> Sequence[AnyRow]:
    """Return the versions that nobody reads, with what each holds; a row each of the query `collectable_versions`."""
    parameters = {"name": name, "min_age_days": min_age_days}
    return connection.execute(load_query("collectable_versions"), parameters).all()


def find_tars_with_taken_down(connection: Connection, name: str | None) -> Sequence[AnyRow]:
    """Return the versions whose tars hold pictures that were taken down; a row each of the query `tars_with_taken_down`."""
    return connection.execute(load_query("tars_with_taken_down"), {"name": name}).all()


def manifest_uris(engine: Engine) -> set[str]:
    """Return the address of every version's manifest."""
    with engine.connect() as connection:
        return set(connection.execute(select(Subset.manifest_uri)).scalars())


def collect(
    engine: Engine,
    row: AnyRow,
    *,
    is_still_free: Callable[[Connection], bool],
    remove_copies: Callable[[], None],
    remove_manifest: Callable[[], None],
) -> bool:
    """Take a version's tars and membership off the store and remove its files, unless somebody wants it by now.

    In two transactions: while membership is dropped, readers of every subset wait, and tars may take minutes. Membership goes last,
    because a takedown finds by it whose tars hold a picture. In both nobody stores the membership, which every copy begins with: what
    is copied while its tars go would be known to nobody.

    Args:
        engine: The store.
        row: The version, as `find_collectable` or `find_tars_with_taken_down` gave it; the second kind keeps its membership.
        is_still_free: Asked again under the locks, in both.
        remove_copies: Deletes the tars; called last of its transaction, so that what is interrupted can be collected again.
        remove_manifest: Deletes the manifest, likewise.

    Returns:
        False where the version is wanted again, has other copies by now, its membership is just being stored, or a reader holds its
        partition for more than 5 s.
    """
    try:
        with _sole_judge(engine, row.name) as connection:
            if not (_is_as_found(connection, row.subset_id, row.copy_uris) and is_still_free(connection)):
                return False
            values: dict[str, Any] = {"materialized_uri": None, "materialized_at": None, "copy_uris": []}
            connection.execute(update(Subset).where(Subset.subset_id == row.subset_id).values(values))
            remove_copies()
        if "members_bytes" in row._fields:
            with _sole_judge(engine, row.name) as connection:
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
def _sole_judge(engine: Engine, name: str) -> Iterator[Connection]:
    """Begin a transaction in which nobody else adds, publishes or collects versions of the name."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        lock_name(connection, name)
        yield connection


def _is_as_found(connection: Connection, subset_id: int, copy_uris: Sequence[str]) -> bool:
    """Tell whether a version has these copies alone, and keep it so until the transaction ends."""
    noted = select(Subset.copy_uris).where(Subset.subset_id == subset_id).with_for_update()
    return lock_members(connection, subset_id) and connection.execute(noted).scalar_one() == list(copy_uris)
