"""Runs a scorer in batches of its size, and keeps what it does wrong away from the other samples and scorers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from alchemist_core.errors import DataError
from alchemist_core.lazy import NDArray, np
from alchemist_core.scorers.scorer import Batch, Rated, Scorer, ScorerUnavailableError
from alchemist_core.shards.decode_versions import UNPINNED, DecodeVersion

DEVICE_ERRORS = ("OutOfMemoryError", "AcceleratorError")
"""Names of torch's errors of a device: this module does not import torch."""


class BrokenScorerError(DataError):
    """A scorer raised an error for every sample of a batch, or returned no scores. It scores nothing more in this run."""


class ScorerRunner:
    """Passes samples to a scorer. If it raises an error, each sample of the batch is tried alone, and those that fail have no score.

    If all fail, a sample that it has scored before is tried again: if that fails too, the scorer is broken, and not the samples.

    Args:
        scorer: The scorer.
        name: Its name, for messages.
        keeps_embeddings: Whether to ask it for embeddings too.
    """

    decode_version: DecodeVersion = UNPINNED
    """Version of the decode of its images: the same for all scorers, so that registered ones keep their scores."""

    def __init__(self, scorer: Scorer, name: str, *, keeps_embeddings: bool = True) -> None:
        self.scorer, self.name, self.keeps_embeddings = scorer, name, keeps_embeddings
        # One sample that the scorer has scored, and how long its embeddings are.
        self._good: Batch | None = None
        self._dim: int | None = None

    @property
    def n_threads(self) -> int:
        """How many threads may rate at a time."""
        return self.scorer.n_threads

    @property
    def image_side(self) -> int | None:
        """Side of the images in pixels; None if it reads none."""
        return self.scorer.image_side

    @property
    def n_outputs(self) -> int:
        """How many scores it gives each sample."""
        return len(self.scorer.outputs)

    @property
    def batch(self) -> int:
        """How many samples fill its buffer."""
        return self.scorer.batch_size

    @property
    def device(self) -> str:
        """Device type of its network, without its number; part of a score's provenance."""
        return self.scorer.device.partition(":")[0]

    @property
    def dtype(self) -> str:
        """Number format of its network; part of a score's provenance."""
        return self.scorer.dtype

    def make_buffer(self) -> NDArray[np.uint8]:
        """Allocate the pixels of one batch."""
        side = self.image_side or 0
        return np.zeros((self.batch, side, side, 3), np.uint8)

    def rate(self, batch: Batch) -> Rated:
        """Return the scores of the samples; images beyond the captions are padding.

        Raises:
            DataError: The scorer is broken or unavailable.
        """
        parts = [self._rate_part(batch, start) for start in range(0, len(batch), self.batch)]
        faults = {part * self.batch + at: why for part, rated in enumerate(parts) for at, why in rated.faults.items()}
        return Rated(np.concatenate([rated.score_PM for rated in parts]), faults, _join_embeddings(parts))

    def _rate_part(self, batch: Batch, start: int) -> Rated:
        part = slice(start, min(start + self.batch, len(batch)))
        try:
            rated = self._call(self._cut(batch, part))
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  a scorer's code is not ours
            self._refuse_shortage(error)
            return self._rate_alone(batch, part, error)
        if self._good is None:
            self._good = self._cut(batch, slice(part.start, part.start + 1))
        return rated

    def _rate_alone(self, batch: Batch, part: slice, first_error: Exception) -> Rated:
        """Try each sample alone; a scorer that fails on all of them, and on one that it has scored before, is broken."""
        places = range(part.start, part.stop)
        rated = [self._try(self._cut(batch, slice(at, at + 1))) for at in places]
        if all(isinstance(one, Exception) for one in rated) and not self._is_well():
            raise BrokenScorerError(
                f"Scorer {self.name} raised an error for each of {len(places):,} samples: {_describe(first_error)}"
            ) from first_error
        n_outputs = len(self.scorer.outputs)
        score_PM = np.full((len(places), n_outputs), np.nan, np.float32)
        faults: dict[int, str] = {}
        for at, one in enumerate(rated):
            if isinstance(one, Exception):
                faults[at] = _describe(one)
            else:
                score_PM[at] = one.score_PM[0]
                if one.faults:
                    faults[at] = one.faults[0]
        no_score = Rated(np.full((1, n_outputs), np.nan, np.float32))
        return Rated(
            score_PM, faults, _join_embeddings([no_score if isinstance(one, Exception) else one for one in rated])
        )

    def _is_well(self) -> bool:
        """Return whether the scorer still scores a sample that it has scored before."""
        return self._good is not None and not isinstance(self._try(self._cut(self._good, slice(0, 1))), Exception)

    def _try(self, one: Batch) -> Rated | Exception:
        try:
            return self._call(one)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  as above
            self._refuse_shortage(error)
            return error

    def _refuse_shortage(self, error: Exception) -> None:
        """Stop the scorer at a shortage of memory or a fault of the device: no sample is to blame, and the next run may have more."""
        if isinstance(error, MemoryError) or type(error).__name__ in DEVICE_ERRORS:
            raise ScorerUnavailableError(
                f"Scorer {self.name} stopped: {_describe(error)}. No sample is to blame: lower its batch size, or run fewer jobs on this "
                "device (ALCHEMIST_JOBS_PER_DEVICE)."
            ) from error

    def _cut(self, batch: Batch, part: slice) -> Batch:
        """Return a part of the batch, padded to the batch size if the scorer wants that.

        It is a copy, because a scorer may change what it gets, and the others of the pass read the same batch.
        """
        n_samples = part.stop - part.start
        n_padding = self.batch - n_samples if self.scorer.is_padded else 0
        padding = np.zeros((n_padding, *batch.image_BHWC.shape[1:]), np.uint8)
        return Batch(
            np.concatenate([batch.image_BHWC[part], padding]),
            [*batch.captions[part], *[""] * n_padding],
            [*batch.image_hashes[part], *[b""] * n_padding],
            [*copy.deepcopy(batch.metadata[part]), *(dict[str, Any]() for _ in range(n_padding))],
            n_samples=n_samples,
        )

    def _call(self, batch: Batch) -> Rated:
        if self.keeps_embeddings:
            score, embedding_BD = self.scorer.score_and_embed(batch)
        else:
            score, embedding_BD = self.scorer.score(batch), None
        score_BM = np.asarray(score, np.float32)
        score_BM = score_BM[:, None] if score_BM.ndim == 1 else score_BM
        wanted = (len(batch), len(self.scorer.outputs))
        if score_BM.shape != wanted:
            raise BrokenScorerError(
                f"Scorer {self.name} returned scores of shape {score_BM.shape} for {len(batch)} samples; expected {wanted}."
            )
        if embedding_BD is not None and (embedding_BD.ndim != 2 or len(embedding_BD) != len(batch)):
            raise BrokenScorerError(
                f"Scorer {self.name} returned embeddings of shape {embedding_BD.shape} for {len(batch)} samples; "
                f"expected ({len(batch)}, D)."
            )
        if embedding_BD is not None:
            self._require_length(embedding_BD.shape[1])
        n_samples = batch.n_samples if batch.n_samples is not None else len(batch)
        faults = {at: why for at, why in batch.faults.items() if at < n_samples}
        return Rated(score_BM[:n_samples], faults, None if embedding_BD is None else embedding_BD[:n_samples])

    def _require_length(self, dim: int) -> None:
        self._dim = self._dim or dim
        if dim != self._dim:
            raise BrokenScorerError(
                f"Scorer {self.name} returned embeddings of {self._dim} numbers, and then of {dim}: one scorer's have one length."
            )


def _join_embeddings(parts: Sequence[Rated]) -> NDArray[np.float32] | None:
    """Return the embeddings of all parts, NaN for a part without; None if no part has any."""
    dim = next((rated.embedding_PD.shape[1] for rated in parts if rated.embedding_PD is not None), None)
    if dim is None:
        return None
    return np.concatenate([
        np.full((len(rated.score_PM), dim), np.nan, np.float32) if rated.embedding_PD is None else rated.embedding_PD
        for rated in parts
    ])  # fmt: skip


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
