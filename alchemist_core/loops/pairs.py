"""Pairs in memory, batches of encoded ones, and the order in which training meets them.

Letters: N pairs · B pairs in a batch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from alchemist_core.errors import DataError
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images of one size, as bytes, and their captions."""

    image_NHWC: ImageArray
    captions: list[str]
    image_keys: list[bytes] | None = None
    """The sha256 of each image's file, by which what was made of it is known again."""

    def __post_init__(self) -> None:
        if len(self.image_NHWC) != len(self.captions):
            raise DataError(f"{len(self.image_NHWC)} images but {len(self.captions)} captions; give one for each")

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, index_B: Int64[np.ndarray, " B"]) -> "Pairs":
        """Gather some pairs."""
        keys = None if self.image_keys is None else [self.image_keys[index] for index in index_B]
        return Pairs(self.image_NHWC[index_B], [self.captions[index] for index in index_B], keys)


class Batch(NamedTuple):
    """Encoded pairs that a step reads."""

    tokens: ImageTokens
    text: TextFeatures

    @property
    def n_pairs(self) -> int:
        """Count the pairs; a tuple's own length is 2."""
        return len(self.tokens.code_BS)

    def after(self, start: int) -> "Batch":
        """Give the pairs from one place on."""
        return Batch(self.tokens.after(start), self.text.after(start))

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        return Batch(self.tokens.to(device), self.text.to(device))


def batch_index(n_pairs: int, step: int, *, batch_size: int, seed: int) -> Int64[Tensor, " B"]:
    """Say which pairs a step reads: a function of the step, so that a resumed run needs no position but that.

    Epochs follow each other without a gap: a batch may hold the last pairs of one and the first of the next.
    """
    start = step * batch_size
    position_B = torch.arange(start, start + batch_size)
    epoch_B = position_B // n_pairs
    index_B = torch.empty_like(position_B)
    for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        is_now_B = epoch_B == epoch
        index_B[is_now_B] = torch.randperm(n_pairs, generator=generator)[position_B[is_now_B] % n_pairs]
    return index_B
