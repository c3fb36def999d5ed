"""How far one night's scores lie from the accepted ones, as effect sizes, and which part of the night moved them.

No p-value: with a million scores every night differs "significantly" from the one before. Knows nothing of nights, shards or the
store. Letters: N scores of a night · M points of a reference · B bins · G groups of the night's scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from alchemist_core.config import Section

N_BINS = 10
SKETCH_POINTS = 1024

Floats = NDArray[np.floating]


class DriftLimits(Section):
    """When a night's scores have moved too far: `[drift]` of the project file, or `[datasets.NAME.drift]` for one dataset."""

    warn_psi: float = Field(0.1, ge=0, le=100, description="Corrected PSI from which a night is warned about")
    hold_psi: float = Field(0.25, ge=0, le=100, description="Corrected PSI from which a night is held")
    # A tenth of 100 scores or fewer swings by itself.
    min_scores: int = Field(
        500, ge=50, le=10**9, description="Scores below which a night is pooled with the nights to come, and never held"
    )

    @model_validator(mode="after")
    def _warns_before_it_holds(self) -> "DriftLimits":
        if self.warn_psi > self.hold_psi:
            raise ValueError(
                f"warn_psi = {self.warn_psi} is above hold_psi = {self.hold_psi}: a night is warned about first"
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What scores are compared with: points in ascending order, each with the number of scores that it stands for."""

    score_M: NDArray[np.float64]
    count_M: NDArray[np.float64]

    @property
    def n(self) -> float:
        """How many scores the reference was made from."""
        return float(self.count_M.sum())


@dataclass(frozen=True, slots=True)
class Drift:
    """Two distances between a night and its reference; `psi` is corrected for the sizes of both."""

    psi: float
    ks_distance: float


def sketch(score_N: Floats, *, n_points: int = SKETCH_POINTS) -> NDArray[np.float64]:
    """Keep the scores in the middle of `n_points` equal shares; all of them, sorted, where there are no more.

    The sketch's distribution function differs from the scores' by at most half a share, so nights can be merged for ever
    without reading their scores again.

    >>> sketch(np.array([3.0, 1.0, 2.0, 4.0, 5.0, 6.0]), n_points=2).tolist()
    [2.0, 5.0]
    """
    sorted_N = np.sort(score_N.astype(np.float64))
    if len(sorted_N) <= n_points:
        return sorted_N
    middle_M = np.floor((np.arange(n_points) + 0.5) / n_points * len(sorted_N)).astype(np.int64)
    return sorted_N[middle_M]


def merge(parts: Sequence[tuple[Floats, int]]) -> Reference:
    """Merge sketches, each with the number of scores behind it, into one reference.

    >>> merge([(np.array([1.0, 3.0]), 200), (np.array([2.0]), 50)]).count_M.tolist()
    [100.0, 50.0, 100.0]
    """
    score_M = np.concatenate([np.asarray(part, np.float64) for part, _ in parts])
    count_M = np.concatenate([np.full(len(part), n / max(len(part), 1)) for part, n in parts])
    order_M = np.argsort(score_M, kind="stable")
    return Reference(score_M[order_M], count_M[order_M])


def reference_of_scale(knot_scores: Floats, knot_ranks: Floats, n_reference: int) -> Reference:
    """Turn a rank scale back into its scores: each knot stands for the pairs between it and the knot below.

    >>> reference_of_scale(np.array([1.0, 5.0]), np.array([0.5, 0.0]), 3).count_M.tolist()
    [2.0, 1.0]
    """
    n_higher_M = np.asarray(knot_ranks, np.float64) * max(n_reference - 1, 1)
    return Reference(np.asarray(knot_scores, np.float64), -np.diff(n_higher_M, prepend=float(n_reference)))


def bin_edges(reference: Reference, *, n_bins: int = N_BINS) -> NDArray[np.float64]:
    """Return the inner edges of equal shares of the reference; fewer where many scores are equal. An edge belongs to its lower bin.

    >>> bin_edges(merge([(np.arange(1.0, 9.0), 8)]), n_bins=4).tolist()
    [2.0, 4.0, 6.0]
    """
    share_M = np.cumsum(reference.count_M) / reference.n
    # A hair below each share: the running sum may fall short of it by a rounding error.
    place_B = np.searchsorted(share_M, np.arange(1, n_bins) / n_bins - 1e-9)
    return np.unique(reference.score_M[np.minimum(place_B, len(share_M) - 1)])


def count_bins(score_N: Floats, edges: Floats, weight_N: Floats | None = None) -> NDArray[np.float64]:
    """Count scores by bin.

    >>> count_bins(np.array([1.0, 2.0, 2.5]), np.array([2.0])).tolist()
    [2.0, 1.0]
    """
    bin_N = np.searchsorted(edges, score_N, side="left")
    return np.bincount(bin_N, weights=weight_N, minlength=len(edges) + 1).astype(np.float64)


def corrected_psi(count_B: Floats, reference_count_B: Floats) -> float:
    """Give the population stability index less what equal distributions of these sizes would show.

    Under no change PSI is distributed as (1/n + 1/m) χ² with one degree fewer than there are bins: nine for ten bins.
    An empty bin counts as half a score.

    Source: Siddiqi 2006 (PSI); Yurdakul and Naranjo 2020 (its distribution under no change).
    Departs: 9 (1/n + 1/m) is taken off, so that small nights do not look as if they had moved; it may fall below 0.

    >>> round(corrected_psi(np.array([500.0, 500.0]), np.array([900.0, 100.0])), 3)
    0.877
    """
    n, m = count_B.sum(), reference_count_B.sum()
    p_B, q_B = np.maximum(count_B, 0.5) / n, np.maximum(reference_count_B, 0.5) / m
    return float(((p_B - q_B) * np.log(p_B / q_B)).sum() - (len(count_B) - 1) * (1 / n + 1 / m))


def ks_distance(score_N: Floats, reference: Reference) -> float:
    """Give the largest distance between the two distribution functions, as an effect size from 0 to 1.

    Source: Kolmogorov 1933; Smirnov 1948.

    >>> ks_distance(np.array([3.0, 4.0]), merge([(np.array([1.0, 2.0, 3.0, 4.0]), 4)]))
    0.5
    """
    sorted_N = np.sort(score_N)
    points = np.concatenate([sorted_N, reference.score_M])
    below_N = np.searchsorted(sorted_N, points, side="right") / len(sorted_N)
    total_M = np.concatenate([[0.0], np.cumsum(reference.count_M)])
    below_M = total_M[np.searchsorted(reference.score_M, points, side="right")] / reference.n
    return float(np.abs(below_N - below_M).max())


def measure(score_N: Floats, reference: Reference) -> Drift:
    """Measure how far scores have moved from a reference."""
    edges = bin_edges(reference)
    reference_count_B = count_bins(reference.score_M, edges, reference.count_M)
    return Drift(corrected_psi(count_bins(score_N, edges), reference_count_B), ks_distance(score_N, reference))


def contributions(count_GB: Floats, reference_count_B: Floats) -> NDArray[np.float64]:
    """Give what each group of the night adds to its PSI: the whole's less that of the night without the group.

    >>> contributions(np.array([[10.0, 90.0], [90.0, 10.0], [50.0, 50.0]]), np.array([900.0, 100.0])).round(2).tolist()
    [0.61, -0.95, 0.0]
    """
    count_B = count_GB.sum(axis=0)
    whole = corrected_psi(count_B, reference_count_B)
    # Of a night that is one group nothing is left, so nothing has moved.
    without_G = [corrected_psi(rest_B, reference_count_B) if rest_B.sum() else 0.0 for rest_B in count_B - count_GB]
    return whole - np.array(without_G)


def judge(psi: float | None, limits: DriftLimits, *, n_own: int, n_tested: int, is_first: bool) -> str:
    """Say what becomes of a night: `recorded`, `pooled` with the nights to come, `steady`, `warned` or `held`.

    Args:
        psi: Its corrected PSI; none where there is nothing to compare with.
        limits: The dataset's limits.
        n_own: Its own scores; fewer than the limits' `min_scores` are never held.
        n_tested: Its scores and those of the small nights before it that were pooled.
        is_first: Whether it was compared with the rater's reference, which only warns.

    >>> judge(0.3, DriftLimits(), n_own=900, n_tested=900, is_first=False)
    'held'
    >>> judge(0.3, DriftLimits(), n_own=90, n_tested=900, is_first=False)
    'warned'
    """
    if n_tested < limits.min_scores:
        return "pooled"
    if psi is None:
        return "recorded"
    if psi >= limits.hold_psi and n_own >= limits.min_scores and not is_first:
        return "held"
    return "warned" if psi >= limits.warn_psi else "steady"
