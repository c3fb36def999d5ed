"""The interface of a scorer: a class that gives each sample of a batch a score, or several scores with names.

A trained rater is a scorer too: whatever holds for its scores (each exactly once, with provenance, drift, takedown) holds for every
scorer's. Imports no torch.

Letters: B samples in a batch · M outputs of a scorer · D features of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from alchemist_core.config import Config
from alchemist_core.errors import DataError
from alchemist_core.lazy import NDArray, np

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

ONE_OUTPUT = ("score",)
"""The outputs of a scorer that gives one score: its name in the store is the scorer's."""

NOT_IDENTITY: dict[str, Any] = {"is_identity": False}
"""Marks an option that changes no score, such as a path or a timeout: `Field(..., json_schema_extra=NOT_IDENTITY)`.

It may change after the registration. What lies at a path belongs into `identity`, as its sha256.
"""


class ScorerUnavailableError(DataError):
    """A scorer cannot score now, such as when its server does not answer. Nothing is stored; a later run tries again."""


class TransientFault(str):
    """Why a sample has no score now, although it may get one later. Its quarantine ends by `alchemist sample retry-quarantine`."""

    __slots__ = ()


@dataclass(slots=True)
class Batch:
    """Samples to score. A scorer that `is_padded` always gets `batch_size` of them, the last of which may be padding.

    It is the scorer's own copy: it may change the pixels and the metadata.
    """

    image_BHWC: UInt8[np.ndarray, "B H W 3"]
    """RGB pixels of the largest centred square, resized to `image_side` (bicubic); without transparency. EXIF orientation is ignored."""
    captions: Sequence[str]
    image_hashes: Sequence[bytes] = ()
    """sha256 of each image's file."""
    metadata: Sequence[Mapping[str, Any]] = ()
    """Attributes of each sample from the crawl, such as source_url, width and licence; what the crawl does not say is absent. Empty unless
    the scorer `reads_metadata`."""
    n_samples: int | None = None
    """How many of them are samples; the rest is padding, and its scores are not used. None: all."""
    faults: dict[int, str] = field(default_factory=dict)
    """The scorer may say here why a sample has no score, by the sample's index; it is quarantined with this text (`TransientFault`: for
    now)."""

    def __len__(self) -> int:
        """Return the number of samples, with the padding."""
        return len(self.captions)


class Rated(NamedTuple):
    """Scores of a batch, and why samples have none, by their place in the batch."""

    score_PM: NDArray[np.float32]
    faults: Mapping[int, str] = MappingProxyType({})
    embedding_PD: NDArray[np.float32] | None = None


class Scorer(ABC):
    """Scores samples. A subclass sets what differs from the defaults here, and implements `score`.

    Args:
        options: Its options: an instance of `Options`.
        device: Device type for its network: cpu or cuda.

    Raises:
        ConfigError: An option is not valid, or a file that it names is missing.
    """

    Options: ClassVar[type[Config]] = Config
    """Config model of its options; their values are part of the scorer's identity, except those marked `NOT_IDENTITY`."""
    version: ClassVar[str] = "1"
    """Change it whenever the scores change: scores of two versions are never mixed."""
    image_side: int | None = None
    """Side in pixels of the images that it reads; None: it reads no images, only captions and metadata."""
    outputs: tuple[str, ...] = ONE_OUTPUT
    """Names of the columns that `score` returns. The score of output x of scorer s is named s_x; a single output is named s."""
    batch_size: int = 64
    """Samples that `score` gets at a time."""
    is_padded: bool = True
    """Whether the last batch is filled up to `batch_size`: a network's rounding depends on the shape, and a score must not."""
    n_threads: int = 1
    """Calls of `score` at a time."""
    reads_metadata: bool = False
    is_remote: bool = False
    """Whether it waits for a server: it then scores in a pass of its own, after those that compute here."""
    uses_device: bool = False
    """Whether it runs a network: the run then holds a device."""
    dtype: str = "float32"
    """Number format of its network; stored with each score."""

    def __init__(self, options: Config, device: str = "cpu") -> None:
        self.options, self.device = options, device

    @abstractmethod
    def score(self, batch: Batch) -> Float32[np.ndarray, " B"] | Float32[np.ndarray, "B M"]:
        """Return a score for each sample, or one for each output; higher is better. NaN: the sample has none (see `Batch.faults`).

        The score of a sample must depend neither on the other samples of the batch nor on its place in it;
        `alchemist scorer check` tests that.

        Raises:
            ScorerUnavailableError: It cannot score now.
        """

    def embed(self, batch: Batch) -> Float32[np.ndarray, "B D"] | None:
        """Return the samples' embeddings; None if the scorer has none.

        They are kept with the scores, in fp16, so that semantic duplicates can be found and samples be searched. A scorer with several
        outputs has one set of embeddings. NaN: the sample has none.
        """
        del batch
        return None

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "B D"] | None:
        """Return texts as embeddings whose inner product with those of `embed` says how well they match; None without a text tower."""
        del captions
        return None

    def score_and_embed(self, batch: Batch) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return both; a scorer whose network gives both at once overrides it."""
        return self.score(batch), self.embed(batch)

    def identity(self) -> dict[str, Any]:
        """Return what else decides its scores beside version and options, such as the sha256 of its weights, as JSON."""
        return {}

    def close(self) -> None:  # noqa: B027  most scorers hold nothing
        """Release what it holds, such as connections; called once, after the last batch."""
