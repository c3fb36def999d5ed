"""A night is one revision of a crawl date: opened once, decided once, and never decided while a run writes to it."""

from datetime import date

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.errors import ConfigError
from alchemist_core.store.nights import (
    decide_night,
    held_nights,
    hold_open_night,
    open_nights,
    read_night,
    reject_night,
    release_command,
    release_night,
)
from alchemist_core.store.overviews import read_drift
from tests.given import insert_rows

pytestmark = pytest.mark.db
DAY, OTHER_DAY = date(2026, 1, 1), date(2026, 1, 2)


@pytest.fixture
def store(engine: Engine) -> Engine:
    """Two datasets and two raters, no night."""
    with engine.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 1, "name": "web"}, {"dataset_id": 2, "name": "books"}],
            "raters": [{"rater_id": 1, "name": "r"}, {"rater_id": 2, "name": "s"}],
        })  # fmt: skip
    return engine


def add(store: Engine, *nights: tuple[int, int, str, date, int, int]) -> None:
    """Add nights: night_id, dataset_id, state, crawl_date, rater_id, revision."""
    names = ("night_id", "dataset_id", "state", "crawl_date", "rater_id", "revision")
    rows = [dict(zip(names, night, strict=True)) for night in nights]
    with store.begin() as connection:
        insert_rows(
            connection, {"nights": [row | ({"reason": "drift"} if row["state"] == "held" else {}) for row in rows]}
        )


def test_the_open_revision_is_found_again_and_the_next_one_opened_once_it_is_decided(store: Engine) -> None:
    with store.begin() as connection:
        first = hold_open_night(connection, 1, DAY, 1)
        assert hold_open_night(connection, 1, DAY, 1) == first
        others = {hold_open_night(connection, 2, DAY, 1), hold_open_night(connection, 1, OTHER_DAY, 1)}
        assert len(others | {first, hold_open_night(connection, 1, DAY, 2)}) == 4
        assert decide_night(connection, first, state="selectable", actor="ann")
        second = hold_open_night(connection, 1, DAY, 1)
        revisions = connection.execute(text("SELECT night_id, revision FROM alchemist.nights WHERE revision > 1")).all()
    assert [tuple(row) for row in revisions] == [(second, 2)]


def test_a_night_that_a_run_writes_to_cannot_be_decided_and_two_may_write(store: Engine) -> None:
    with store.begin() as connection:
        night_id = hold_open_night(connection, 1, DAY, 1)
    with store.begin() as writer, store.begin() as another:
        assert hold_open_night(writer, 1, DAY, 1) == night_id
        another.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert hold_open_night(another, 1, DAY, 1) == night_id
        with store.connect() as judge:
            judge.execute(text("SET LOCAL lock_timeout = '50ms'"))
            with pytest.raises(DBAPIError, match="lock timeout"):
                decide_night(judge, night_id, state="selectable", actor="ann")


def test_a_night_is_decided_once_by_a_named_person_at_a_time(store: Engine) -> None:
    add(store, (1, 1, "scored", DAY, 1, 1), (2, 1, "scored", OTHER_DAY, 1, 1))
    with store.begin() as connection:
        assert decide_night(connection, 1, state="held", actor="ann", reason="drift")
        assert not decide_night(connection, 1, state="selectable", actor="bob")
        assert not release_night(connection, 2, actor="bob", reason="why")
        columns = "SELECT night_id, state, reason, decided_by, decided_at IS NOT NULL FROM alchemist.nights ORDER BY 1"
        assert [tuple(row) for row in connection.execute(text(columns))] == [
            (1, "held", "drift", "ann", True),
            (2, "scored", None, None, False),
        ]
        assert release_night(connection, 1, actor="bob", reason="as it should be")
        assert not release_night(connection, 1, actor="cid", reason="again")
        assert tuple(connection.execute(text(columns)).all()[0]) == (1, "released", "as it should be", "bob", True)


def test_a_held_night_is_rejected_once_and_can_be_released_later(store: Engine) -> None:
    add(store, (1, 1, "held", DAY, 1, 1), (2, 1, "selectable", OTHER_DAY, 1, 1))
    with store.begin() as connection:
        assert reject_night(connection, 1, actor="bob", reason="a broken crawl")
        assert not reject_night(connection, 1, actor="cid", reason="again")
        assert not reject_night(connection, 2, actor="bob", reason="too late")
    assert held_nights(store, dataset_ids=[1], crawl_date=None, rater_id=1) == []
    (row,) = held_nights(store, dataset_ids=[1], crawl_date=None, rater_id=1, state="rejected")
    assert (row.night_id, row.reason) == (1, "a broken crawl")
    with store.begin() as connection:
        assert release_night(connection, 1, actor="ann", reason="it was right")


def test_only_a_held_night_is_announced(store: Engine) -> None:
    add(store, (1, 1, "scored", DAY, 1, 1), (2, 1, "scored", OTHER_DAY, 1, 1))
    with store.begin() as connection:
        decide_night(connection, 1, state="selectable", actor="ann")
        decide_night(connection, 2, state="held", actor="ann", reason="drift")
        decide_night(connection, 2, state="held", actor="ann", reason="drift again")
        said = connection.execute(text("SELECT count(*) FROM alchemist.notifications")).scalar_one()
    assert said == 1


def test_nights_are_listed_by_state_rater_dataset_and_date_oldest_first(store: Engine) -> None:
    add(
        store,
        (1, 1, "scored", OTHER_DAY, 1, 1), (2, 1, "scored", DAY, 1, 1), (3, 1, "held", DAY, 1, 2), (4, 1, "scored", DAY, 2, 1),
        (5, 2, "scored", DAY, 1, 1), (6, 1, "selectable", DAY, 1, 3),
    )  # fmt: skip
    found = open_nights(store, dataset_ids=[1], crawl_date=None, rater_id=1)
    assert [(row.night_id, row.dataset, row.revision) for row in found] == [(1, "web", 1), (2, "web", 1)]
    assert [row.night_id for row in open_nights(store, dataset_ids=[1, 2], crawl_date=DAY, rater_id=1)] == [2, 5]
    held = held_nights(store, dataset_ids=[1, 2], crawl_date=None, rater_id=1)
    assert [(row.night_id, row.reason) for row in held] == [(3, "drift")]
    assert release_command(held[0], "") == "alchemist night release --dataset web --crawl-date 2026-01-01 --reason WHY"


@pytest.mark.parametrize("text", ["web", ":2026-01-02", "web:2026-13-01", "web:", "2026-01-02"])
def test_what_is_no_night_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Give DATASET:YYYY-MM-DD"):
        read_night(text)


def test_a_nights_dataset_may_hold_a_colon() -> None:
    assert read_night("a:b:2026-01-02") == ("a:b", OTHER_DAY)


def test_the_drift_of_all_datasets_is_without_that_of_removed_ones(store: Engine) -> None:
    add(store, (1, 1, "selectable", DAY, 1, 1), (2, 2, "selectable", DAY, 1, 1))
    with store.begin() as connection:
        insert_rows(connection, {
            "score_distributions": [{"night_id": n, "n": 9, "quantiles": [1.0], "histogram": {}} for n in (1, 2)],
        })  # fmt: skip
        connection.execute(
            text("UPDATE alchemist.datasets SET removed_at = now(), removed_reason = 'licence' WHERE dataset_id = 2")
        )
    assert [one.dataset for one in read_drift(store, 1, None)] == ["web"]
