"""Noise of the selection: a pure function of (use, seed, sample), equal in Python and in SQL, on every machine.

It reads the stored 64-bit prefix of a sample's hash, because hashing 30 million keys again takes 11 s. `sql/functions/noise.sql` is
the same function in SQL.

Letters: N samples of a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from alchemist_core.lazy import NDArray, np

PRank = Literal["per-draw", "inclusion"]


class Domain(IntEnum):
    """One tag for each use of the hash, so that no two uses are correlated."""

    SELECT = 1
    RANDOM_CONTROL = 2
    ORACLE_CONTROL = 3
    SHUFFLE = 4
    ORACLE_FILLING = 5
    BUCKETS = 6
    BLOCKS = 7
    BUFFER = 8
    REPEATS = 9
    READS = 10


@dataclass(frozen=True, slots=True)
class Noise:
    """What is added to the log density of each sample.

    `per-draw` takes p(rank) as the probability of each of k successive draws without replacement: Gumbel noise.
    `inclusion` takes it as the probability to be selected at all, π = min(1, c·p): the k largest p/u, of which exactly those above 1/c
    would be selected if each sample were decided alone (sequential Poisson sampling, Ohlsson 1998).
    """

    seed: int
    domain: Domain = Domain.SELECT
    p_rank: PRank = "per-draw"

    def of(self, pair_hash64_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the noise of each sample; larger noise makes selection likelier.

        >>> bool(Noise(7, p_rank="inclusion").of(np.arange(3)).min() > 0)
        True
        """
        if self.p_rank == "per-draw":
            return gumbel_noise(self.domain, self.seed, pair_hash64_N)
        noise_N = uniform_noise(self.domain, self.seed, pair_hash64_N)
        np.log(noise_N, out=noise_N)
        return np.negative(noise_N, out=noise_N)


def mix64(domain: Domain, seed: int, pair_hash64_N: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash each sample to 64 well-mixed bits under one domain and seed.

    finalise(finalise(finalise(domain) ^ seed) ^ pair_hash64), all modulo 2^64; a negative hash is its two's complement.

    >>> int(mix64(Domain.SELECT, 7, np.array([-1]))[0])
    17287262966485572663
    """
    state = _finalise(_finalise(np.array([domain], np.uint64)) ^ np.uint64(seed))
    return _finalise(np.ascontiguousarray(pair_hash64_N, np.int64).view(np.uint64) ^ state)


def uniform_noise(domain: Domain, seed: int, pair_hash64_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return u = ((h >> 12) + ½)·2⁻⁵² for each sample: never 0, never 1.

    (h >> 11) with 53 bits could round to 1, and its Gumbel noise would be infinite.
    """
    top_N = (mix64(domain, seed, pair_hash64_N) >> np.uint64(12)).astype(np.float64)
    return (top_N + 0.5) * 2.0**-52


def gumbel_noise(domain: Domain, seed: int, pair_hash64_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise −log(−log u) for each sample.

    numpy's log differs between processors by one unit in the last place: compare members, never these values.
    """
    noise_N = uniform_noise(domain, seed, pair_hash64_N)
    np.log(noise_N, out=noise_N)
    np.negative(noise_N, out=noise_N)
    np.log(noise_N, out=noise_N)
    return np.negative(noise_N, out=noise_N)


def _finalise(z_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits. Source: Steele, Lea, Flood 2014 (SplitMix64), with Stafford's 13th set of constants."""
    z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z_N ^ (z_N >> np.uint64(31))
