import numpy as np
import pytest

from alchemist_core.report.comparison import compare_arms, judge_worth, only_losses
from alchemist_core.report.content import ArmRun
from alchemist_core.statistics import gap_closed
from alchemist_core.store.overviews import Comparison


def run(arm, seed, loss, *, retention=0.2, subset="scenes-auto-r20 v1"):
    return ArmRun(subset, retention, arm, seed, n_samples=600, n_steps=90, heldout_loss=loss)


def test_one_seed_has_a_mean_and_no_interval():
    (comparison,) = compare_arms([run("subset", 0, 2.8), run("random", 0, 3.2), run("planted", 0, 2.7)])
    subset = comparison.arms[0]
    assert (subset.loss.mean, subset.loss.half_width) == (2.8, None)
    assert subset.gain.mean == pytest.approx(0.4)
    assert subset.gap_closed.mean == pytest.approx(0.8)


def test_gains_are_paired_by_seed():
    runs = [run("random", seed, 3.0 + seed) for seed in range(4)] + [
        run("subset", seed, 2.5 + seed) for seed in (0, 1, 2)
    ]
    subset = compare_arms(runs)[0].arms[0]
    assert subset.gain.mean == pytest.approx(0.5)
    assert subset.gain.half_width == pytest.approx(0, abs=1e-12)
    assert subset.loss.half_width > 1


def test_a_gap_of_which_each_seed_closes_the_same_share_has_no_error():
    random, planted = {0: 3.0, 1: 3.5, 2: 3.1}, {0: 2.0, 1: 2.8, 2: 2.2}
    loss = {seed: random[seed] - 0.9 * (random[seed] - planted[seed]) for seed in random}
    closed = gap_closed(loss, random, planted)
    assert closed.mean == pytest.approx(0.9)
    assert closed.half_width == pytest.approx(0, abs=1e-9)


def test_the_gaps_interval_covers_95_percent_of_draws():
    rng, covered = np.random.default_rng(0), []
    for _ in range(3_000):
        level = rng.normal(3, 0.2, 3)
        arms = [dict(enumerate(level + at + rng.normal(0, 0.02, 3))) for at in (-0.36, 0.0, -0.4)]
        closed = gap_closed(*arms)
        covered.append(abs(closed.mean - 0.9) <= closed.half_width)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("random", "planted"),
    [({}, {0: 2.0}), ({0: 3.0}, {}), ({0: 3.0}, {1: 2.0}), ({0: 2.0}, {0: 2.0}), ({0: 2.0}, {0: 2.5})],
)
def test_without_a_gap_there_is_no_share_of_it(random, planted):
    assert gap_closed({0: 2.5}, random, planted) is None


def test_each_subset_has_its_own_comparison_smallest_retention_first():
    runs = [
        run("full", 0, 2.0, retention=0.5, subset="b v1"),
        run("subset", 0, 2.2, retention=0.5, subset="b v1"),
        run("random", 0, 3.0, subset="a v1"),
        run("subset", 0, 2.9, subset="a v1"),
    ]
    comparisons = compare_arms(runs)
    assert [(each.subset, each.retention) for each in comparisons] == [("a v1", 0.2), ("b v1", 0.5)]
    assert [[arm.arm for arm in each.arms] for each in comparisons] == [["subset", "random"], ["subset", "full"]]
    assert comparisons[1].arms[0].gain is None


def compared(metric, arm, gain=None):
    return Comparison(metric, arm, 1, 2.0, gain, None, None, 1, None, None, None, 1)


def test_a_version_is_judged_by_the_loss_that_its_own_models_have():
    flow, other = [compared("heldout_flow_loss", arm, 0.5) for arm in ("subset", "random")], compared("fid", "subset")
    assert only_losses([*flow, compared("heldout_loss", "random"), other]) == flow
    assert only_losses([*flow, own := compared("heldout_loss", "subset"), other]) == [own]
    assert only_losses([other]) == []
    assert "then alchemist evaluate best --version 2 --protocol heldout_flow_loss." in judge_worth(flow, "best", 2).text
