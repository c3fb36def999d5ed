"""The run ledger: one live run per run key, and the states of earlier runs."""

import pytest
from sqlalchemy import Engine, text

from alchemist_core.store.audit import acting_as
from alchemist_core.store.leases import claim_together
from alchemist_core.store.runs import (
    MeasuredTraining,
    RunClaim,
    RunKey,
    beat,
    claim_run,
    finish_run,
    live_run,
    measured_trainings,
    read_run,
)
from tests.given import insert_rows

pytestmark = pytest.mark.db
KEY = RunKey("score", {"a": 1}, "hash-a")


def claim(engine: Engine, key: RunKey = KEY) -> RunClaim:
    claimed = claim_run(engine, key, ttl_s=60, code_version="1")
    assert claimed is not None
    return claimed


def expire(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.leases SET expires_at = clock_timestamp()"))


def runs(engine: Engine) -> list[tuple[object, ...]]:
    statement = "SELECT run_id, state, finished_at IS NOT NULL, error IS NOT NULL FROM alchemist.runs ORDER BY run_id"
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_a_run_names_who_started_it(engine: Engine) -> None:
    with acting_as("ann"):
        claim(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT actor FROM alchemist.runs")).scalar_one() == "ann"


def test_a_key_that_is_taken_leaves_no_run_behind(engine: Engine) -> None:
    held = claim(engine)
    assert claim_run(engine, KEY, ttl_s=60, code_version="1") is None
    assert [row[0] for row in runs(engine)] == [held.run_id]
    live = live_run(engine, KEY)
    assert live is not None
    assert live.run_id == held.run_id


@pytest.mark.parametrize(
    "other", [RunKey("score", {}, "hash-a", 1), RunKey("score", {}, "hash-b"), RunKey("ingest", {}, "hash-a")], ids=str
)
def test_another_slot_config_or_stage_is_another_key(engine: Engine, other: RunKey) -> None:
    first = claim(engine)
    expire(engine)
    claim(engine, other)
    assert runs(engine)[0] == (first.run_id, "running", False, False)


def test_the_run_of_an_expired_lease_is_lost_and_ends_at_once(engine: Engine) -> None:
    dead = claim(engine)
    expire(engine)
    taken = claim(engine)
    assert runs(engine) == [(dead.run_id, "lost", True, True), (taken.run_id, "running", False, False)]
    with engine.connect() as connection:
        # It died before its first heartbeat: nothing is known of what it did.
        assert connection.execute(text("SELECT work_seconds FROM alchemist.runs")).scalars().all() == [None, None]
    finish_run(engine, dead, state="succeeded", result={}, exit_code=0)
    assert [row[1] for row in runs(engine)] == ["lost", "running"], "who lost the key has no say any more"
    live = live_run(engine, KEY)
    assert live is not None
    assert live.run_id == taken.run_id


def test_a_run_that_had_ended_is_not_called_lost(engine: Engine) -> None:
    finish_run(engine, claim(engine), state="failed", error="why", exit_code=5)
    claim(engine)
    assert [row[1] for row in runs(engine)] == ["failed", "running"]


def test_a_run_that_ends_gives_back_all_that_it_holds_and_nothing_of_others(engine: Engine) -> None:
    one, other = claim(engine), claim(engine, RunKey("ingest", {}, "h"))
    claim_together(engine, ["device:a:0"], run_id=one.run_id, ttl_s=60)
    finish_run(engine, one, state="succeeded", result={"n": 3}, exit_code=0)
    with engine.connect() as connection:
        left = connection.execute(text("SELECT run_id FROM alchemist.leases")).scalars().all()
        ended = read_run(connection, one.run_id)
    assert left == [other.run_id]
    assert (ended.state, ended.result, ended.error, ended.exit_code) == ("succeeded", {"n": 3}, None, 0)
    assert live_run(engine, KEY) is None


def test_a_key_has_slot_0_where_none_is_given_and_its_lease_is_named_by_all_of_it(engine: Engine) -> None:
    claimed = claim(engine)
    assert claimed.lease.resource == KEY.resource == "run:score:hash-a:0"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT stage, config_hash, slot FROM alchemist.runs")).one() == (
            "score",
            "hash-a",
            0,
        )


def test_a_plan_looks_at_the_fifty_newest_finished_trainings(engine: Engine) -> None:
    with engine.begin() as connection:
        insert_rows(connection, {
            "runs": [
                {
                    "run_id": number, "stage": "train_rater", "config_hash": str(number), "state": "succeeded", "work_seconds": number,
                    "finished_at": "2026-01-01T00:00:00Z", "device": "cpu",
                }
                for number in range(1, 52)
            ],
            "raters": [
                {
                    "rater_id": number, "name": f"r{number}", "run_id": number, "config": {"training": {"seed": number}},
                    "acceptance_report": {"n_steps": 400},
                }
                for number in range(1, 52)
            ],
        })  # fmt: skip
    found = measured_trainings(engine, "train_rater")
    assert [one.run_id for one in found] == list(range(51, 1, -1))
    assert found[0] == MeasuredTraining(51, "cpu", "here", 1, 51, {}, 400, {"seed": 51})
    assert measured_trainings(engine, "train_downstream") == []


def test_a_run_ends_once(engine: Engine) -> None:
    ended = claim(engine)
    finish_run(engine, ended, state="succeeded", result={"n": 3}, exit_code=0)
    finish_run(engine, ended, state="failed", error="a signal that came too late", exit_code=1)
    assert runs(engine) == [(ended.run_id, "succeeded", True, False)]


def test_a_heartbeat_stores_the_progress_of_its_run(engine: Engine) -> None:
    one, other = claim(engine), claim(engine, RunKey("ingest", {}, "h"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alchemist.runs SET heartbeat_at = now() - interval '1 day'"))
        beat(connection, one.run_id, {"done": 3, "total": 7})
        reported, silent = read_run(connection, one.run_id), read_run(connection, other.run_id)
    assert reported.progress == {"done": 3, "total": 7}
    assert (reported.heartbeat_at - silent.heartbeat_at).total_seconds() > 3600
