"""Strategy `auto` uses a stored rank window only if its gain is significant."""

from typing import Any

import pytest
from sqlalchemy import Engine

from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.rank_window import FittedWindow, RankWindow
from alchemist_core.store.rank_windows import find_window, list_windows, resolve_auto, store_window
from tests.given import insert_rows

pytestmark = pytest.mark.db


@pytest.fixture
def rater_id(engine: Engine) -> int:
    with engine.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 1, "name": "r"}]})
    return 1


def fitted(retention: float = 0.2, *, low: float = 0.1, cut: float = 0.25) -> FittedWindow:
    return FittedWindow(RankWindow(cut, 0.6, 0.1), retention, 0.3, low, 0.5)


def probe(engine: Engine, rater_id: int, found: FittedWindow) -> bool:
    return store_window(engine, rater_id, found, {"retention": found.retention})


def resolved(engine: Engine, rater_id: int, **fields: Any) -> SelectionPolicy:
    return resolve_auto(engine, rater_id, SelectionPolicy.model_validate(fields))[0]


def test_a_rater_without_a_probe_keeps_its_rules_strategy(engine: Engine, rater_id: int) -> None:
    assert resolve_auto(engine, rater_id, SelectionPolicy()) == (SelectionPolicy(), None)


def test_auto_uses_the_fitted_rank_window(engine: Engine, rater_id: int) -> None:
    probe(engine, rater_id, fitted())
    policy = resolved(engine, rater_id, retention=0.2, seed=4)
    assert (policy.strategy, policy.drop_top_ratio, policy.mean_rank, policy.std_rank) == (
        *("shift_gsample", 0.25),
        *(0.6, 0.1),
    )
    assert (policy.retention, policy.seed) == (0.2, 4)


def test_without_a_drop_top_ratio_nothing_warns_of_a_dropped_head(engine: Engine, rater_id: int) -> None:
    probe(engine, rater_id, fitted(cut=0.0))
    assert resolved(engine, rater_id).strategy == "gsample"


@pytest.mark.parametrize("low", [-0.1, 0.0, float("-inf")])
def test_auto_is_random_where_no_gain_was_shown_and_reports_it(engine: Engine, rater_id: int, low: float) -> None:
    probe(engine, rater_id, fitted(low=low))
    policy, found = resolve_auto(engine, rater_id, SelectionPolicy())
    assert policy.strategy == "random"
    assert found is not None
    assert "No rank window shows a gain" in found.describe()
    assert "inf" not in found.describe()


@pytest.mark.parametrize("given", [{"strategy": "top_k"}, {"std_rank": 0.3}, {"rank_by": "clarity"}])
def test_options_of_the_user_override_the_rank_window(engine: Engine, rater_id: int, given: dict[str, Any]) -> None:
    probe(engine, rater_id, fitted())
    assert resolved(engine, rater_id, **given) == SelectionPolicy.model_validate(given)


def test_the_nearest_retention_counts_and_of_equals_the_newest(engine: Engine, rater_id: int) -> None:
    for found in (fitted(0.2, cut=0.1), fitted(0.5, cut=0.2), fitted(0.5, cut=0.3)):
        assert probe(engine, rater_id, found)
    nearest = find_window(engine, rater_id, 0.45)
    assert nearest is not None
    assert nearest.window.drop_top_ratio == 0.3
    assert [row.drop_top_ratio for _, row in list_windows(engine)] == [0.3, 0.2, 0.1]


def test_a_former_window_that_is_tuned_again_is_used_again(engine: Engine, rater_id: int) -> None:
    for cut in (0.1, 0.3):
        assert probe(engine, rater_id, fitted(cut=cut))
    # That of another retention is no reason to store one again.
    assert probe(engine, rater_id, fitted(0.5))
    assert not probe(engine, rater_id, fitted(cut=0.3))
    assert probe(engine, rater_id, fitted(cut=0.1))
    found = find_window(engine, rater_id, 0.2)
    assert found is not None
    assert found.window.drop_top_ratio == 0.1


def test_a_repeated_probe_stores_nothing(engine: Engine, rater_id: int) -> None:
    assert probe(engine, rater_id, fitted(low=float("-inf")))
    assert not probe(engine, rater_id, fitted(low=float("-inf")))
    assert len(list_windows(engine)) == 1
