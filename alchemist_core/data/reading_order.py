"""Which member is read when, and by whom: a pure function of pairs, seed, epoch, ranks and workers. Knows no torch, no bytes.

Letters: N members of a subset · M of them that one rank reads · K that one worker reads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.keys import Domain, mix64

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reader:
    """One of `world_size` processes that share an epoch, and the size of the batches that its loader makes."""

    rank: int = 0
    world_size: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.batch_size < 1:
            raise ValueError(f"{self}: the rank is 0 to world_size - 1, the batch size at least 1")


def epoch_order(pair_hash64_N: NDArray[np.int64], *, seed: int, epoch: int) -> Numbers:
    """Return the order in which an epoch meets the members, on whatever machine.

    >>> epoch_order(np.arange(4), seed=0, epoch=0).tolist(), epoch_order(np.arange(4), seed=0, epoch=1).tolist()
    ([1, 3, 2, 0], [2, 0, 3, 1])
    """
    epoch_seed = int(mix64(Domain.SHUFFLE, seed, np.array([epoch]))[0])
    return np.argsort(mix64(Domain.SHUFFLE, epoch_seed, pair_hash64_N), kind="stable")


def rank_share(order_N: Numbers, reader: Reader) -> Numbers:
    """Return what one rank reads: every member is read by exactly one, and no rank reads two more than another.

    >>> [rank_share(np.arange(5), Reader(rank, 2)).tolist() for rank in range(2)]
    [[0, 2, 4], [1, 3]]
    """
    return order_N[reader.rank :: reader.world_size]


def worker_share(number_M: Numbers, reader: Reader, *, worker: int, n_workers: int) -> Numbers:
    """Return what one worker of a rank's loader reads: whole batches in turn, as the loader asks for them.

    So the loader gives the same batches with any number of workers.

    >>> worker_share(np.arange(7), Reader(batch_size=2), worker=1, n_workers=2).tolist()
    [2, 3, 6]
    """
    is_mine_M: NDArray[np.bool_] = np.arange(len(number_M)) // reader.batch_size % n_workers == worker
    return number_M[is_mine_M]
