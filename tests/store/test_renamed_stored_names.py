"""Migration 0041 carries stored names over: a release by the former name of a check stays in force, a rank window is stored once."""

import json
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

from alchemist_core.selection.rank_window import FittedWindow, fit_window
from alchemist_core.statistics import estimate
from alchemist_core.store.engine import MIGRATIONS, make_engine, migrate
from alchemist_core.store.rank_windows import list_windows, store_window
from tests.selection.test_rank_window import ON_TOP, measured

pytestmark = pytest.mark.db

FIT = fit_window(measured(ON_TOP), 0.2)
FITTED = FittedWindow.of(FIT, estimate([0.2, 0.3]))
MEASUREMENTS = {
    "retention": 0.2,
    "fit": FIT.as_json(),
    "cells": [{"arm": "random", "seed": 0}, {"arm": "window", "seed": 0}],
}
STORED = """
INSERT INTO alchemist.check_results (suite, expectation, severity, is_success, observed, dataset_name, crawl_date) VALUES
    ('samples', 'captions_are_no_garbage', 'warn', FALSE, '{"released_by": "ann"}', 'web', '2026-01-01'),
    ('samples', 'captions_are_not_empty', 'fail', TRUE, '{}', 'web', '2026-01-01');
INSERT INTO alchemist.raters (name, rule, config, identity_hash, checkpoint_uri, checkpoint_sha256)
VALUES ('r', 'loss', '{}', 'r', 'r', sha256('r'));
"""


@pytest.fixture
def migrated(make_database: Callable[..., str]) -> Iterator[Engine]:
    """A store that had a released check and a rank window at revision 0040."""
    engine = make_engine(make_database(template=None))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0040")
    former = json.loads(json.dumps(MEASUREMENTS).replace('"window"', '"region"'))
    with engine.begin() as connection:
        connection.execute(text(STORED))
    store_window(engine, 1, FITTED, former)
    migrate(engine.url.render_as_string(hide_password=False))
    yield engine
    engine.dispose()


def test_a_release_by_a_former_name_stays_in_force(migrated: Engine) -> None:
    with migrated.connect() as connection:
        names = connection.execute(text("SELECT expectation FROM alchemist.check_results ORDER BY check_result_id"))
        assert list(names.scalars()) == ["few_captions_are_garbage", "captions_are_not_empty"]


def test_a_rank_window_that_was_stored_before_is_not_stored_again(migrated: Engine) -> None:
    ((_, row),) = list_windows(migrated)
    assert row.measurements == json.loads(json.dumps(MEASUREMENTS))
    assert not store_window(migrated, 1, FITTED, json.loads(json.dumps(MEASUREMENTS)))
