"""Drift as an effect size: equal to a slow oracle, low without a change, high with one, and it names the cause."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from alchemist_core.quality import drift
from alchemist_core.quality.drift import merge, sketch
from alchemist_core.quality.limits import DriftLimits
from alchemist_core.selection.ranks import fit_rank_scale
from tests.oracles.oracle_drift import oracle_counts, oracle_edges, oracle_ks, oracle_psi

LIMITS = DriftLimits()
SCORES = st.lists(st.integers(-20, 20).map(lambda i: i / 4), min_size=1, max_size=60)


def as_reference(scores: list[float]) -> drift.Reference:
    return merge([(np.sort(scores), len(scores))])


@given(SCORES, SCORES)
def test_psi_and_ks_equal_their_oracles_ties_and_empty_bins_included(tonight: list[float], before: list[float]) -> None:
    reference = as_reference(before)
    assert drift.bin_edges(reference).tolist() == oracle_edges(before)
    assert drift.count_bins(np.array(tonight), np.array(oracle_edges(before))).tolist() == oracle_counts(
        tonight, oracle_edges(before)
    )
    found = drift.measure(np.array(tonight), reference)
    assert found.psi == pytest.approx(oracle_psi(tonight, before), abs=1e-9)
    assert found.ks_distance == pytest.approx(oracle_ks(tonight, before), abs=1e-12)


@given(st.lists(SCORES, min_size=1, max_size=4), SCORES)
def test_nights_merged_are_the_nights_laid_together(nights: list[list[float]], tonight: list[float]) -> None:
    merged = merge([(sketch(np.array(night)), len(night)) for night in nights])
    together = as_reference([score for night in nights for score in night])
    assert merged.n == together.n
    assert drift.measure(np.array(tonight), merged).ks_distance == pytest.approx(
        drift.measure(np.array(tonight), together).ks_distance, abs=1e-9
    )


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_a_sketchs_distribution_is_within_half_a_share_of_the_scores(n_points: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=3_000)
    kept = merge([(sketch(scores, n_points=n_points), len(scores))])
    assert drift.ks_distance(scores, kept) <= 0.5 / n_points + 1 / len(scores) + 1e-9


def test_a_rank_scale_gives_its_scores_back() -> None:
    scores = np.array([1.0, 1.0, 2.0, 5.0, 5.0, 5.0, 9.0])
    scale = fit_rank_scale(scores)
    reference = drift.reference_of_scale(scale.knot_scores, scale.knot_ranks, len(scores))
    assert reference.score_M.tolist() == [1.0, 2.0, 5.0, 9.0]
    assert reference.count_M == pytest.approx([2.0, 1.0, 3.0, 1.0])


def distances(shift: float, *, n: int, m: int, trials: int) -> np.ndarray:
    """PSI of nights whose scores' mean has moved by a share of their spread."""
    rng = np.random.default_rng(0)
    pairs = ((rng.normal(shift, size=n), rng.normal(size=m)) for _ in range(trials))
    return np.array([drift.measure(tonight, merge([(sketch(before), m)])).psi for tonight, before in pairs])


def verdicts(shift: float, *, n: int, m: int, trials: int = 1_000) -> tuple[float, float, float]:
    """Share of nights that would be warned about and held, and the mean PSI."""
    psi = distances(shift, n=n, m=m, trials=trials)
    return float((psi >= LIMITS.warn_psi).mean()), float((psi >= LIMITS.hold_psi).mean()), float(psi.mean())


def test_without_a_change_no_night_is_held_and_hardly_one_warned_about() -> None:
    """At the smallest sizes that are judged; PSI as it is used elsewhere, uncorrected at n = 100, warns of 39 % of such nights."""
    warned, held, mean = verdicts(0.0, n=500, m=500)
    assert held == 0
    assert warned <= 0.005
    assert abs(mean) < 0.003
    uncorrected = distances(0.0, n=100, m=100, trials=500) + 9 * (1 / 100 + 1 / 100)
    assert np.mean(uncorrected >= LIMITS.warn_psi) > 0.3


@pytest.mark.parametrize(("shift", "least_warned", "least_held"), [(0.5, 0.98, 0.3), (0.6, 1.0, 0.9), (0.8, 1.0, 1.0)])
def test_a_shift_is_found_with_the_power_that_its_size_deserves(
    shift: float, least_warned: float, least_held: float
) -> None:
    warned, held, _ = verdicts(shift, n=500, m=5_000, trials=400)
    assert warned >= least_warned
    assert held >= least_held


def test_a_small_shift_of_a_huge_night_is_not_held_for_being_significant() -> None:
    _, held, mean = verdicts(0.1, n=200_000, m=200_000, trials=3)
    assert held == 0
    assert 0.005 < mean < LIMITS.warn_psi


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_group_that_was_shifted_adds_most(n_groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = merge([(sketch(rng.normal(size=5_000)), 5_000)])
    culprit = int(rng.integers(n_groups))
    edges = drift.bin_edges(reference)
    counts = np.array([
        drift.count_bins(rng.normal(2.0 if group == culprit else 0.0, size=400), edges) for group in range(n_groups)
    ])  # fmt: skip
    added = drift.contributions(counts, drift.count_bins(reference.score_M, edges, reference.count_M))
    assert int(np.argmax(added)) == culprit


def test_a_groups_contribution_is_the_whole_less_the_night_without_it() -> None:
    counts, reference = np.array([[5.0, 20.0, 3.0], [9.0, 9.0, 9.0]]), np.array([100.0, 100.0, 100.0])
    whole = drift.corrected_psi(counts.sum(axis=0), reference)
    assert drift.contributions(counts, reference) == pytest.approx(
        [whole - drift.corrected_psi(counts[1], reference), whole - drift.corrected_psi(counts[0], reference)]
    )
    assert drift.contributions(counts[:1], reference) == pytest.approx([drift.corrected_psi(counts[0], reference)])


@pytest.mark.parametrize(
    ("psi", "n_own", "n_tested", "is_first", "verdict"),
    [
        (9.0, 499, 499, False, "pooled"), (9.0, 499, 600, False, "warned"), (None, 600, 600, True, "recorded"),
        (9.0, 600, 600, True, "warned"), (0.25, 500, 500, False, "held"), (0.2499, 500, 500, False, "warned"),
        (0.1, 500, 500, False, "warned"), (0.0999, 500, 500, False, "steady"), (-0.01, 500, 500, True, "steady"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_night(psi: float | None, n_own: int, n_tested: int, is_first: bool, verdict: str) -> None:
    assert drift.judge(psi, LIMITS, n_own=n_own, n_tested=n_tested, is_first=is_first) == verdict


@pytest.mark.parametrize(
    ("field", "least", "most"), [("warn_psi", 0, 0.25), ("hold_psi", 0.1, 100), ("min_scores", 50, 10**9)]
)
def test_a_limit_may_be_as_small_or_large_as_its_bounds(field: str, least: float, most: float) -> None:
    for allowed in (least, most):
        assert getattr(DriftLimits(**{field: allowed}), field) == allowed
    for refused in (least - 1, most + 1):
        with pytest.raises(ValidationError):
            DriftLimits(**{field: refused})


def test_a_night_may_be_warned_about_and_held_from_one_limit_but_not_held_first() -> None:
    assert DriftLimits(warn_psi=0.2, hold_psi=0.2).warn_psi == 0.2
    with pytest.raises(ValidationError, match=r"warn_psi = 0\.21 is above hold_psi = 0\.2"):
        DriftLimits(warn_psi=0.21, hold_psi=0.2)


@pytest.mark.parametrize(("n_tested", "verdict"), [(499, "pooled"), (500, "recorded")])
def test_a_night_without_a_reference_is_pooled_while_it_is_small(n_tested: int, verdict: str) -> None:
    assert drift.judge(None, LIMITS, n_own=1, n_tested=n_tested, is_first=True) == verdict


def test_a_scale_of_one_sample_is_one_score() -> None:
    reference = drift.reference_of_scale(np.array([3.0]), np.array([0.0]), 1)
    assert (reference.score_M.tolist(), reference.count_M.tolist()) == ([3.0], [1.0])


def test_a_part_without_scores_adds_nothing() -> None:
    merged = merge([(np.array([]), 0), (np.array([2.0, 1.0]), 4)])
    assert (merged.score_M.tolist(), merged.count_M.tolist()) == ([1.0, 2.0], [2.0, 2.0])


def test_a_sketch_keeps_1024_points() -> None:
    assert len(sketch(np.arange(1024.0))) == len(sketch(np.arange(5000.0))) == 1024
    assert len(sketch(np.arange(1023.0))) == 1023
