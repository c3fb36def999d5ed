"""Fusion of several scores into one: the mean of a sample's ranks by each of them.

Ranks are comparable where scores are not: nats of a rater, cosines of a critic, counts of words. Letters: N samples · M signals.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alchemist_core.errors import ConfigError
from alchemist_core.selection.ranks import fit_rank_scale

JOIN = "+"
"""Joins the names of signals, as in `--rank-by rater+critic`."""
CRAWLED = "imported."
"""The names of numbers that the crawl gives begin with this."""
_SCORED = "alchemist score (of a rater, or of a scorer by --scorer NAME), or alchemist import scores"
_HEURISTIC = "alchemist score --heuristics"
_COMMANDS = {
    "aesthetic": "alchemist score-aesthetics",
    "clarity": _HEURISTIC,
    "frequency": _HEURISTIC,
    "edge_density": _HEURISTIC,
}


def signals_of(score: str) -> tuple[str, ...]:
    """Return the scores that a name fuses; one of them if it fuses none.

    Raises:
        ConfigError: A score is named twice.

    >>> signals_of("rater+critic"), signals_of("clarity")
    (('rater', 'critic'), ('clarity',))
    """
    signals = tuple(score.split(JOIN))
    if len(set(signals)) < len(signals):
        raise ConfigError(f"--rank-by {score} names one score twice. Name each once.")
    return signals


def ways_to_score(score: str) -> str:
    """Return what gives samples the scores that a name fuses.

    >>> ways_to_score("rater+imported.likes")
    'Scores come from alchemist score (of a rater, or of a scorer by --scorer NAME), or alchemist import scores; numbers of the crawl come \
with alchemist ingest --imported-scores NAMES.'
    >>> ways_to_score("clarity")
    'Scores come from alchemist score --heuristics.'
    """
    signals = signals_of(score)
    commands = dict.fromkeys(_COMMANDS.get(name, _SCORED) for name in signals if not name.startswith(CRAWLED))
    ways = [f"scores come from {command}" for command in commands]
    if any(name.startswith(CRAWLED) for name in signals):
        ways.append("numbers of the crawl come with alchemist ingest --imported-scores NAMES")
    told = "; ".join(ways)
    return f"{told[0].upper()}{told[1:]}."


def fuse_ranks(rank_NM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fused score of each sample: 1 − the mean of its ranks (0 = highest score), so that higher is better.

    Added signal by signal, because numpy adds rows of several lengths in several orders, and a score must have the same bits everywhere.

    Source: Borda 1781; Fox and Shaw 1994, CombSUM over ranks.

    >>> fuse_ranks(np.array([[0.0, 0.5], [1.0, 0.25]])).tolist()
    [0.75, 0.375]
    """
    total_N = np.zeros(len(rank_NM))
    for rank_N in rank_NM.T:
        total_N += rank_N
    score_N: NDArray[np.float64] = 1 - total_N / rank_NM.shape[1]
    return score_N


_N_BINS = 2_000


def fused_quantile(quantiles: Sequence[NDArray[np.float64]], loss: float) -> float:
    """Return the fused score that a fraction of good samples does not reach, if the signals err independently of each other.

    The distribution of a sum of independent ranks is the convolution of their distributions, here in steps of 1/2,000 of a rank. Where
    the signals err on the same samples, more than that fraction has a lower score.

    Args:
        quantiles: For each signal, the ranks of good samples at equal steps of their distribution.
        loss: Fraction of the good samples that may have a lower score, 0-1.

    >>> everywhere = np.linspace(0, 1, 101)
    >>> round(fused_quantile([everywhere], 0.2), 1), round(fused_quantile([everywhere, everywhere], 0.125), 2)
    (0.2, 0.25)
    """
    share = np.ones(1)
    for rank_Q in quantiles:
        middle_P = (rank_Q[1:] + rank_Q[:-1]) / 2
        share = np.convolve(share, np.bincount((middle_P * _N_BINS).astype(np.int64), minlength=_N_BINS + 1))
    reached = np.cumsum(share) / share.sum()
    mean_rank = np.searchsorted(reached, 1 - loss) / _N_BINS / len(quantiles)
    return float(1 - mean_rank)


def ranks_without(rank_NM: NDArray[np.float64], left_out: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return score and rank of each sample if one signal is left out.

    Args:
        rank_NM: Ranks by each signal.
        left_out: Column of the signal.
    """
    score_N = fuse_ranks(np.delete(rank_NM, left_out, axis=1))
    return score_N, fit_rank_scale(score_N).rank(score_N)
