"""A selection that equals a version uses that version, also if another session has just stored it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.store.subsets import find_subset, lock_name
from tests.selectable_store import change, draw, fill

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def started(connection: Connection, *works: Callable[[], Any]) -> list[Future[Any]]:
    """Start works in threads of their own; return when all of them wait for a lock that the connection's transaction holds."""
    threads = ThreadPoolExecutor(len(works))
    found = [threads.submit(work) for work in works]
    threads.shutdown(wait=False)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while connection.execute(waiting).scalar_one() < len(works):
        assert not any(one.done() for one in found), "it did not wait"
    return found


def test_two_selections_of_the_same_spec_at_once_make_one_version(store: Engine) -> None:
    """A takedown names the rater, the form of `build_subset` says `production`: for the run ledger these are two runs."""
    with store.begin() as other:
        lock_name(other, "s")
        selections = started(other, lambda: draw(0.2), lambda: draw(0.2, rater="r"))
    results = [one.result() for one in selections]
    assert sorted((one.version, one.is_new) for one in results) == [(1, False), (1, True)]
    assert len({one.manifest_sha256 for one in results}) == 1
    assert draw(0.2).version == 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            "state = 'withdrawn', withdrawn_at = now(), withdrawn_by = 'ann', withdrawn_reason = 'broken'",
            ConfigError, "This selection is s v1. s v1 was withdrawn",
        ),
        ("manifest_sha256 = 'another'", DataError, "now give other members"),
    ],
    ids=["withdrawn", "other members"],
)  # fmt: skip
def test_a_version_that_another_session_has_just_stored_is_refused_like_one_from_before(
    store: Engine, changed: str, error: type[AlchemistError], message: str
) -> None:
    draw(0.2)
    with store.connect() as other:
        with other.begin():
            other.execute(text("CREATE TEMPORARY TABLE kept AS SELECT * FROM alchemist.subsets"))
            other.execute(text(f"UPDATE kept SET {changed}"))
            other.execute(text("DELETE FROM alchemist.subsets"))
        with other.begin():
            lock_name(other, "s")
            other.execute(text("INSERT INTO alchemist.subsets OVERRIDING SYSTEM VALUE SELECT * FROM kept"))
            (selection,) = started(other, lambda: draw(0.2, rater="r"))
    with pytest.raises(error, match=message):
        selection.result()
    assert find_subset(store, "s").version == 1


def test_a_selection_that_gives_other_members_leaves_no_manifest_of_them(store: Engine) -> None:
    draw(0.2)
    path = artifact_path(find_subset(store, "s").manifest_uri)
    path.unlink()
    change(store, "UPDATE alchemist.subsets SET manifest_sha256 = 'another'")
    with pytest.raises(DataError, match="now give other members"):
        draw(0.2)
    assert not path.exists()
