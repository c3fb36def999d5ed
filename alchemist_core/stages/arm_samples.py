"""The samples that an arm of a comparison trains on, with repeats or weights. Letters: M samples of an arm."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.weights import epoch_size_of
from alchemist_core.store.manifests import hashes_sha256


class ArmSamples(NamedTuple):
    """The samples that an arm trains on: their hashes (32 bytes each), and how often an epoch reads each (None: once)."""

    pair_hash_M32: NDArray[np.uint8]
    weight_M: NDArray[np.float64] | None = None

    @property
    def n_reads(self) -> int:
        """Number of samples that an epoch reads."""
        return len(self.pair_hash_M32) if self.weight_M is None else epoch_size_of(self.weight_M)

    def sha256(self) -> str:
        """Return the hash of the samples and their weights; a part of a model's identity."""
        return hashes_sha256(*self)

    def joined(self, other: "ArmSamples") -> "ArmSamples":
        """Return both."""
        hashes = np.concatenate([self.pair_hash_M32, other.pair_hash_M32])
        if self.weight_M is None and other.weight_M is None:
            return ArmSamples(hashes)
        weights = [np.ones(len(one.pair_hash_M32)) if one.weight_M is None else one.weight_M for one in (self, other)]
        return ArmSamples(hashes, np.concatenate(weights))
