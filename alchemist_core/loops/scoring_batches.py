"""Batches of one fixed shape, filled across the borders of decode tasks and of shards. No torch.

What a batch holds besides a pair cannot be seen in the pair's score, so a batch may as well hold pairs of several shards.

Letters: B pairs in a batch · P pairs of a decoded part.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alchemist_core.loops.scoring_shards import PendingShard


@dataclass(slots=True)
class ScoreBatch:
    """Pixels of `shape` and as many captions as pairs are in it; where each pair belongs."""

    image_BHWC: NDArray[np.uint8]
    captions: list[str] = field(default_factory=list)
    parts: list[tuple[PendingShard, NDArray[np.int64]]] = field(default_factory=list)

    @property
    def n_free(self) -> int:
        """How many more pairs fit."""
        return len(self.image_BHWC) - len(self.captions)

    def take(self, shard: PendingShard, at_P: NDArray[np.int64], image_PHWC: NDArray[np.uint8]) -> int:
        """Copy as many pairs as fit; return how many."""
        start, n_taken = len(self.captions), min(self.n_free, len(at_P))
        self.image_BHWC[start : start + n_taken] = image_PHWC[:n_taken]
        self.captions += [shard.captions[at] for at in at_P[:n_taken]]
        self.parts.append((shard, at_P[:n_taken]))
        return n_taken

    def clear(self) -> None:
        """Forget the pairs."""
        self.captions, self.parts = [], []
