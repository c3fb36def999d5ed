"""FLUX-mini's part in a training run: adapters on published weights, on latents that are computed once.

Letters: N pairs · B pairs of a batch · C channels · H W cells of the latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.extractors import weights_sha256
from alchemist_core.models.flux import DTYPES, FlowMatching, FluxBatch
from alchemist_core.models.flux_encoders import FluxAutoencoder, FluxTextEncoder
from alchemist_core.models.lora import (
    FLUX_TARGETS,
    adapter_weights,
    add_lora,
    load_lora,
    merge_lora,
    put_adapters,
    save_lora,
)
from alchemist_core.models.published.flux import load_flux
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.encoding import encode_images
from alchemist_core.training.samples import PairSource

BASE_FILE = "base.sha256"


@dataclass(frozen=True, slots=True)
class FluxPairs:
    """Latents in half precision, and captions, which are encoded when a step reads them: T5's tokens are too large to keep."""

    kept_N: Int64[np.ndarray, " N"]
    latent_NCHW: Float[Tensor, "N C H W"]
    captions: list[str]
    encoder: FluxTextEncoder

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, index_B: Int64[Tensor, " B"]) -> FluxBatch:
        """Gather a batch."""
        return FluxBatch(self.latent_NCHW[index_B].float(), self.encoder.encode([self.captions[at] for at in index_B]))


class FluxRecipe:
    """Adapters alone are trained, at a constant step size.

    Source: TencentARC/FluxKits, `train_flux_lora.py`.
    """

    betas, schedule = (0.9, 0.999), "constant"

    def __init__(self, config: DownstreamConfig, device: torch.device) -> None:
        assert config.flux is not None
        self._config, self._flux, self._device = config, config.flux, str(device)
        self.gradient_clip: float | None = config.flux.gradient_clip
        self._base, self._parts = base_and_parts(config)

    def encode(self, pairs: PairSource, cache: Path | None) -> FluxPairs:
        """Run the VAE over images that it has not seen yet; it is let go afterwards."""
        latent_NCHW, is_had_N = encode_latents(pairs, FluxAutoencoder(self._parts, self._flux, self._device), cache)
        kept_N, captions = np.flatnonzero(is_had_N), pairs.captions
        kept_captions = [captions[at] for at in kept_N.tolist()]
        encoder = FluxTextEncoder(self._parts, self._flux, self._device)
        return FluxPairs(kept_N, latent_NCHW[kept_N], kept_captions, encoder)

    def make_model(self) -> nn.Module:
        """Load the published weights and put adapters on them."""
        transformer = load_flux(self._base, self._flux, DTYPES[self._flux.precision])
        if self._flux.is_checkpointed or self._config.is_checkpointed:
            transformer.enable_gradient_checkpointing()
        return FlowMatching(add_lora(transformer, self._config.lora_rank, targets=FLUX_TARGETS), self._flux.guidance)

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Give the adapters; the rest is the base's."""
        return adapter_weights(model.transformer)

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Put the adapters back."""
        put_adapters(model.transformer, weights)

    def write(self, model: Any, folder: Path) -> None:
        """Write the adapters, and the hash of the weights that they belong to."""
        save_lora(model.transformer, folder / "adapters.safetensors")
        (folder / BASE_FILE).write_text(weights_sha256(self._base) + "\n", encoding="ascii")


def base_and_parts(config: DownstreamConfig) -> tuple[Path, Path]:
    """Return where the weights and the encoders lie.

    Raises:
        ConfigError: One was not given, or nothing lies there.
    """
    if config.base is None or config.flux_parts is None or not config.base.is_file():
        raise ConfigError(
            f"--base {config.base} and --flux-parts {config.flux_parts}: FLUX-mini is trained on flux-mini.safetensors and "
            "reads the folder of FLUX.1 in diffusers' layout (vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2)"
        )
    return config.base, config.flux_parts


def encode_latents(
    pairs: PairSource, vae: FluxAutoencoder, cache: Path | None
) -> tuple[Float[Tensor, "N C H W"], np.ndarray]:
    """Give latents of half precision, and which pairs have them: all whose images can be read."""
    latent_NCHW = torch.zeros(len(pairs), *vae.latent_shape(), dtype=torch.float16)
    folder = None if cache is None else cache / "latents" / vae.fingerprint()
    return latent_NCHW, encode_images(pairs, vae.encode, latent_NCHW, name="latent", cache=folder)


def read_trained(model_path: Path, config: DownstreamConfig) -> nn.Module:
    """Load a trained model's adapters and fold them into the weights that they were trained on.

    Raises:
        ConfigError: Other weights lie there now.
    """
    assert config.flux is not None
    base, _ = base_and_parts(config)
    wanted, found = (model_path / BASE_FILE).read_text(encoding="ascii").strip(), weights_sha256(base)
    if wanted != found:
        raise ConfigError(f"{base} is {found[:16]}…, but the adapters were trained on {wanted[:16]}…: give those")
    transformer = load_flux(base, config.flux, DTYPES[config.flux.precision])
    adapted = load_lora(transformer, model_path / "adapters.safetensors", config.lora_rank, targets=FLUX_TARGETS)
    return merge_lora(adapted)
