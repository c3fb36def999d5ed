"""Stored experiments: an unfinished one can be deleted and its name used again, a result is kept."""

import getpass

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.store.experiments import (
    begin_experiment,
    delete_unfinished,
    finish_experiment,
    list_experiments,
    state_beforehand,
)

pytestmark = pytest.mark.db

FIRST, SECOND = {"experiment": "methods", "seeds": [1]}, {"experiment": "methods", "seeds": [1, 2]}


def test_the_name_of_a_deleted_experiment_can_be_used_with_other_options(engine: Engine) -> None:
    begin_experiment(engine, "mine", FIRST)
    with pytest.raises(ConfigError, match=r"seeds 1 there, 1,2 here.*alchemist experiment delete mine\."):
        begin_experiment(engine, "mine", SECOND)
    delete_unfinished(engine, "mine")
    assert begin_experiment(engine, "mine", SECOND).config == SECOND
    with engine.connect() as connection:
        event = connection.execute(text("SELECT actor, action, subject, before FROM alchemist.audit_events")).one()
    assert tuple(event) == (getpass.getuser(), "delete", "experiment mine", {"config": FIRST})


def test_a_result_is_never_deleted(engine: Engine) -> None:
    begin_experiment(engine, "mine", FIRST)
    finish_experiment(engine, "mine", {"rows": []})
    with pytest.raises(ConfigError, match=r"'mine' is finished\. Results are kept"):
        delete_unfinished(engine, "mine")
    with pytest.raises(ConfigError, match=r"it reuses the models that exist\.$"):
        begin_experiment(engine, "mine", SECOND)
    assert [row.name for row in list_experiments(engine)] == ["mine"]


def test_an_experiment_that_was_deleted_while_it_ran_says_so(engine: Engine) -> None:
    begin_experiment(engine, "mine", FIRST)
    delete_unfinished(engine, "mine")
    for store in (state_beforehand, finish_experiment):
        with pytest.raises(ConfigError, match="was deleted while it ran"):
            store(engine, "mine", {})
    assert list_experiments(engine) == []
