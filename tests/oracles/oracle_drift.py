"""Slow oracles of the drift distances, in Python numbers, written from the definitions on the scores themselves."""

import math
from itertools import pairwise


def oracle_share_at_most(scores: list[float], x: float) -> float:
    return sum(score <= x for score in scores) / len(scores)


def oracle_ks(scores: list[float], reference: list[float]) -> float:
    return max(abs(oracle_share_at_most(scores, x) - oracle_share_at_most(reference, x)) for x in [*scores, *reference])


def oracle_edges(reference: list[float], n_bins: int = 10) -> list[float]:
    """The smallest scores that have at least k tenths of the reference at or below them."""
    edges = []
    for k in range(1, n_bins):
        reached = [
            x for x in sorted(reference) if sum(score <= x for score in reference) * n_bins >= k * len(reference)
        ]
        edges.append(reached[0])
    return sorted(set(edges))


def oracle_counts(scores: list[float], edges: list[float]) -> list[int]:
    borders = [-math.inf, *edges, math.inf]
    return [sum(low < x <= high for x in scores) for low, high in pairwise(borders)]


def oracle_psi(scores: list[float], reference: list[float]) -> float:
    """Population stability index over tenths of the reference, less its mean under no change; an empty bin is half a score."""
    edges = oracle_edges(reference)
    total = 0.0
    for n_here, n_there in zip(oracle_counts(scores, edges), oracle_counts(reference, edges), strict=True):
        p, q = max(n_here, 0.5) / len(scores), max(n_there, 0.5) / len(reference)
        total += (p - q) * math.log(p / q)
    return total - len(edges) * (1 / len(scores) + 1 / len(reference))
