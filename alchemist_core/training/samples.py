"""Image-text samples, read in chunks or held in memory; batches of encoded samples; and the order in which training reads them.

Letters: N samples · M some of them · B samples in a batch · E samples that an epoch reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64, UInt8
from torch import Tensor

from alchemist_core.errors import DataError
from alchemist_core.models.images import ImageArray
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.selection.weights import epoch_size_of, reads_of_epoch
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion

CHUNK = 4096
"""Images in memory at a time while many are encoded."""

Chunks = Iterator[tuple[Int64[np.ndarray, " M"], ImageArray]]


class Captions(Protocol):
    """Captions, one per sample: a list, or an object that reads them one by one, because millions take gigabytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


class SampleSource(Protocol):
    """Samples whose images need not be in memory."""

    @property
    def captions(self) -> Captions:
        """Each sample's caption."""
        ...

    @property
    def image_keys(self) -> UInt8[np.ndarray, "N 32"] | None:
        """The sha256 of each image's file, the key of cached outputs; None if there are none."""
        ...

    @property
    def decode_version(self) -> DecodeVersion:
        """Version of the decode that gives the pixels; cached outputs are kept apart by it."""
        ...

    def __len__(self) -> int: ...

    def read(self, index_M: Int64[np.ndarray, " M"]) -> Chunks:
        """Yield the images of some samples in chunks, each with its indices; images that cannot be decoded are left out."""
        ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Images of one size in memory, and their captions."""

    image_NHWC: ImageArray
    captions: list[str]
    image_keys: UInt8[np.ndarray, "N 32"] | None = None
    decode_version: DecodeVersion = UNPINNED

    def __post_init__(self) -> None:
        if len(self.image_NHWC) != len(self.captions):
            raise DataError(
                f"{len(self.image_NHWC)} images but {len(self.captions)} captions. Give one caption per image."
            )

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, index_B: Int64[np.ndarray, " B"]) -> "Samples":
        """Gather some samples."""
        keys = None if self.image_keys is None else self.image_keys[index_B]
        captions = [self.captions[index] for index in index_B]
        return Samples(self.image_NHWC[index_B], captions, keys, self.decode_version)

    def read(self, index_M: Int64[np.ndarray, " M"]) -> Chunks:
        """Yield the images of some samples in chunks."""
        for start in range(0, len(index_M), CHUNK):
            chunk = index_M[start : start + CHUNK]
            yield chunk, self.image_NHWC[chunk]


@dataclass(frozen=True)
class JoinedSamples:
    """The samples of one source followed by those of another."""

    first: SampleSource
    second: SampleSource

    def __post_init__(self) -> None:
        if self.first.decode_version != self.second.decode_version:
            raise DataError(
                f"Samples of decode versions {self.first.decode_version} and {self.second.decode_version} cannot be joined. "
                "Read both by the version of one rater."
            )

    @property
    def decode_version(self) -> DecodeVersion:
        """The version of both."""
        return self.first.decode_version

    @property
    def captions(self) -> Captions:
        """The captions of both."""
        return JoinedCaptions(self.first.captions, self.second.captions)

    @property
    def image_keys(self) -> UInt8[np.ndarray, "N 32"] | None:
        """The keys of both; None if either has none."""
        first, second = self.first.image_keys, self.second.image_keys
        return None if first is None or second is None else np.concatenate([first, second])

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, index_M: Int64[np.ndarray, " M"]) -> Chunks:
        """Yield the images of some samples in chunks."""
        n_first = len(self.first)
        yield from self.first.read(index_M[index_M < n_first])
        for chunk, image_NHWC in self.second.read(index_M[index_M >= n_first] - n_first):
            yield chunk + n_first, image_NHWC


@dataclass(frozen=True)
class WeightedSamples:
    """Samples of which an epoch reads some more often than others.

    Args:
        samples: The samples.
        weight_N: How often an epoch reads each on average, in all a whole number; None: once each.
    """

    samples: SampleSource
    weight_N: Float64[np.ndarray, " N"] | None

    @property
    def captions(self) -> Captions:
        """Each sample's caption."""
        return self.samples.captions

    @property
    def image_keys(self) -> UInt8[np.ndarray, "N 32"] | None:
        """The key of each image."""
        return self.samples.image_keys

    @property
    def decode_version(self) -> DecodeVersion:
        """Version of the decode."""
        return self.samples.decode_version

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index_M: Int64[np.ndarray, " M"]) -> Chunks:
        """Yield the images of some samples in chunks."""
        return self.samples.read(index_M)


@dataclass(frozen=True, slots=True)
class JoinedCaptions:
    """Captions followed by others."""

    first: Captions
    second: Captions

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, at: int) -> str:
        return self.first[at] if at < len(self.first) else self.second[at - len(self.first)]

    def __iter__(self) -> Iterator[str]:
        return chain(self.first, self.second)


@dataclass(frozen=True, slots=True)
class SomeCaptions:
    """Some of the captions."""

    captions: Captions
    index_M: Int64[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.index_M)

    def __getitem__(self, at: int) -> str:
        return self.captions[int(self.index_M[at])]

    def __iter__(self) -> Iterator[str]:
        return (self[at] for at in range(len(self)))


@dataclass(frozen=True)
class ImagesOf:
    """The images of a source by index, like an array."""

    samples: SampleSource

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index_M: Int64[np.ndarray, " M"]) -> ImageArray:
        found = list(self.samples.read(index_M))
        if not found:
            raise none_decoded(len(index_M))
        chunks, images = zip(*found, strict=True)
        image_NHWC: ImageArray = np.concatenate(images)[np.argsort(np.concatenate(chunks), kind="stable")]
        return image_NHWC


def none_decoded(n: int) -> DataError:
    """Return the error that no image of some samples can be decoded."""
    return DataError(
        f"None of {n:,} images can be decoded. Read the reasons in the view alchemist.quarantined_samples."
    )


class Batch(NamedTuple):
    """Encoded samples that a step reads."""

    tokens: ImageTokens
    text: TextFeatures

    @property
    def n_samples(self) -> int:
        """Number of samples; the tuple's own length is 2."""
        return len(self.tokens.code_BS)

    def between(self, start: int | None, stop: int | None) -> "Batch":
        """Return the samples between two indices, as views."""
        return Batch(self.tokens.between(start, stop), self.text.between(start, stop))

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        return Batch(self.tokens.to(device), self.text.to(device))


class EpochReads:
    """Which samples each step reads: each once per epoch, or as often as the weights of `WeightedSamples` say.

    Args:
        samples: The samples.
        seed: Seed of the order, and of the reads of weighted samples.
    """

    def __init__(self, samples: SampleSource, *, seed: int) -> None:
        self._weight_N = samples.weight_N if isinstance(samples, WeightedSamples) else None
        self._seed = seed
        self.n_reads = len(samples) if self._weight_N is None else epoch_size_of(self._weight_N)
        self._index_of: dict[int, Int64[Tensor, " E"]] = {}

    def batch(self, step: int, *, batch_size: int) -> Int64[Tensor, " B"]:
        """Return the samples that a step reads, as `batch_index` does."""
        index_B = batch_index(self.n_reads, step, batch_size=batch_size, seed=self._seed)
        if self._weight_N is None:
            return index_B
        epoch_B = torch.arange(step * batch_size, (step + 1) * batch_size) // self.n_reads
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            is_now_B = epoch_B == epoch
            index_B[is_now_B] = self._index(epoch)[index_B[is_now_B]]
        return index_B

    def _index(self, epoch: int) -> Int64[Tensor, " E"]:
        """Return the samples of an epoch, each as often as it is read."""
        if epoch not in self._index_of:
            assert self._weight_N is not None
            id_N = np.arange(len(self._weight_N))
            read_N = reads_of_epoch(self._weight_N, id_N, seed=self._seed, epoch=epoch)
            # A step reads at most the end of one epoch and the beginning of the next, or several short ones.
            self._index_of = {last: index for last, index in self._index_of.items() if last == epoch - 1}
            self._index_of[epoch] = torch.from_numpy(np.repeat(id_N, read_N))
        return self._index_of[epoch]


def batch_index(n_samples: int, step: int, *, batch_size: int, seed: int) -> Int64[Tensor, " B"]:
    """Return the indices that a step reads. They depend only on the step, so a resumed run needs no position in the data.

    Epochs follow each other without a gap: a batch may hold the last samples of one and the first of the next.
    """
    start = step * batch_size
    position_B = torch.arange(start, start + batch_size)
    epoch_B = position_B // n_samples
    index_B = torch.empty_like(position_B)
    for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
        is_now_B = epoch_B == epoch
        index_B[is_now_B] = _epoch_order(n_samples, seed, epoch)[position_B[is_now_B] % n_samples].long()
    return index_B


# A step reads two batches, and each may span two epochs.
@lru_cache(maxsize=4)
def _epoch_order(n_samples: int, seed: int, epoch: int) -> Int32[Tensor, " N"]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n_samples, generator=generator, dtype=torch.int32)
