"""The list of raters shows state, acceptance, datasets and time of training, and marks the production rater."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from alchemist_core.cli.rater import COMMANDS, RaterListConfig, list_
from tests.given import insert_rows

pytestmark = pytest.mark.db

TRAINED = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CONFIG = {"dataset": "web", "validation": "good"}


def add(engine: Engine, rater_id: int, name: str, **fields: object) -> None:
    row = {"rater_id": rater_id, "name": name, "rule": "loss", "config": CONFIG, "created_at": TRAINED}
    with engine.begin() as connection:
        insert_rows(connection, {"raters": [row | fields]})


def test_a_list_shows_state_acceptance_and_datasets_and_marks_production(engine: Engine) -> None:
    add(engine, 1, "first", state="retired", acceptance_report={"is_certified": False})
    add(engine, 2, "second", state="production", acceptance_report={"is_certified": True})
    versioned = CONFIG | {"training": {"decode_version": 2}}
    add(engine, 3, "third", state="candidate", is_shadow=True, config=versioned)
    found = list_(RaterListConfig())
    head, *lines = found.summary().splitlines()
    assert head.split() == [
        "name",
        "state",
        "acceptance",
        "rule",
        "dataset",
        "validation",
        "decode",
        "trained",
        "(UTC)",
    ]
    assert [line.split() for line in lines] == [
        ["first", "retired", "failed", "loss", "web", "good", "1", "2026-01-02", "03:04"],
        ["*", "second", "production", "passed", "loss", "web", "good", "1", "2026-01-02", "03:04"],
        ["third", "shadow", "not", "checked", "loss", "web", "good", "2", "2026-01-02", "03:04"],
    ]
    assert len({line.index("web") for line in lines}) == 1, "columns are aligned"


@pytest.mark.parametrize(("report", "command"), [({}, "certify"), ({"is_certified": True}, "promote")])
def test_the_next_step_is_that_of_the_newest_candidate(engine: Engine, report: dict[str, bool], command: str) -> None:
    add(engine, 1, "new", state="candidate", acceptance_report=report)
    following = COMMANDS["list"].next_step(RaterListConfig(), list_(RaterListConfig()))
    assert following == f"alchemist rater {command} new"


def test_after_failed_checks_both_ways_on_are_named(engine: Engine) -> None:
    add(engine, 1, "new", state="candidate", acceptance_report={"is_certified": False})
    following = str(COMMANDS["list"].next_step(RaterListConfig(), list_(RaterListConfig())))
    assert following.startswith("train another one")
    assert "alchemist rater promote new --without-acceptance 'REASON'" in following


def test_an_empty_store_says_how_to_train_a_rater(engine: Engine) -> None:
    assert "alchemist train-rater" in list_(RaterListConfig()).summary()
