"""FLUX-mini: diffusers' transformer, its flow-matching loss, and sampling by Euler steps.

Letters: B images of a batch · N image tokens · T text tokens · C channels · H W cells of the latents · D features.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alchemist_core.extras import missing_library
from alchemist_core.models.flux_config import FluxConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FluxText(NamedTuple):
    """A batch of captions: T5's tokens, including padding, and CLIP's pooled vector."""

    token_BTD: Float[Tensor, "B T D"]
    pooled_BD: Float[Tensor, "B D"]

    def to(self, device: torch.device) -> "FluxText":
        """Move to a device."""
        return FluxText(self.token_BTD.to(device), self.pooled_BD.to(device))


class FluxBatch(NamedTuple):
    """A batch of a training step."""

    latent_BCHW: Float[Tensor, "B C H W"]
    text: FluxText

    def to(self, device: torch.device) -> "FluxBatch":
        """Move to a device."""
        return FluxBatch(self.latent_BCHW.to(device), self.text.to(device))


def make_transformer(config: FluxConfig) -> Any:
    """Build diffusers' transformer of a size, with new weights on the current default device.

    Raises:
        MissingDependencyError: diffusers is not installed.
    """
    try:
        from diffusers import FluxTransformer2DModel  # noqa: PLC0415  an extra of its own, twenty seconds when first imported
    except ImportError as error:
        raise missing_library("diffusers") from error
    return FluxTransformer2DModel(  # type: ignore[no-untyped-call]
        patch_size=1, in_channels=config.token_dim, num_layers=config.n_double_blocks,
        num_single_layers=config.n_single_blocks, attention_head_dim=config.head_dim,
        num_attention_heads=config.n_heads, joint_attention_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim, guidance_embeds=True, axes_dims_rope=config.rope_dims,
    )  # fmt: skip


class FlowMatching(nn.Module):
    """The transformer in training: it predicts the velocity from image to noise at a random time between them."""

    def __init__(self, transformer: nn.Module, guidance: float) -> None:
        super().__init__()
        self.transformer, self.guidance = transformer, guidance

    def forward(self, latent_BCHW: Tensor, text: FluxText) -> Float[Tensor, " B"]:
        """Return each image's squared error; time and noise come from torch's global seed.

        Source: Esser et al. 2024, Eq. 13 (rectified flow) with times of a logistic normal, unshifted.
        """
        # Drawn on the CPU: the same seed gives the same noise on every device.
        noise_BCHW = torch.randn(latent_BCHW.shape).to(latent_BCHW)
        time_B = torch.sigmoid(torch.randn(len(latent_BCHW))).to(latent_BCHW)
        return flow_loss(
            self.transformer, latent_BCHW, text, noise_BCHW=noise_BCHW, time_B=time_B, guidance=self.guidance
        )


def flow_loss(
    transformer: nn.Module, latent_BCHW: Tensor, text: FluxText, *, noise_BCHW: Tensor, time_B: Tensor, guidance: float
) -> Float[Tensor, " B"]:
    """Return each image's squared error at given times and noise.

    Args:
        transformer: Predicts velocities.
        latent_BCHW: Scaled latents of images.
        text: Their captions.
        noise_BCHW: The noise at time 1.
        time_B: From 0, the image, to 1, the noise.
        guidance: Guidance scale, an input of the transformer.
    """
    time_B111 = time_B.view(-1, 1, 1, 1)
    mixed_BCHW = (1 - time_B111) * latent_BCHW + time_B111 * noise_BCHW
    velocity_BCHW = predict_velocity(transformer, mixed_BCHW, text, time_B=time_B, guidance=guidance)
    error_BCHW = velocity_BCHW.float() - (noise_BCHW - latent_BCHW).float()
    return error_BCHW.square().mean((1, 2, 3))


def predict_velocity(
    transformer: nn.Module, mixed_BCHW: Tensor, text: FluxText, *, time_B: Tensor, guidance: float
) -> Float[Tensor, "B C H W"]:
    """Return the transformer's velocity, in the shape of latents."""
    parameter = next(transformer.parameters())
    *_, height, width = mixed_BCHW.shape
    found = transformer(
        hidden_states=pack(mixed_BCHW).to(parameter.dtype),
        encoder_hidden_states=text.token_BTD.to(parameter.dtype),
        pooled_projections=text.pooled_BD.to(parameter.dtype),
        timestep=time_B.to(parameter.dtype),
        guidance=torch.full_like(time_B, guidance, dtype=parameter.dtype),
        img_ids=_places(height // 2, width // 2).to(mixed_BCHW.device),
        txt_ids=torch.zeros(text.token_BTD.shape[1], 3, device=mixed_BCHW.device),
    ).sample
    return unpack(found, height, width)


@torch.inference_mode()
def sample_latents(
    transformer: nn.Module, text: FluxText, noise_BCHW: Tensor, *, n_steps: int, guidance: float
) -> Float[Tensor, "B C H W"]:
    """Integrate from noise to latents by Euler steps; larger images take more of the steps near the noise.

    Source: Lu et al. 2022 for the steps; FLUX.1's shift of times by the number of tokens.
    """
    n_tokens = noise_BCHW.shape[-2] * noise_BCHW.shape[-1] // 4
    times = shifted_times(n_steps, n_tokens)
    latent_BCHW = noise_BCHW
    for now, later in itertools.pairwise(times):
        time_B = torch.full((len(noise_BCHW),), now, device=noise_BCHW.device)
        velocity_BCHW = predict_velocity(transformer, latent_BCHW, text, time_B=time_B, guidance=guidance)
        latent_BCHW = latent_BCHW + (later - now) * velocity_BCHW.float()
    return latent_BCHW


def shifted_times(n_steps: int, n_tokens: int) -> list[float]:
    """Return the times of the steps from 1, noise, to 0, shifted as in FLUX.1.

    >>> [round(time, 3) for time in shifted_times(2, 256)]
    [1.0, 0.622, 0.0]
    """
    # A line through (256 tokens, 0.5) and (4096 tokens, 1.15).
    shift = math.exp(0.5 + (n_tokens - 256) * (1.15 - 0.5) / (4096 - 256))
    even = [1 - step / n_steps for step in range(n_steps)]
    return [shift / (shift + (1 / time - 1)) for time in even] + [0.0]


def pack(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
    """Pack each 2 × 2 cells into one token."""
    n_images, channels, height, width = latent_BCHW.shape
    cells = latent_BCHW.view(n_images, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n_images, (height // 2) * (width // 2), channels * 4)


def unpack(token_BND: Float[Tensor, "B N D"], height: int, width: int) -> Float[Tensor, "B C H W"]:
    """Undo `pack`."""
    n_images, _, dim = token_BND.shape
    cells = token_BND.view(n_images, height // 2, width // 2, dim // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(n_images, dim // 4, height, width)


def _places(height: int, width: int) -> Tensor:
    place_HW3 = torch.zeros(height, width, 3)
    place_HW3[..., 1] += torch.arange(height)[:, None]
    place_HW3[..., 2] += torch.arange(width)[None, :]
    return place_HW3.reshape(-1, 3)
