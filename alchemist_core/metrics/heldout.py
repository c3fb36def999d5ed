"""Held-out loss: a trained generator's loss on samples that no rater and no model has learned from.

Letters: N samples.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from alchemist_core.files import FEATURE_CACHE, artifact_path, require_artifact
from alchemist_core.metrics.metric import Bench, Measured
from alchemist_core.protocols.protocol import LossProtocol, ProtocolFile
from alchemist_core.store.manifests import hashes_sha256
from alchemist_core.store.models import ModelRow
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.subsets import SubsetRater, require_tokenizer
from alchemist_core.training.sample_reading import StoredSamples


def heldout_conditions(rater: SubsetRater, rows: SampleTable) -> dict[str, Any]:
    """Return everything that two held-out losses must share to be comparable: the samples, and the rater's tokenizer."""
    # Stored values are found by the hash of these texts, so the texts never change.
    return {
        "metric": "heldout_loss",
        "unit": "nats a token",
        "pairs": _hash_pairs(rows),
        "tokenizer_of": bytes(rater.checkpoint_sha256).hex(),
    }


def heldout_flow_conditions(rows: SampleTable) -> dict[str, Any]:
    """Return everything that two held-out flow losses must share: the samples, and the times and noise that the measuring code uses."""
    return {
        "metric": "heldout_flow_loss",
        "unit": "squared error of the velocity, at the model's own resolution",
        "pairs": _hash_pairs(rows),
        "times": "8, the middles of equal shares of a logistic normal",
        "noise": "seeded by a pair's place",
    }


class _Heldout(ABC):
    """The mean of a loss over the samples of the evaluation dataset. A subclass provides the samples for a model."""

    title: str
    # None: values under another tokenizer or dataset are stored as another series.
    protocol_name = None
    uses_device = True

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        file.check(LossProtocol)
        self._bench = bench

    def measure(self, model: ModelRow) -> Measured:
        """Return the mean over the samples."""
        path = require_artifact(model.checkpoint_uri, model.checkpoint_sha256)
        loss_N = heldout_losses(path, self._samples_for(path), cache=artifact_path(FEATURE_CACHE))
        return Measured({self.title: float(loss_N.mean())}, len(loss_N))

    @abstractmethod
    def _samples_for(self, model_path: Path) -> StoredSamples:
        """Return the samples at the model's resolution; their images are read from their shards when they are needed."""


class HeldoutLoss(_Heldout):
    """Cross-entropy of the scale-wise generator (STAR) in nats per token."""

    title = "heldout_loss"
    sampler: Literal["star"] = "star"

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        super().__init__(bench, file)
        require_tokenizer(bench.rater)

    def pin(self) -> dict[str, Any]:
        """Return the hash of the samples and of the tokenizer."""
        return heldout_conditions(self._bench.rater, self._bench.samples.rows)

    def _samples_for(self, _model_path: Path) -> StoredSamples:
        """Return the samples as the rater reads them, like all its models. The cache keeps the codes of their images."""
        bench = self._bench
        return StoredSamples.as_read_by(bench.rater.config["training"], bench.samples.rows, bench.on_progress)


class HeldoutFlowLoss(_Heldout):
    """Squared error of the velocity that FLUX-mini predicts, at each model's own resolution."""

    title = "heldout_flow_loss"
    sampler: Literal["flow"] = "flow"

    def pin(self) -> dict[str, Any]:
        """Return the hash of the samples, and the times and noise that the measuring code uses."""
        return heldout_flow_conditions(self._bench.samples.rows)

    def _samples_for(self, model_path: Path) -> StoredSamples:
        """Return the samples at the resolution of the model."""
        from alchemist_core.training.generators import read_config  # noqa: PLC0415  torch only when there is work

        flux = read_config(model_path).flux
        assert flux is not None, f"{model_path} does not contain FLUX-mini"
        return StoredSamples(self._bench.samples.rows, flux.resolution, self._bench.on_progress)


def heldout_losses(model_path: Path, samples: Any, *, cache: Path | None = None) -> Float32[np.ndarray, " N"]:
    """Return each sample's loss under the model in a folder that `train_downstream` made.

    STAR's is the cross-entropy in nats per token, FLUX-mini's the squared error of the velocity.

    Args:
        model_path: The folder.
        samples: The samples, as a `SampleSource` of the training package.
        cache: Folder of cached outputs of encoders, which STAR's losses read and fill.
    """
    from alchemist_core.training.generators import read_config  # noqa: PLC0415  torch only when there is work

    if not len(samples):
        return np.empty(0, np.float32)
    config = read_config(model_path)
    if config.flux is not None:
        from alchemist_core.training.flux import heldout_flow_losses  # noqa: PLC0415  diffusers takes seconds

        return heldout_flow_losses(model_path, config, samples)
    return _token_losses(model_path, samples, cache)


def _token_losses(model_path: Path, samples: Any, cache: Path | None) -> Float32[np.ndarray, " N"]:
    import torch  # noqa: PLC0415  torch only when there is work

    from alchemist_core.models.tokenizer import ENCODE_BATCH  # noqa: PLC0415
    from alchemist_core.training.encoding import encode_samples  # noqa: PLC0415
    from alchemist_core.training.generators import load_generator  # noqa: PLC0415
    from alchemist_core.training.launching import own_device  # noqa: PLC0415

    device = own_device()
    with torch.inference_mode():
        star, tokenizer, encoder = load_generator(model_path, device)
        data = encode_samples(samples, tokenizer, encoder, cache=cache)
        parts = [star(*data.rows(index_B).to(device)) for index_B in torch.split(torch.arange(len(data)), ENCODE_BATCH)]
        losses: Float32[np.ndarray, " N"] = torch.cat(parts).numpy(force=True)
    return losses


def _hash_pairs(rows: SampleTable) -> str:
    return hashes_sha256(rows.hashes("pair_hash"))
