"""Held-out loss: a trained generator's loss on samples that no rater and no model has learned from.

Letters: N samples.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from alchemist_core.files import require_artifact
from alchemist_core.metrics.metric import Bench, Measured
from alchemist_core.protocols.protocol import LossProtocol, ProtocolFile
from alchemist_core.store.manifests import members_sha256
from alchemist_core.store.models import ModelRow
from alchemist_core.store.samples import LocatedSample
from alchemist_core.store.subsets import SubsetRater
from alchemist_core.training.sample_reading import StoredSamples, read_images


def heldout_conditions(rater: SubsetRater, rows: Sequence[LocatedSample]) -> dict[str, Any]:
    """Return everything that two held-out losses must share to be comparable: the samples, and the rater's tokenizer."""
    # Stored values are found by the hash of these words, so the words never change.
    return {
        "metric": "heldout_loss",
        "unit": "nats a token",
        "pairs": _hash_pairs(rows),
        "tokenizer_of": bytes(rater.checkpoint_sha256).hex(),
    }


class HeldoutLoss:
    """Cross-entropy of the scale-wise generator (STAR) in nats per token."""

    title = "heldout_loss"
    sampler: Literal["star"] = "star"
    # Another tokenizer or dataset gives another set of values, and no error.
    protocol_name = None
    uses_device = True

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        file.check(LossProtocol)
        self._bench = bench

    def pin(self) -> dict[str, Any]:
        """Return the hash of the samples and of the tokenizer."""
        return heldout_conditions(self._bench.rater, self._bench.samples.rows)

    def measure(self, model: ModelRow) -> Measured:
        """Return the mean over the samples."""
        return _mean_loss(self.title, require_artifact(model.checkpoint_uri, model.checkpoint_sha256), self._samples)

    @cached_property
    def _samples(self) -> Any:
        """All models of a rater have one resolution, so images are read once."""
        from alchemist_core.training.samples import Samples  # noqa: PLC0415  torch only when there is work

        bench = self._bench
        side = bench.rater.config["training"]["resolution"]
        return Samples(*read_images(bench.samples.rows, side, bench.on_progress)[:2])


class HeldoutFlowLoss:
    """Squared error of the velocity that FLUX-mini predicts, at each model's own resolution."""

    title = "heldout_flow_loss"
    sampler: Literal["flow"] = "flow"
    protocol_name = None
    uses_device = True

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        file.check(LossProtocol)
        self._bench = bench

    def pin(self) -> dict[str, Any]:
        """Return the hash of the samples, and the times and noise that the measuring code uses."""
        return {
            "metric": self.title,
            "unit": "squared error of the velocity, at the model's own resolution",
            "pairs": _hash_pairs(self._bench.samples.rows),
            "times": "8, the middles of equal shares of a logistic normal",
            "noise": "seeded by a pair's place",
        }

    def measure(self, model: ModelRow) -> Measured:
        """Return the mean over the samples, whose images are read from their shards as they are needed."""
        from alchemist_core.training.generators import read_config  # noqa: PLC0415  torch only when there is work

        path = require_artifact(model.checkpoint_uri, model.checkpoint_sha256)
        flux = read_config(path).flux
        assert flux is not None, f"{path} holds no FLUX-mini"
        return _mean_loss(
            self.title, path, StoredSamples(self._bench.samples.rows, flux.resolution, self._bench.on_progress)
        )


def heldout_losses(model_path: Path, samples: Any) -> Float32[np.ndarray, " N"]:
    """Return each sample's loss under the model in a folder that `train_downstream` made.

    STAR's is the cross-entropy in nats per token, FLUX-mini's the squared error of the velocity.

    Args:
        model_path: The folder.
        samples: The samples, as a `SampleSource` of the training package.
    """
    from alchemist_core.training.generators import read_config  # noqa: PLC0415  torch only when there is work

    if not len(samples):
        return np.empty(0, np.float32)
    config = read_config(model_path)
    if config.flux is not None:
        from alchemist_core.training.flux import heldout_flow_losses  # noqa: PLC0415  diffusers takes seconds

        return heldout_flow_losses(model_path, config, samples)
    return _token_losses(model_path, samples)


def _token_losses(model_path: Path, samples: Any) -> Float32[np.ndarray, " N"]:
    import torch  # noqa: PLC0415  torch only when there is work

    from alchemist_core.models.tokenizer import ENCODE_BATCH  # noqa: PLC0415
    from alchemist_core.training.encoding import encode_samples  # noqa: PLC0415
    from alchemist_core.training.generators import load_generator  # noqa: PLC0415
    from alchemist_core.training.launching import own_device  # noqa: PLC0415

    device = own_device()
    with torch.inference_mode():
        star, tokenizer, encoder = load_generator(model_path, device)
        data = encode_samples(samples, tokenizer, encoder)
        parts = [star(*data.rows(index_B).to(device)) for index_B in torch.split(torch.arange(len(data)), ENCODE_BATCH)]
        losses: Float32[np.ndarray, " N"] = torch.cat(parts).numpy(force=True)
    return losses


def _mean_loss(title: str, model_path: Path, samples: Any) -> Measured:
    loss_N = heldout_losses(model_path, samples)
    return Measured({title: float(loss_N.mean())}, len(loss_N))


def _hash_pairs(rows: Sequence[LocatedSample]) -> str:
    return members_sha256([bytes(row.pair_hash) for row in rows])
