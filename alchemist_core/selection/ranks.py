"""From scores to ranks: a frozen scale of (score, rank) knots, 0 = highest score.

Letters: N samples of a dataset, M knots of a scale.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import DataError
from alchemist_core.selection.chunks import map_chunks

MAX_KNOTS = 65_536
# Scores have drifted and `--rescale` is due if the share above the cut differs from that of the scale's reference by more than this, or if
# the share outside the scale is larger.
MAX_CUT_DRIFT = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class RankScale:
    """A frozen reference distribution: scores strictly ascending, ranks strictly descending.

    A rank is `percent_rank() OVER (ORDER BY score DESC)` over the reference: the share of the other samples that have a
    higher score. It is exact at a knot, interpolated between knots, and clamped to 0 and 1 outside.
    """

    knot_scores: NDArray[np.float64]
    knot_ranks: NDArray[np.float64]

    def __post_init__(self) -> None:
        scores_M, ranks_M = self.knot_scores, self.knot_ranks
        if scores_M.shape != ranks_M.shape or not 1 <= scores_M.size <= MAX_KNOTS:
            raise DataError(
                f"A rank scale has {scores_M.size} scores and {ranks_M.size} ranks; it needs 1 to {MAX_KNOTS} of each."
            )
        if not (np.isfinite(scores_M).all() and (np.diff(scores_M) > 0).all()):
            raise DataError("The scores of a rank scale must be finite and strictly ascending.")
        if not ((np.diff(ranks_M) < 0).all() and ranks_M[0] <= 1 and ranks_M[-1] >= 0):
            raise DataError("The ranks of a rank scale must descend strictly within 1 and 0.")

    def is_same_as(self, other: "RankScale") -> bool:
        """Return whether another scale gives every score the same rank."""
        return np.array_equal(self.knot_scores, other.knot_scores) and np.array_equal(self.knot_ranks, other.knot_ranks)

    def rank(self, score_N: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return each score's rank, by the same four float64 operations as SQL's `rank_of`.

        >>> RankScale(np.array([1.0, 3.0]), np.array([1.0, 0.0])).rank(np.array([0.0, 1.5, 3.0])).tolist()
        [1.0, 0.75, 0.0]
        """
        rank_N = np.empty(len(score_N), np.float64)

        def work(chunk: slice) -> None:
            rank_N[chunk] = self._rank_chunk(score_N[chunk].astype(np.float64))

        map_chunks(work, len(score_N))
        return rank_N

    def _rank_chunk(self, score_N: NDArray[np.float64]) -> NDArray[np.float64]:
        scores, ranks = self.knot_scores, self.knot_ranks
        if not np.isfinite(score_N).all():
            raise DataError("A score is NaN or infinite, so it has no rank. Quarantine its sample.")
        i = np.searchsorted(scores, score_N, side="right") - 1
        if scores.size > 1:
            low = np.clip(i, 0, scores.size - 2)
            share = (score_N - scores[low]) / (scores[low + 1] - scores[low])
            rank_N = ranks[low] + (ranks[low + 1] - ranks[low]) * share
        else:
            rank_N = np.zeros_like(score_N)
        rank_N[score_N == scores[-1]] = ranks[-1]
        rank_N[score_N > scores[-1]] = 0.0
        rank_N[i < 0] = 1.0
        return rank_N

    def share_above_cut(self, drop_top_ratio: float) -> float:
        """Return the share of the reference with ranks below a drop-top ratio: about the ratio, and other than it where scores tie.

        >>> RankScale(np.array([1.0, 2.0]), np.array([0.4, 0.0])).share_above_cut(0.25)
        0.4
        """
        n_kept = int(np.count_nonzero(self.knot_ranks >= drop_top_ratio))
        if n_kept == self.knot_ranks.size:
            return 0.0
        # A knot's rank is the share of the samples above it: above the highest knot that is kept, all are dropped.
        return float(self.knot_ranks[n_kept - 1]) if n_kept else 1.0

    def count_outside(
        self, score_N: NDArray[np.floating], is_eligible_N: NDArray[np.bool_] | None = None
    ) -> tuple[int, int]:
        """Count the scores below and above the scale: all of them have rank 1, and all of them rank 0.

        Args:
            score_N: The scores.
            is_eligible_N: Those that count; None: all.

        >>> RankScale(np.array([1.0, 3.0]), np.array([1.0, 0.0])).count_outside(np.array([0.0, 1.0, 3.0, 4.0, 5.0]))
        (1, 2)
        """

        def work(chunk: slice) -> tuple[int, int]:
            chunk_N = score_N[chunk] if is_eligible_N is None else score_N[chunk][is_eligible_N[chunk]]
            is_below_N, is_above_N = chunk_N < self.knot_scores[0], chunk_N > self.knot_scores[-1]
            return int(np.count_nonzero(is_below_N)), int(np.count_nonzero(is_above_N))

        found = map_chunks(work, len(score_N))
        return sum(n_below for n_below, _ in found), sum(n_above for _, n_above in found)


def fit_rank_scale(score_N: NDArray[np.floating], *, max_knots: int = MAX_KNOTS) -> RankScale:
    """Fit a scale to scores: a knot for every distinct score, or evenly spaced knots if there are too many.

    >>> fit_rank_scale(np.array([5.0, 1.0, 3.0])).knot_ranks.tolist()
    [1.0, 0.5, 0.0]

    Raises:
        DataError: There are no scores, or one is not finite.
    """
    if len(score_N) == 0:
        raise DataError("There are no scores yet, so ranks cannot be computed. Run alchemist score first.")
    sorted_N = np.sort(score_N.astype(np.float64))
    if not np.isfinite(sorted_N).all():
        raise DataError("A score is NaN or infinite. Quarantine its sample before a rank scale is fitted.")
    # Equal scores share the position of the last one: all samples after it score higher.
    is_last_N = np.append(sorted_N[1:] != sorted_N[:-1], True)
    position_M = np.flatnonzero(is_last_N)
    if position_M.size > max_knots:
        spread_M = np.floor(np.linspace(0, len(sorted_N) - 1, max_knots))
        position_M = np.unique(position_M[np.searchsorted(position_M, spread_M)])
    n_higher_M = len(sorted_N) - 1 - position_M
    return RankScale(sorted_N[position_M], n_higher_M / max(len(sorted_N) - 1, 1))


def share_above_cut(rank_N: NDArray[np.float64], drop_top_ratio: float) -> float:
    """Return the share of the ranks below the drop-top ratio."""
    return float(np.count_nonzero(rank_N < drop_top_ratio) / max(len(rank_N), 1))


def needs_rescale(rank_N: NDArray[np.float64], drop_top_ratio: float, scale: RankScale) -> bool:
    """Return whether scores have drifted so far that the drop-top ratio drops another share than when the scale was fitted."""
    return abs(share_above_cut(rank_N, drop_top_ratio) - scale.share_above_cut(drop_top_ratio)) > MAX_CUT_DRIFT
