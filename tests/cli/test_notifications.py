"""A notification for each pending decision is sent once, within seconds, by the command that found it, with a link to its page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text
from starlette.routing import Match

from alchemist_core.__main__ import main
from alchemist_core.explorer.app import PAGES
from alchemist_core.quality.gate import store_check_results
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import _announce_if_worse
from alchemist_core.store.matters import read_matters
from alchemist_core.store.notifications import deliver
from alchemist_core.store.subsets import find_subset
from tests.given import insert_rows
from tests.quality.test_gate import NIGHT
from tests.quality.test_own_suites import WIDE, suites, write
from tests.receiver import Receiver, receiving
from tests.scored_nights import add_dataset, add_night, add_rater

pytestmark = pytest.mark.db
__all__ = ["suites"]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver; the commands run as tasks of an Airflow at the same address."""
    with receiving() as found:
        monkeypatch.setenv("ALCHEMIST_NOTIFY_URL", found.url)
        monkeypatch.setenv("ALCHEMIST_AIRFLOW_URL", found.url.removesuffix("/hook"))
        for name, value in {"DAG_ID": "nightly_rescore", "DAG_RUN_ID": "r/1", "TASK_ID": "drift"}.items():
            monkeypatch.setenv(f"AIRFLOW_CTX_{name}", value)
        load_settings.cache_clear()
        yield found


@pytest.fixture
def held(engine: Engine) -> None:
    """A night that is about to be held: two accepted ones before it, and scores that lie elsewhere."""
    with engine.begin() as connection:
        add_dataset(connection)
        add_rater(connection)
    for day, mean, state in ((1, 0, "selectable"), (2, 0, "selectable"), (3, 3, "scored")):
        scores = np.random.default_rng(day).normal(mean, size=600).tolist()
        add_night(engine, f"2026-01-0{day}", {"a.tar": scores}, state=state)


def message(receiver: Receiver) -> list[str]:
    (post,) = receiver.posts
    lines: list[str] = post["message"].splitlines()
    return lines


def page_of(look: str) -> str:
    """The path of a link to the explorer in Airflow, which must have a page there."""
    path = look.partition("/alchemist")[2]
    asked = {"type": "http", "method": "GET", "path": path}
    assert any(route.matches(asked)[0] == Match.FULL for module in PAGES for route in module.ROUTES), look
    return path


@pytest.mark.usefixtures("held")
def test_a_held_night_is_notified_by_the_command_that_holds_it(receiver: Receiver) -> None:
    assert main(["night", "check-drift"]) == 0
    what, look, do, *_ = message(receiver)
    assert what.startswith("Night web 2026-01-03 r1 is held: scores drifted: PSI ")
    assert page_of(look) == "/nights/web/2026-01-03"
    assert any(line.endswith("/dags/nightly_rescore/runs/r%2F1/tasks/drift") for line in message(receiver)[3:])
    assert "alchemist night release --dataset web --crawl-date 2026-01-03 --reason WHY" in do
    assert main(["night", "check-drift"]) == 0
    assert len(receiver.posts) == 1


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("https://see.example/", "https://see.example/nights/web/2026-01-03"),
        ("none", "{airflow}/dags/nightly_rescore/runs/r%2F1/tasks/drift"),
    ],
)
def test_the_link_leads_to_the_explorer_of_the_settings_or_to_the_task_if_there_is_none(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, address: str, page: str
) -> None:
    monkeypatch.setenv("ALCHEMIST_EXPLORER_URL", address)
    load_settings.cache_clear()
    assert main(["night", "check-drift"]) == 0
    assert message(receiver)[1] == "Look: " + page.format(airflow=receiver.url.removesuffix("/hook"))


@pytest.mark.usefixtures("held", "receiver")
def test_publishing_ends_with_code_5_where_a_night_is_held(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    add_night(engine, "2026-01-04", {"a.tar": np.random.default_rng(4).normal(size=600).tolist()})
    assert main(["night", "check-drift"]) == 0
    assert main(["night", "publish"]) == 5
    assert capfd.readouterr().err.splitlines()[-1] == (
        "error: Published 1 night; 1 are held and not selectable: web 2026-01-03 r1."
    )
    with engine.connect() as connection:
        states = connection.execute(text("SELECT state FROM alchemist.nights ORDER BY crawl_date")).scalars().all()
    assert states == ["selectable", "selectable", "held", "selectable"]


def failed(**changed: object) -> dict[str, object]:
    return {
        "suite": "samples", "expectation": "most_locations_are_usable", "severity": "fail", "is_success": False,
        "observed": {"unexpected_count": 3}, "dataset_name": "web", "crawl_date": "2026-01-03", "subset_name": None, **changed,
    }  # fmt: skip


def test_a_failed_check_is_reported_once_until_it_has_passed_and_fails_again(
    engine: Engine, receiver: Receiver
) -> None:
    for outcome in (failed(), failed(), failed(is_success=True), failed()):
        store_check_results(engine, [outcome, failed(severity="warn", expectation="only_counted")])
        deliver(engine)
    assert len(receiver.posts) == 2
    what, look, do, *facts = receiver.posts[0]["message"].splitlines()
    assert what == "Suite samples stopped dataset web, night 2026-01-03: most_locations_are_usable failed."
    assert page_of(look) == "/nights/web/2026-01-03"
    assert "alchemist night release --dataset web --crawl-date 2026-01-03 --reason WHY" in do
    assert facts == ['most_locations_are_usable: {"unexpected_count": 3}']


def test_a_failed_check_of_a_real_suite_sends_a_notification(engine: Engine, receiver: Receiver) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        # Five locations were found in it, and nothing is known of them.
        insert_rows(
            connection, {"shards": [{"shard_id": 1, "dataset_id": 1, "crawl_date": "2026-01-03", "n_samples": 5}]}
        )
    assert main(["check", "--suite", "shards", "--dataset", "web", "--crawl-date", "2026-01-03"]) == 5
    assert message(receiver)[0].startswith("Suite shards stopped dataset web, night 2026-01-03: ")


def test_a_failed_check_of_all_nights_together_names_a_remedy_that_needs_no_night(
    engine: Engine, receiver: Receiver
) -> None:
    store_check_results(engine, [failed(crawl_date=None)])
    deliver(engine)
    what, _, do, *_ = receiver.posts[0]["message"].splitlines()
    assert (
        what
        == "Suite samples checked all nights of dataset web together, which stops none: most_locations_are_usable failed."
    )
    assert do.endswith("run the check again: alchemist check --suite samples --dataset web")


def test_a_failing_suite_of_ones_own_is_reported_with_the_rows_that_failed(suites: Path, receiver: Receiver) -> None:
    write(suites, "samples_wide.json", WIDE)
    assert main(["check", "--suite", "samples", "--dataset", "web", "--crawl-date", str(NIGHT)]) == 5
    what, look, do, *facts = message(receiver)
    name = "samples_wide.json/expect_column_values_to_be_between(width)"
    assert what == f"Suite samples stopped dataset web, night {NIGHT}: {name} failed."
    assert page_of(look) == f"/nights/web/{NIGHT}"
    assert f"alchemist night release --dataset web --crawl-date {NIGHT} --reason WHY" in do
    said = "expected column values to be between (width): at least 60; found 2 of 6 rows, such as sample_id = 2, "
    assert facts[0].startswith(f"{name}: {said}")


@pytest.mark.usefixtures("engine")
def test_lost_shards_of_an_earlier_night_are_notified_once_although_a_retry_leaves_them_out(
    tmp_path: Path, corpus: Path, receiver: Receiver
) -> None:
    first, second, other, *_ = sorted((corpus / "train").rglob("*.tar"))
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / day).mkdir()
        shutil.copy(first, tmp_path / day / "a.tar")
    shutil.copy(second, tmp_path / "undated.tar")
    ingest = ["ingest", "--dataset", "web", "--crawl-date"]
    assert main([*ingest, "2026-01-01", "--root", str(tmp_path)]) == 0
    (tmp_path / "2026-01-01" / "a.tar").unlink()
    shutil.copy(other, tmp_path / "undated.tar")
    assert [main([*ingest, "2026-01-02"]) for _ in range(3)] == [6, 0, 0]
    what, look, do, *facts = message(receiver)
    assert what == "The ingest of web found 2 shards missing or changed: 2026-01-01/a.tar, undated.tar."
    assert look.endswith("/dags/nightly_rescore/runs/r%2F1/tasks/drift")
    assert do == "Do: The command for each: alchemist shard list --dataset web"
    facts.sort()
    assert facts[0].startswith("2026-01-01/a.tar: missing (the file did not exist at ")
    assert "alchemist shard retire 1 --reason WHY" in facts[0]
    assert facts[1].startswith("undated.tar: changed (its bytes differed from the registered ones at ")
    # A shard that was restored and is lost again is another event.
    shutil.copy(second, tmp_path / "undated.tar")
    assert main([*ingest, "2026-01-02"]) == 0
    (tmp_path / "undated.tar").unlink()
    assert [main([*ingest, "2026-01-02"]) for _ in range(2)] == [6, 0]
    assert len(receiver.posts) == 2


def compared(engine: Engine, losses: dict[str, tuple[float, ...]]) -> None:
    """Store a subset with models of two arms, one a seed, each with a held-out loss."""
    models, evaluations = [], []
    for arm, values in losses.items():
        for seed, value in enumerate(values):
            model = {"model_id": len(models) + 1, "subset_id": 1, "arm": arm, "seed": seed}
            models.append(model)
            evaluations.append({
                "evaluation_id": len(models), "model_id": len(models), "protocol_id": 1, "metric": "heldout_loss", "value": value,
            })  # fmt: skip
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 1, "name": "s", "snapshot_id": 1, "state": "published"}],
            "models": models, "evaluation_protocols": [{"protocol_id": 1}], "evaluations": evaluations,
        })  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "n_told"),
    [((3.41, 3.42, 3.40, 3.40), 1), ((3.41, 3.10, 3.30), 0), ((3.01, 3.02, 3.03), 0)],
    ids=["surely worse", "may be chance", "better"],
)
def test_a_subset_that_is_surely_worse_than_random_is_reported_once(
    engine: Engine, receiver: Receiver, losses: tuple[float, ...], n_told: int
) -> None:
    compared(engine, {"subset": losses, "random": (3.19, 3.20, 3.20)})
    for _ in range(2):
        _announce_if_worse(engine, find_subset(engine, "s"), 1, "heldout_loss")
        deliver(engine)
    assert len(receiver.posts) == n_told
    if n_told:
        what, look, do, *_ = message(receiver)
        assert what.startswith(
            "s v1 is worse than a random subset of its size in heldout_loss: gain -0.2133, 95% interval ["
        )
        assert what.endswith("over 3 common seeds.")
        assert page_of(look) == "/subsets/s/1"
        assert "alchemist subset compare s --version 1" in do
        assert "alchemist subset rollback s --from 1" in do
        assert "alchemist subset withdraw s --version 1 --reason WHY" in do


def test_a_task_that_failed_is_reported_once_with_its_page(engine: Engine, receiver: Receiver) -> None:
    note = [
        "note",
        "failure",
        "--subject",
        "d.t",
        "--run",
        "r 1",
        "--map-index",
        "2",
        "--try-number",
        "3",
        "--reason",
        "full\ndisk",
    ]
    assert [main(note), main(note)] == [0, 0]
    what, look, *_ = message(receiver)
    assert (what, look.partition("/dags/")[2]) == ("d.t: full", "d/runs/r%201/tasks/t/mapped/2")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.audit_events")).scalar() == 1


def test_a_question_and_its_answer_are_notified_and_stored(engine: Engine, receiver: Receiver) -> None:
    where = ["--subject", "train_rater.approve", "--run", "r1"]
    assert main(["note", "approval", *where, "--reason", "Promote r2?", "--of", "r2"]) == 0
    answer = ["--answer", "Reject", "--approved-by", "ann", "--comment", "not yet; $(id)", "--reason", "Promote r2?"]
    assert main(["note", "answer", *where, *answer]) == 0
    asked, answered = (post["message"].splitlines() for post in receiver.posts)
    assert asked[0] == "train_rater.approve: Promote r2?"
    assert asked[1].endswith("/tasks/approve/required_actions")
    assert answered[0] == "train_rater.approve: Reject by ann: not yet; $(id)"
    with engine.connect() as connection:
        after = connection.execute(
            text("SELECT after FROM alchemist.audit_events WHERE action = 'approval answered'")
        ).scalar_one()
    assert after.items() >= {
        "approved_by": "ann", "answer": "Reject", "comment": "not yet; $(id)", "asked": "Promote r2?", "run": "r1", "of": "r2",
    }.items()  # fmt: skip


def test_an_unreachable_receiver_fails_no_command(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALCHEMIST_NOTIFY_URL", "json://127.0.0.1:1/")
    load_settings.cache_clear()
    assert main(["note", "failure", "--subject", "d.t", "--run", "r", "--reason", "why"]) == 0
    assert capfd.readouterr().err.count("error: ") == 1


def test_a_note_is_one_attempt_to_send_so_that_an_outage_of_two_failures_loses_no_notification(
    engine: Engine, receiver: Receiver
) -> None:
    receiver.statuses = [503] * 100
    for run in ("r1", "r2"):
        assert main(["note", "failure", "--subject", "d.t", "--run", run, "--reason", "no memory"]) == 0
    with engine.connect() as connection:
        attempts = connection.execute(
            text("SELECT state, n_attempts FROM alchemist.notifications ORDER BY notification_id")
        )
        assert attempts.all() == [("waiting", 2), ("waiting", 0)]
    receiver.statuses.clear()
    assert main(["note", "failure", "--subject", "d.t", "--run", "r3", "--reason", "no memory"]) == 0
    assert len(receiver.posts) == 3


def test_a_failed_task_that_was_cleared_and_succeeded_waits_for_nobody(engine: Engine) -> None:
    for map_index in ("0", "1"):
        task = ("--subject", "nightly_rescore.score", "--run", "r:1", "--map-index", map_index)
        assert main(["note", "failure", *task, "--try-number", "3", "--reason", "no memory"]) == 0
    assert [one.kind for one in read_matters(engine)] == ["failed task"] * 2
    assert main(["note", "success", *task]) == 0
    (left,) = read_matters(engine)
    assert left.detail == "nightly_rescore.score: no memory"
    assert main(["note", "success", *task[:-1], "0"]) == 0
    assert read_matters(engine) == []


def test_a_run_that_succeeded_as_a_whole_leaves_none_of_its_failures(engine: Engine) -> None:
    failed = [("nightly_rescore.score", "r:1", "0"), ("nightly_rescore.score", "r:1", "2"), ("nightly_rescore.score", "r:10", "0"),
              ("nightly_rescore_2.score", "r:1", "0")]  # fmt: skip
    for subject, run, map_index in failed:
        task = ("--subject", subject, "--run", run, "--map-index", map_index, "--try-number", "3")
        assert main(["note", "failure", *task, "--reason", f"{subject} {run}"]) == 0
    assert main(["note", "success", "--subject", "nightly_rescore", "--run", "r:1"]) == 0
    assert {str(one.detail).partition(": ")[2] for one in read_matters(engine)} == {
        "nightly_rescore.score r:10", "nightly_rescore_2.score r:1"
    }  # fmt: skip
