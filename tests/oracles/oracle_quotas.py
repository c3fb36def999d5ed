"""Slow oracles of the quotas: one seat and one sample at a time, in fractions."""

from collections import Counter
from fractions import Fraction


def oracle_seats(weights: list[int], available: list[int], k: int) -> list[int]:
    """Sainte-Laguë 1910: each seat to the largest weight / (2·seats + 1) of those who have room, the first of equal ones."""
    seats = [0] * len(weights)
    for _ in range(k):
        quotients = [
            (Fraction(weight, 2 * n + 1), -g)
            for g, (weight, n) in enumerate(zip(weights, seats, strict=True))
            if n < available[g]
        ]
        seats[-max(quotients)[1]] += 1
    return seats


def oracle_capped(keys: list[float], hashes: list[int], groups: list[int], share: float) -> list[int]:
    """Take the best pair whose group stays within share·(members so far + 1), rounded up; group 0 is free. In order of taking."""
    waiting = sorted(range(len(keys)), key=lambda i: (-keys[i], hashes[i]))
    taken: list[int] = []
    n_of: Counter[int] = Counter()
    exact = Fraction(str(share))
    while True:
        limit = -(-(len(taken) + 1) * exact // 1)
        fits = next((i for i in waiting if groups[i] == 0 or n_of[groups[i]] < limit), None)
        if fits is None:
            return taken
        taken.append(fits)
        waiting.remove(fits)
        n_of[groups[fits]] += 1
