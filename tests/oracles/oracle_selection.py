"""Slow oracles of the selection, in Python numbers, written from the definitions of Eq. 11, the keys and the sampling."""

import math
from itertools import combinations, permutations

WORD = 2**64


def oracle_finalise(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def oracle_uniform(domain: int, seed: int, pair_hash64: int) -> float:
    state = oracle_finalise(oracle_finalise(domain) ^ seed)
    h = oracle_finalise(state ^ (pair_hash64 % WORD))
    return ((h >> 12) + 0.5) / 2**52


def oracle_eq11_density(rank: float, drop_top_ratio: float, mean_rank: float, std_rank: float) -> float:
    """Alchemist Eq. 11: nothing from the head, a Gaussian of the rank below it."""
    if rank < drop_top_ratio:
        return 0.0
    return math.exp(-((rank - mean_rank) ** 2) / (2 * std_rank**2)) / (std_rank * math.sqrt(2 * math.pi))


def oracle_draw(densities: list[float], hashes: list[int], k: int, seed: int, domain: int) -> set[int]:
    """Weighted sampling without replacement as a race: the k smallest exponential arrival times of rate p are kept."""
    arrivals = []
    for density, pair_hash64 in zip(densities, hashes, strict=True):
        wait = -math.log(oracle_uniform(domain, seed, pair_hash64))
        arrivals.append((wait / density if density > 0 else math.inf, pair_hash64))
    return {pair_hash64 for _, pair_hash64 in sorted(arrivals)[:k]}


def oracle_subset_law(densities: list[float], k: int) -> dict[tuple[int, ...], float]:
    """Probability of every k-subset: one pair after the other, each in proportion to its density among those left."""
    law = {}
    for subset in combinations(range(len(densities)), k):
        law[subset] = sum(_chance_of_order(densities, order) for order in permutations(subset))
    return law


def _chance_of_order(densities: list[float], order: tuple[int, ...]) -> float:
    chance, left = 1.0, sum(densities)
    for i in order:
        chance *= densities[i] / left
        left -= densities[i]
    return chance


def oracle_percent_rank(score: float, reference: list[float]) -> float:
    """Share of the other pairs that score higher: SQL's percent_rank() OVER (ORDER BY score DESC)."""
    return sum(other > score for other in reference) / max(len(reference) - 1, 1)
