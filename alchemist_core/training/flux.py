"""FLUX-mini: training LoRA adapters on the published weights, sampling images, and the loss on held-out samples.

Latents are computed once, before training.

Letters: N samples · B samples of a batch · C channels · H W cells of the latents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.extractors import weights_sha256
from alchemist_core.models.flux import (
    DTYPES,
    FlowMatching,
    FluxBatch,
    flow_loss,
    make_pipeline,
    pack_latents,
    unpack_latents,
)
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.flux_encoders import VAE_BATCH, FluxAutoencoder, FluxTextEncoder
from alchemist_core.models.images import ImageArray
from alchemist_core.models.lora import (
    FLUX_TARGETS,
    adapter_weights,
    add_lora,
    load_lora,
    put_adapters,
    save_lora,
)
from alchemist_core.models.precision import without_tf32
from alchemist_core.models.published.flux import load_flux
from alchemist_core.models.published.sources import locate_file
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.encoding import EncodedImages, ImageEncoder, encode_images, kept_captions
from alchemist_core.training.launching import own_device
from alchemist_core.training.samples import Captions, SampleSource

BASE_FILE = "base.sha256"
_BATCH = 8
N_TIMES = 8
"""Times at which a sample's held-out loss is averaged: the medians of equal shares of the training distribution of times."""


class FluxRecipe:
    """How FLUX-mini is trained: only the adapters, at a learning rate that is constant after its warm-up.

    Source: TencentARC/FluxKits, `train_flux_lora.py`.
    """

    betas, schedule = (0.9, 0.999), "constant_with_warmup"

    def __init__(self, config: DownstreamConfig, device: torch.device) -> None:
        assert config.flux is not None
        self._config, self._flux, self._device = config, config.flux, str(device)
        self.max_grad_norm: float | None = config.flux.max_grad_norm
        self._base, self._parts = base_and_parts(config)

    def encode(
        self,
        samples: SampleSource,
        cache: Path | None,
        accelerator: Accelerator | None,
        on_progress: OnProgress | None = None,
    ) -> "FluxSamples":
        """Compute the latents that the cache lacks. The VAE is freed afterwards."""
        vae = FluxAutoencoder(self._parts, self._flux, self._device)
        latents = encode_latents(samples, vae, cache, accelerator, on_progress)
        encoder = FluxTextEncoder(self._parts, self._flux, self._device)
        return FluxSamples(latents, kept_captions(samples, latents), encoder)

    def make_model(self) -> nn.Module:
        """Load the published weights and add adapters."""
        transformer = load_flux(self._base, self._flux, DTYPES[self._flux.weight_dtype])
        if self._flux.gradient_checkpointing or self._config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        return FlowMatching(
            add_lora(transformer, self._config.lora_rank, targets=FLUX_TARGETS), self._flux.guidance_scale
        )

    def kept_weights(self, model: Any) -> dict[str, Tensor]:
        """Return the adapters' weights; all others are the base's."""
        return adapter_weights(model.transformer)

    def restore(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Restore the adapters' weights."""
        put_adapters(model.transformer, weights)

    def write(self, model: Any, folder: Path) -> None:
        """Write the adapters, and the hash of the base weights that they belong to."""
        save_lora(model.transformer, folder / "adapters.safetensors")
        (folder / BASE_FILE).write_text(weights_sha256(self._base) + "\n", encoding="ascii")


@dataclass(frozen=True, slots=True)
class FluxSamples:
    """Latents in half precision, read at each step, and captions. A step encodes its captions: T5's features are too large to keep."""

    latents: EncodedImages
    captions: Captions
    encoder: FluxTextEncoder

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, index_B: Int64[Tensor, " B"]) -> FluxBatch:
        """Gather a batch."""
        captions = [self.captions[at] for at in index_B.tolist()]
        return FluxBatch(self.latents.rows(index_B).float(), self.encoder.encode(captions))


def base_and_parts(config: DownstreamConfig) -> tuple[Path, Path]:
    """Return the paths of the base weights and of the encoders.

    Raises:
        ConfigError: A path was not given, or does not exist.
    """
    if config.base_model is None or config.flux_components is None:
        raise ConfigError(
            f"--base-model {config.base_model} and --flux-components {config.flux_components}: "
            "FLUX-mini needs its weights (flux-mini.safetensors) and "
            "the folder of FLUX.1 in diffusers' layout (vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2). Give both paths."
        )
    return locate_file(str(config.base_model)).path, config.flux_components


def encode_latents(
    samples: SampleSource,
    vae: FluxAutoencoder,
    cache: Path | None,
    accelerator: Accelerator | None,
    on_progress: OnProgress | None = None,
) -> EncodedImages:
    """Return latents in half precision of all images that can be decoded; each process of a run computes a share."""
    folder = None if cache is None else cache / "latents" / vae.fingerprint()
    return encode_images(
        samples, ImageEncoder(vae.encode, VAE_BATCH, "latent", torch.float16), folder, accelerator, on_progress
    )


def read_trained(model_path: Path, config: DownstreamConfig) -> nn.Module:
    """Load a trained model: the base weights, with its adapters beside them.

    Merged into weights of 16 bits, adapters of a short training would be rounded away: another model would be evaluated than was trained.

    Raises:
        ConfigError: The base weights are not those of the training.
    """
    assert config.flux is not None
    base, _ = base_and_parts(config)
    wanted, found = (model_path / BASE_FILE).read_text(encoding="ascii").strip(), weights_sha256(base)
    if wanted != found:
        raise ConfigError(
            f"{base} has sha256 {found[:16]}…, but the adapters were trained on {wanted[:16]}…. Restore the weights of the training."
        )
    transformer = load_flux(base, config.flux, DTYPES[config.flux.weight_dtype])
    adapted = load_lora(transformer, model_path / "adapters.safetensors", config.lora_rank, targets=FLUX_TARGETS)
    adapted_flux: nn.Module = adapted.get_base_model()
    return adapted_flux


class FluxGenerator:
    """A trained FLUX-mini in diffusers' pipeline."""

    def __init__(self, model_path: Path, config: DownstreamConfig, device: torch.device) -> None:
        assert config.flux is not None
        self._config, (_, parts) = config.flux, base_and_parts(config)
        self._autoencoder = FluxAutoencoder(parts, config.flux, str(device))
        self._pipeline = make_pipeline(
            **FluxTextEncoder(parts, config.flux, str(device)).networks,
            vae=self._autoencoder.vae,  # for its size; it decodes in its own precision
            transformer=read_trained(model_path, config).eval().to(device),
        )

    @without_tf32
    def draw(self, prompts: list[str], seeds: list[int], sampling: FlowSamplingConfig) -> ImageArray:
        """Generate one image per prompt. It depends on its own seed and prompt only, because every forward has the same shape."""
        parts, side, shape = [], self._config.resolution, self._autoencoder.latent_shape()
        for start in range(0, len(prompts), sampling.batch_size):
            places = [min(at, len(prompts) - 1) for at in range(start, start + sampling.batch_size)]
            token_BND = self._pipeline(
                [prompts[at] for at in places],
                latents=pack_latents(torch.stack([self._noise(seeds[at]) for at in places])),
                height=side,
                width=side,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
                max_sequence_length=self._config.n_text_tokens,
                output_type="latent",
            ).images
            images = self._autoencoder.decode(unpack_latents(token_BND, shape))
            parts.append(images[: len(prompts) - start])
        return np.concatenate(parts)

    def _noise(self, seed: int) -> torch.Tensor:
        # Drawn on the CPU: the same seed gives the same noise on every device.
        return torch.randn(self._autoencoder.latent_shape(), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def heldout_flow_losses(model_path: Path, config: DownstreamConfig, samples: SampleSource) -> Float32[np.ndarray, " N"]:
    """Return each sample's squared error of the velocity, averaged over fixed times, with noise seeded by the sample's index."""
    assert config.flux is not None
    device = own_device()
    data = FluxRecipe(config, device).encode(samples, None, None)
    transformer = read_trained(model_path, config).eval().to(device)
    parts = [
        _losses(transformer, data, index_B, device, config.flux.guidance_scale)
        for index_B in torch.split(torch.arange(len(data)), _BATCH)
    ]
    return torch.cat(parts).numpy()


def _losses(
    transformer: torch.nn.Module, data: FluxSamples, index_B: torch.Tensor, device: torch.device, guidance: float
) -> torch.Tensor:
    latent_BCHW, text = data.rows(index_B).to(device)
    # Seeded by index: an image that cannot be decoded must not change the noise of the samples after it.
    noises = [torch.Generator().manual_seed(place) for place in data.latents.kept[index_B.numpy()].tolist()]
    noise_BCHW = torch.stack([torch.randn(latent_BCHW.shape[1:], generator=one) for one in noises]).to(device)
    shares = (torch.arange(N_TIMES) + 0.5) / N_TIMES
    times = torch.sigmoid(torch.special.ndtri(shares.double())).float()
    found = [
        flow_loss(
            transformer, latent_BCHW, text, noise_BCHW=noise_BCHW,
            time_B=torch.full((len(index_B),), float(time), device=device), guidance=guidance,
        )
        for time in times
    ]  # fmt: skip
    return torch.stack(found).mean(0).cpu()
