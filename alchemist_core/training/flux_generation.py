"""A trained FLUX-mini at work: images of prompts, and its error on pairs that nothing trained on.

Letters: N pairs · B images of a batch · C channels · H W cells of the latents.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from alchemist_core.models.flux import draw_latents, flow_loss
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.models.flux_encoders import FluxAutoencoder, FluxTextEncoder
from alchemist_core.models.images import ImageArray
from alchemist_core.training.flux_recipe import FluxPairs, FluxRecipe, base_and_parts, read_trained
from alchemist_core.training.generators import read_config
from alchemist_core.training.samples import PairSource
from alchemist_core.training.scoring import own_device

_BATCH = 8
N_TIMES = 8
"""Times at which the error of a pair is averaged: the middles of equal shares of the times met in training."""


class FluxGenerator:
    """A model that `train_downstream` made, with its encoders."""

    def __init__(self, model_path: Path, device: torch.device) -> None:
        config = read_config(model_path)
        assert config.flux is not None
        self._device = device
        self._transformer = read_trained(model_path, config).eval().to(device)
        _, parts = base_and_parts(config)
        self._vae = FluxAutoencoder(parts, config.flux, str(device))
        self._text = FluxTextEncoder(parts, config.flux, str(device))

    def draw(self, prompts: list[str], seeds: list[int], sampling: FlowSamplingConfig) -> ImageArray:
        """Draw one image a prompt; each depends on its own seed and prompt only: every forward has one shape."""
        parts = []
        for start in range(0, len(prompts), sampling.batch_size):
            places = [min(at, len(prompts) - 1) for at in range(start, start + sampling.batch_size)]
            noise_BCHW = torch.stack([self._noise(seeds[at]) for at in places]).to(self._device)
            text = self._text.encode([prompts[at] for at in places]).to(self._device)
            latent_BCHW = draw_latents(
                self._transformer, text, noise_BCHW, n_steps=sampling.n_steps, guidance=sampling.guidance
            )
            parts.append(self._vae.decode(latent_BCHW)[: len(prompts) - start])
        return np.concatenate(parts)

    def _noise(self, seed: int) -> torch.Tensor:
        # On the CPU, whatever draws the image: the same seed gives the same noise on every device.
        return torch.randn(self._vae.latent_shape(), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def heldout_flow_losses(model_path: Path, pairs: PairSource) -> Float32[np.ndarray, " N"]:
    """Give each pair's squared error of the velocity, averaged over fixed times, under noise that is its place's own."""
    config = read_config(model_path)
    assert config.flux is not None
    device = own_device()
    data = FluxRecipe(config, device).encode(pairs, None)
    transformer = read_trained(model_path, config).eval().to(device)
    parts = [
        _losses(transformer, data, index_B, device, config.flux.guidance)
        for index_B in torch.split(torch.arange(len(data)), _BATCH)
    ]
    return torch.cat(parts).numpy()


def _losses(
    transformer: torch.nn.Module, data: FluxPairs, index_B: torch.Tensor, device: torch.device, guidance: float
) -> torch.Tensor:
    latent_BCHW, text = data.rows(index_B).to(device)
    # By the pair's own place: a picture that cannot be decoded must not change the noise of those behind it.
    noises = [torch.Generator().manual_seed(place) for place in data.kept_N[index_B.numpy()].tolist()]
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
