"""FLUX-mini by diffusers: its transformer, its packing of latents into tokens, its schedule, and our flow-matching loss.

Letters: B images of a batch · N image tokens · T text tokens · C channels · H W cells of the latents · D features.
"""

import logging
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


def diffusers() -> Any:
    """Return the library.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import diffusers as library  # noqa: PLC0415  an extra of its own, twenty seconds when first imported
    except ImportError as error:
        raise missing_library("diffusers") from error
    return library


def make_transformer(config: FluxConfig) -> Any:
    """Build diffusers' transformer of a size, with new weights on the current default device."""
    return diffusers().FluxTransformer2DModel(
        patch_size=1, in_channels=config.token_dim, num_layers=config.n_double_blocks,
        num_single_layers=config.n_single_blocks, attention_head_dim=config.head_dim,
        num_attention_heads=config.n_heads, joint_attention_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim, guidance_embeds=True, axes_dims_rope=config.rope_dims,
    )  # fmt: skip


def make_pipeline(**parts: Any) -> Any:
    """Return diffusers' pipeline of FLUX with FLUX.1's schedule: larger images take more of the steps near the noise.

    The schedule is not read from the folder of the encoders: FLUX.1-schnell has the same encoders and another schedule.

    Args:
        parts: Networks and tokenizers by diffusers' names; the others are absent.
    """
    # They would print every caption that is too long for CLIP, at every step.
    for name in ("diffusers.pipelines.flux.pipeline_flux", "transformers.tokenization_utils_base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer"))
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = diffusers().FluxPipeline(scheduler=scheduler, **absent | parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pack_latents(latent_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
    """Pack each 2 × 2 cells into one token."""
    # diffusers' own training scripts call this private method.
    token_BND: Tensor = diffusers().FluxPipeline._pack_latents(latent_BCHW, *latent_BCHW.shape)  # noqa: SLF001
    return token_BND


def unpack_latents(token_BND: Float[Tensor, "B N D"], shape: tuple[int, int, int]) -> Float[Tensor, "B C H W"]:
    """Undo `pack_latents`; the shape is that of one image's latents: C, H, W."""
    # In cells, not in pixels: one cell is one pixel of a VAE that does not shrink.
    latent_BCHW: Tensor = diffusers().FluxPipeline._unpack_latents(token_BND, *shape[1:], 1)  # noqa: SLF001
    return latent_BCHW


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
    velocity_BND = predict_velocity(transformer, mixed_BCHW, text, time_B=time_B, guidance=guidance)
    error_BND = velocity_BND.float() - pack_latents(noise_BCHW - latent_BCHW).float()
    return error_BND.square().mean((1, 2))


def predict_velocity(
    transformer: nn.Module, mixed_BCHW: Tensor, text: FluxText, *, time_B: Tensor, guidance: float
) -> Float[Tensor, "B N D"]:
    """Return the transformer's velocity of each image token."""
    dtype, device = next(transformer.parameters()).dtype, mixed_BCHW.device
    n_images, _, height, width = mixed_BCHW.shape
    places_N3 = diffusers().FluxPipeline._prepare_latent_image_ids(  # noqa: SLF001  as in pack_latents
        n_images, height // 2, width // 2, device, torch.float32
    )
    velocity_BND: Tensor = transformer(
        hidden_states=pack_latents(mixed_BCHW).to(dtype),
        encoder_hidden_states=text.token_BTD.to(dtype),
        pooled_projections=text.pooled_BD.to(dtype),
        timestep=time_B.to(dtype),
        guidance=torch.full_like(time_B, guidance, dtype=dtype),
        img_ids=places_N3,
        txt_ids=torch.zeros(text.token_BTD.shape[1], 3, device=device),
    ).sample
    return velocity_BND
