"""From cells to rows, against scipy: intervals, gains paired by seed, and non-inferiority."""

import math

import numpy as np
import pytest
from scipy import stats

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.results import (
    MARGIN,
    ArmRow,
    compare_arms,
    compare_cells,
    describe_detectable,
    describe_measured,
    losses_by_arm,
    paired_spread,
    share_of_steps,
    state_detectable,
)
from alchemist_core.experiments.trial import Cell
from alchemist_core.statistics import detectable_effect

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


def test_gap_closed_is_measured_from_random_to_the_oracle() -> None:
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


def test_the_full_corpus_is_shown_beside_every_retention() -> None:
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


def test_the_smallest_gain_that_seeds_can_show_is_a_sentence_in_the_metrics_unit() -> None:
    before = state_detectable(0.0184, 5, source="seeds 0, 1, 2")
    assert before["effect"] == pytest.approx(0.0184 * 1.682, abs=1e-4)
    assert describe_detectable(before) == (
        "Smallest gain over random that 5 seeds would show with 80% power: 0.0309 nats per token (standard deviation of the "
        "differences to random at equal seeds: 0.0184, of models trained on bands of ranks, seeds 0, 1, 2). Arms that differ less show "
        "smaller gains."
    )


def test_before_any_measurement_the_smallest_gain_is_a_multiple_of_a_named_standard_deviation() -> None:
    assert describe_detectable(state_detectable(None, 3, source="not measured")) == (
        "Smallest gain over random that 3 seeds would show with 80% power: 3.26 × the standard deviation of the differences "
        "to random at equal seeds, which is measured when models are trained."
    )
    assert "One seed cannot show a gain" in describe_detectable(state_detectable(0.1, 1, source="x"))


def test_the_smallest_gain_of_a_finished_table_comes_from_its_own_differences_by_retention() -> None:
    random, quiet, loud = [3.0, 3.1, 3.2, 3.3, 3.4], [0.1, -0.1, 0.0, 0.1, -0.1], [0.5, -0.5, 0.0, 0.5, -0.5]
    cells = [
        *cells_of("random", random), *cells_of("a", list(np.subtract(random, quiet))), *cells_of("b", list(np.subtract(random, loud))),
        *cells_of("planted", [1.0, 9.0, 1.0, 9.0, 1.0]), *cells_of("same", random),
        *cells_of("random", random, 0.5), *cells_of("a", list(np.subtract(random, quiet)), 0.5),
    ]  # fmt: skip
    said = describe_measured(cells)
    least, most = (detectable_effect(float(np.std(of, ddof=1)), 5) for of in (quiet, loud))
    assert f"at 20%, the smallest gain that shows with 80% power is {least:.4f} (a) to {most:.4f} (b) nats" in said[0]
    assert f"at 50%, the smallest gain that shows with 80% power is {least:.4f} (a) nats" in said[1]
    assert describe_measured([*cells_of("random", [1.0]), *cells_of("a", [2.0])]) == []


def test_any_two_arms_are_compared_by_their_seeds() -> None:
    a, b = [3.0, 5.0, 4.0], [2.5, 4.6, 3.4]
    lines = compare_arms([*cells_of("random", [9.0, 9.0, 9.0]), *cells_of("a", a), *cells_of("planted", b)], "a")
    gain = np.subtract(a, b)
    half = stats.t.ppf(0.975, 2) * stats.sem(gain)
    assert ("oracle", "20%", "1×", "3", f"{gain.mean():.4f} ± {half:.4f}", "better") in lines
    assert [line[0] for line in lines] == ["random", "oracle"]
    assert lines[0][-1] == "worse"
    with pytest.raises(ConfigError, match=r"--against c is not an arm of the experiment\. Arms: a\."):
        compare_arms(cells_of("a", a), "c")


def test_a_comparison_of_one_seed_says_that_it_shows_nothing() -> None:
    lines = compare_arms([*cells_of("random", [9.0]), *cells_of("a", [8.0])], "random")
    assert lines == [("a", "20%", "1×", "1", "1.0000", "one seed shows nothing")]


def timed(arm: str, seed: int, losses: dict[int, float]) -> list[Cell]:
    """Cells of one arm by steps; the longest has length 1."""
    most = max(losses)
    return [Cell(arm, 0.2, seed, 100, steps, loss, length=steps / most) for steps, loss in losses.items()]


def test_lengths_are_compared_with_their_own_random() -> None:
    cells = [*timed("random", 3, {50: 3.5, 100: 3.0}), *timed("a", 3, {50: 3.0, 100: 2.8})]
    rows = {(row.arm, row.length): row for row in compare_cells(cells)}
    gains = {length: rows["a", length].gain for length in (0.5, 1.0)}
    assert {length: round(gain.mean, 6) for length, gain in gains.items() if gain} == {0.5: 0.5, 1.0: 0.2}


def test_a_loss_that_falls_evenly_over_the_logarithm_is_reached_where_it_says() -> None:
    # Loss 4 − log10(steps): random's last, 2, is reached by an arm that is .5 better everywhere at 10^1.5 steps.
    marks = (10, 100)
    cells = [
        cell
        for seed in (3, 4)
        for arm, ahead in (("random", 0.0), ("a", 0.5))
        for cell in timed(arm, seed, {n: 4 - math.log10(n) - ahead for n in marks})
    ]
    share = share_of_steps(cells, "a", 0.2)
    assert share is not None
    assert (share.mean, share.n) == (pytest.approx(10**1.5 / 100), 2)


def test_what_is_reached_at_once_counts_with_the_shortest_steps() -> None:
    cells = [*timed("random", 3, {50: 3.5, 100: 3.0}), *timed("a", 3, {50: 2.0, 100: 1.0})]
    share = share_of_steps(cells, "a", 0.2)
    assert share is not None
    assert share.mean == 0.5


def test_what_is_never_reached_has_no_share() -> None:
    cells = [*timed("random", 3, {50: 3.5, 100: 3.0}), *timed("a", 3, {50: 3.6, 100: 3.1})]
    assert share_of_steps(cells, "a", 0.2) is None
    assert share_of_steps(cells, "never measured", 0.2) is None
