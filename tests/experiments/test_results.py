"""From cells to rows, against scipy: intervals, gains paired by seed, what is called not inferior."""

import numpy as np
import pytest
from scipy import stats

from alchemist_core.experiments.cells import Cell
from alchemist_core.experiments.results import (
    MARGIN,
    ArmRow,
    compare_cells,
    describe_detectable,
    losses_by_arm,
    paired_spread,
    state_detectable,
)

SEEDS = (3, 4, 5, 6, 7)


def cells_of(arm: str, losses: list[float], retention: float = 0.2) -> list[Cell]:
    return [Cell(arm, retention, seed, 100, 20, loss) for seed, loss in zip(SEEDS, losses, strict=False)]


def row_of(rows: list[ArmRow], arm: str, retention: float = 0.2) -> ArmRow:
    return next(row for row in rows if (row.arm, row.retention) == (arm, retention))


def test_intervals_are_scipys() -> None:
    rng = np.random.default_rng(0)
    random, mine = rng.normal(3.0, 0.1, 5).tolist(), rng.normal(2.8, 0.1, 5).tolist()
    row = row_of(compare_cells([*cells_of("random", random), *cells_of("loss/top_k", mine)]), "loss/top_k")
    difference = np.subtract(random, mine)
    for found, values in ((row.loss, np.array(mine)), (row.gain, difference)):
        assert found is not None
        wanted = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx(wanted, rel=1e-9)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(difference.mean())


def test_a_gain_pairs_seeds_so_that_what_a_seed_shares_cancels() -> None:
    random = [3.0, 5.0, 4.0, 9.0, 1.0]
    row = row_of(compare_cells([*cells_of("random", random), *cells_of("a", [x - 0.5 for x in random])]), "a")
    assert row.gain is not None
    assert (row.gain.low, row.gain.high) == pytest.approx((0.5, 0.5))


def test_random_closes_nothing_of_the_gap_and_planted_all_of_it() -> None:
    rows = compare_cells(
        [*cells_of("random", [3.0, 3.2]), *cells_of("planted", [2.0, 2.2]), *cells_of("a", [2.1, 2.3])]
    )
    gap = row_of(rows, "a").gap_closed
    assert gap is not None
    assert (gap.mean, gap.half_width) == pytest.approx((0.9, 0.0))
    assert row_of(rows, "random").gap_closed is None


@pytest.mark.parametrize(("worse_by", "is_noninferior"), [(0.5 * MARGIN, True), (1.5 * MARGIN, False)])
def test_an_arm_is_not_inferior_when_its_interval_stays_above_minus_one_percent(
    worse_by: float, is_noninferior: bool
) -> None:
    random = [3.0, 3.0, 3.0]
    rows = compare_cells([*cells_of("random", random), *cells_of("a", [x * (1 + worse_by) for x in random])])
    assert row_of(rows, "a").is_noninferior is is_noninferior


def test_one_seed_judges_nothing() -> None:
    row = row_of(compare_cells([*cells_of("random", [3.0]), *cells_of("a", [2.0])]), "a")
    assert row.gain is not None
    assert (row.gain.mean, row.gain.low, row.is_noninferior) == (1.0, None, None)


def test_the_full_corpus_stands_beside_every_retention() -> None:
    cells = [*cells_of("random", [3.0]), *cells_of("random", [2.5], 0.5), *cells_of("full", [2.0])]
    assert [(row.arm, row.retention) for row in compare_cells(cells)] == [
        *(("random", 0.2), ("full", 0.2)),
        *(("random", 0.5), ("full", 0.5)),
    ]


def test_the_spread_is_pooled_over_arms_and_paired_by_seed() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 5.0, 400)
    arms = {
        name: dict(enumerate(common + rng.normal(0, sd, 400)))
        for name, sd in (("random", 0.0), ("a", 0.1), ("b", 0.2), ("full", 9.0))
    }
    assert paired_spread(arms) == pytest.approx(np.sqrt((0.01 + 0.04) / 2), rel=0.1)
    assert paired_spread(losses_by_arm([*cells_of("random", [1.0]), *cells_of("a", [2.0])])) is None


def test_what_can_be_seen_is_said_in_the_metrics_unit_once_the_spread_is_known() -> None:
    before = state_detectable(0.1, 5, source="seeds 0, 1, 2")
    assert before["effect"] == pytest.approx(0.1 * 1.662, abs=1e-3)
    assert "0.1663 nats a token (spread 0.1000, seeds 0, 1, 2)" in describe_detectable(before)
    assert "1.66 spreads" in describe_detectable(state_detectable(None, 5, source="not measured"))
    assert "One seed shows no effect" in describe_detectable(state_detectable(0.1, 1, source="x"))
