"""Slow oracles of repeats, weights, reads and variety: one read, one point or one sample at a time, in fractions."""

from collections import Counter
from fractions import Fraction


def oracle_repeats(noise: list[int], epoch_size: int) -> list[int]:
    """Give one read after another to a member that has the fewest; of several, to the one with the smallest noise."""
    reads = [0] * len(noise)
    for _ in range(epoch_size):
        reads[min(range(len(noise)), key=lambda i: (reads[i], noise[i]))] += 1
    return reads


def oracle_weights(density: list[float], epoch_size: int, clip: float) -> list[Fraction]:
    """Return min(max(t·p, mean/clip), mean·clip) with the t that makes the sum the epoch's size, found by trying every pair of cuts."""
    exact = [Fraction(p) for p in density]
    mean = Fraction(epoch_size, len(exact))
    low, high = mean / Fraction(clip), mean * Fraction(clip)
    order = sorted(exact)
    for n_low in range(len(order) + 1):
        for n_high in range(len(order) - n_low + 1):
            middle = order[n_low : len(order) - n_high]
            left = epoch_size - n_low * low - n_high * high
            if not middle or sum(middle) == 0:
                continue
            t = left / sum(middle)
            found = [min(max(t * p, low), high) for p in exact]
            if sum(found) == epoch_size:
                return found
    raise AssertionError("no factor gives the epoch's size")


def oracle_reads(weights: list[Fraction], order: list[int], start: Fraction) -> list[int]:
    """Lay the weights on a line in this order, and count the points 1 − start, 2 − start, … on each; its left end is not part of it."""
    reads, at, point = [0] * len(weights), Fraction(0), 1 - start
    for i in order:
        at += weights[i]
        while point <= at:
            reads[i] += 1
            point += 1
    return reads


def oracle_varied(keys: list[float], hashes: list[int], groups: list[int], strength: float, k: int) -> list[int]:
    """Take the k samples with the smallest mean place in the order of keys and in that in which groups take turns."""
    by_key = sorted(range(len(keys)), key=lambda i: (-keys[i], hashes[i]))
    seen: Counter[int] = Counter()
    turn: dict[int, int] = {}
    for i in by_key:
        turn[i] = seen[groups[i]]
        seen[groups[i]] += 1
    by_turn = sorted(by_key, key=lambda i: turn[i])
    s = Fraction(strength)
    mean = {i: (1 - s) * by_key.index(i) + s * by_turn.index(i) for i in by_key}
    return sorted(sorted(by_key, key=lambda i: (mean[i], hashes[i]))[:k])
