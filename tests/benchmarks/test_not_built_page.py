"""The figures of the page of what is missing are those of the kept trials."""

import pytest

from alchemist_core.experiments.results import compare_cells, losses_by_arm
from alchemist_core.statistics import estimate_gain
from tests.benchmarks.promises_page import RESEARCH
from tests.benchmarks.study import FUSION, RECIPES
from tests.benchmarks.study_page import cells_of, nats, read_trials

PAGE = " ".join((RESEARCH / "not-built.md").read_text("utf-8").split())


@pytest.mark.parametrize(
    ("world", "retention", "arm"),
    [
        ("shifted", 0.2, RECIPES[0]),
        ("skewed", 0.2, RECIPES[0]),
        ("shifted", 0.2, FUSION),
        ("skewed", 0.2, FUSION),
        ("redundant", 0.2, FUSION),
        ("shifted", 0.5, FUSION),
    ],
)
def test_by_how_much_the_validation_dataset_alone_is_better(world: str, retention: float, arm: str) -> None:
    cells = [cell for cell in cells_of(read_trials("worlds"), world) if cell.retention == retention]
    losses = losses_by_arm(cells)
    gain = estimate_gain(losses["validation"], losses[arm])
    assert gain.low is not None
    assert gain.low > 0
    assert nats(gain) in PAGE


def test_where_a_recipe_is_worse_than_random_beyond_noise() -> None:
    worse = {
        (row.arm, row.retention): row.gain
        for world in ("shifted", "redundant", "skewed", "real", "openclipart")
        for row in compare_cells(cells_of(read_trials("worlds"), world))
        if row.arm in RECIPES and row.gain is not None and row.gain.high is not None and row.gain.high < 0
    }
    assert {*worse} == {(arm, retention) for arm in RECIPES for retention in (0.2, 0.5)}
    for gain in worse.values():
        assert f"{-gain.mean:.3f} [{-gain.high:.3f}, {-gain.low:.3f}]" in PAGE


def test_the_hours_of_the_study_are_those_of_its_trials() -> None:
    hours = sum(one["seconds"] for one in read_trials("value")) / 3600
    assert f"took {hours:.1f} hours of one core, so {hours / 2:.1f} hours of two" in PAGE
