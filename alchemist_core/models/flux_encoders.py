"""FLUX's frozen encoders, from a folder in diffusers' layout: the VAE, and the two text encoders with their tokenizers.

Letters: B images or captions · T text tokens · C channels · H W cells of the latents.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alchemist_core.errors import ConfigError
from alchemist_core.models.flux import DTYPES, FluxText, diffusers, make_pipeline
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.images import ImageArray, resize_images
from alchemist_core.models.precision import without_tf32
from alchemist_core.models.pretrained import load_pretrained

VAE_BATCH = 8


class FluxAutoencoder:
    """Images to scaled latents. They are the mean of the VAE's distribution, so that they can be cached.

    Departs: FLUX samples around that mean, with a standard deviation of a hundredth of the latents' own.
    """

    def __init__(self, parts: Path, config: FluxConfig, device: str = "cpu") -> None:
        # Most CPUs emulate convolutions in bf16, which takes tens of times as long as in fp32. The VAE is small enough for fp32.
        dtype = torch.float32 if device == "cpu" else DTYPES[config.weight_dtype]
        self.vae = _freeze(_load_network(diffusers().AutoencoderKL, parts / "vae", torch_dtype=dtype), device)
        self._side, self._device = config.resolution, device

    @without_tf32
    @torch.inference_mode()
    def encode(self, image_NHWC: ImageArray) -> Float[Tensor, "N C H W"]:
        """Return each image's latents, on the CPU. Every forward has one shape, so they do not depend on the batch composition."""
        parts = []
        for start in range(0, len(image_NHWC), VAE_BATCH):
            pixels_BCHW = resize_images(image_NHWC[start : start + VAE_BATCH], self._side)
            n_images = len(pixels_BCHW)
            padded = torch.cat([pixels_BCHW, pixels_BCHW[-1:].expand(VAE_BATCH - n_images, -1, -1, -1)])
            mean_BCHW = self.vae.encode(padded.to(self._device, self.vae.dtype)).latent_dist.mean[:n_images]
            scaled = (mean_BCHW.float() - self.vae.config.shift_factor) * self.vae.config.scaling_factor
            parts.append(scaled.cpu())
        return torch.cat(parts)

    @without_tf32
    @torch.inference_mode()
    def decode(self, latent_BCHW: Float[Tensor, "B C H W"]) -> ImageArray:
        """Return the images of scaled latents."""
        latent_BCHW = latent_BCHW.to(self._device, torch.float32) / self.vae.config.scaling_factor
        shifted = (latent_BCHW + self.vae.config.shift_factor).to(self.vae.dtype)
        pixels_BCHW = self.vae.decode(shifted, return_dict=False)[0].float().clamp(-1, 1)
        pixels: ImageArray = ((pixels_BCHW + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape of one image's latents."""
        side = self._side // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.latent_channels), side, side

    def fingerprint(self) -> str:
        """Return a hash of what determines the latents: a folder may later hold other weights under the same name."""
        kind = torch.device(self._device).type
        digest = hashlib.sha256(f"{self._side} {self.vae.dtype} {kind}".encode())
        for name, weight in sorted(self.vae.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:24]


class FluxTextEncoder:
    """T5's tokens and CLIP's pooled vector of each caption, by diffusers' pipeline; both truncate long captions."""

    def __init__(self, parts: Path, config: FluxConfig, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel  # noqa: PLC0415  seconds

        dtype = DTYPES[config.weight_dtype]
        self.networks = {
            "tokenizer": _load_tokenizer(AutoTokenizer, parts / "tokenizer"),
            "tokenizer_2": _load_tokenizer(AutoTokenizer, parts / "tokenizer_2"),
            "text_encoder": _freeze(_load_network(CLIPTextModel, parts / "text_encoder", dtype=dtype), device),
            "text_encoder_2": _freeze(_load_network(T5EncoderModel, parts / "text_encoder_2", dtype=dtype), device),
        }
        t5, clip = (self.networks[name].config for name in ("text_encoder_2", "text_encoder"))
        found = t5.d_model, clip.hidden_size
        if found != (config.text_dim, config.pooled_dim):
            raise ConfigError(
                f"T5 and CLIP in {parts} have {found[0]} and {found[1]} features, but the transformer needs "
                f"{config.text_dim} and {config.pooled_dim}. Give the folder of FLUX.1's own encoders."
            )
        self._pipeline, self._n_tokens = make_pipeline(**self.networks), config.n_text_tokens

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> FluxText:
        """Encode captions; as in FLUX, padding is not masked. The features are on the CPU, in single precision."""
        token_BTD, pooled_BD, _ = self._pipeline.encode_prompt(list(captions), max_sequence_length=self._n_tokens)
        return FluxText(token_BTD.float().cpu(), pooled_BD.float().cpu())


_REMEDY = "--flux-components is the folder of FLUX.1 in diffusers' layout: vae, text_encoder, text_encoder_2, tokenizer and tokenizer_2."


def _load_network(kind: Any, folder: Path, **options: Any) -> Any:
    _require_folder(folder)
    return load_pretrained(kind, folder, what=f"FLUX.1's {folder.name}", remedy=_REMEDY, **options)


def _load_tokenizer(kind: Any, folder: Path) -> Any:
    _require_folder(folder)
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} cannot be read: {error}. {_REMEDY}") from error


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist. {_REMEDY}")


def _freeze(model: Any, device: str) -> Any:
    return model.eval().requires_grad_(requires_grad=False).to(device)
