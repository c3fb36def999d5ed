"""The image tokenizer: patches, quantised scale by scale on the residual that the coarser scales left (as in VAR).

The tiny one here has no network: a token's features are the colours of a patch, and the codebook is fitted by k-means.
It knows nothing of captions or of what its tokens are used for.

Letters: B samples in a batch · N images · S tokens over all scales · D features · V codebook size · C H W image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.images import ImageArray, resize_images

# A code may differ in about 1 image of 1,000 between batch shapes, so every image meets the codebook in this one.
ENCODE_BATCH = 256


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """A batch of images as a generator reads them."""

    code_BS: Int64[Tensor, "B S"]
    input_BSD: Float[Tensor, "B S D"]
    """What a generator sees when it predicts a token: the image so far, at the token's own scale."""

    def rows(self, index_B: Int64[Tensor, " B"]) -> "ImageTokens":
        """Gather some images."""
        return ImageTokens(self.code_BS[index_B], self.input_BSD[index_B])

    def after(self, start: int) -> "ImageTokens":
        """Give the images from one place on."""
        return ImageTokens(self.code_BS[start:], self.input_BSD[start:])

    def to(self, device: torch.device) -> "ImageTokens":
        """Move to a device."""
        return ImageTokens(self.code_BS.to(device), self.input_BSD.to(device))


class Tokenizer(nn.Module):
    """Turns images into S codes and back; frozen in use."""

    codebook_VD: Tensor

    def __init__(self, config: TokenizerConfig, codebook_VD: Float[Tensor, "V D"]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("codebook_VD", codebook_VD.float())

    @torch.no_grad()
    def encode(self, image_NHWC: ImageArray) -> Int64[Tensor, "N S"]:
        """Give the codes of images of any side, each computed in one fixed batch shape."""
        code_chunks = []
        for start in range(0, len(image_NHWC), ENCODE_BATCH):
            chunk = image_NHWC[start : start + ENCODE_BATCH]
            padding = ((0, ENCODE_BATCH - len(chunk)), (0, 0), (0, 0), (0, 0))
            feature_BDHW = self.patch_features(np.pad(chunk, padding))
            code_chunks.append(self.quantise(feature_BDHW)[0][: len(chunk)])
        return torch.cat(code_chunks) if code_chunks else torch.zeros(0, self.config.n_tokens, dtype=torch.int64)

    def patch_features(self, image_NHWC: ImageArray) -> Float[Tensor, "N D H W"]:
        """Resize and cut into patches: one feature vector for each cell of the finest grid."""
        pixels_NCHW = resize_images(image_NHWC, self.config.resolution).to(self.codebook_VD.device)
        return functional.pixel_unshuffle(pixels_NCHW, self.config.patch)

    def quantise(self, feature_BDHW: Float[Tensor, "B D H W"]) -> tuple[Int64[Tensor, "B S"], Float[Tensor, "B S D"]]:
        """Quantise residuals from the coarsest scale on; also give the residual vectors that met the codebook."""
        residual_BDHW = feature_BDHW
        codes, residuals = [], []
        for side in self.config.scales:
            cell_BLD = functional.adaptive_avg_pool2d(residual_BDHW, side).flatten(2).transpose(1, 2)
            code_BL = self._nearest(cell_BLD)
            residual_BDHW = residual_BDHW - self._upsample(code_BL, side)
            codes.append(code_BL)
            residuals.append(cell_BLD)
        return torch.cat(codes, 1), torch.cat(residuals, 1)

    @torch.no_grad()
    def tokens(self, code_BS: Int64[Tensor, "B S"]) -> ImageTokens:
        """Accumulate the image over scales, as teacher forcing wants it."""
        image_BDHW: Tensor | None = None
        inputs = []
        for side, code_BL in self._split(code_BS):
            inputs.append(self._at_scale(image_BDHW, code_BL, side))
            update_BDHW = self._upsample(code_BL, side)
            image_BDHW = update_BDHW if image_BDHW is None else image_BDHW + update_BDHW
        return ImageTokens(code_BS, torch.cat(inputs, 1))

    @torch.no_grad()
    def decode(self, code_BS: Int64[Tensor, "B S"]) -> ImageArray:
        """Draw the images that the codes stand for, at the tokenizer's resolution."""
        image_BDHW = sum(self._upsample(code_BL, side) for side, code_BL in self._split(code_BS))
        assert isinstance(image_BDHW, Tensor)
        pixels_BCHW = functional.pixel_shuffle(image_BDHW, self.config.patch)
        pixels_BHWC = ((pixels_BCHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels_BHWC.cpu().numpy())

    def save(self, path: Path) -> None:
        """Write codebook and configuration to one safetensors file."""
        save_file({"codebook_VD": self.codebook_VD.contiguous()}, path, {"config": self.config.model_dump_json()})

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer that `save` wrote."""
        with safe_open(path, framework="pt") as file:
            config = TokenizerConfig.model_validate_json(file.metadata()["config"])
            return cls(config, file.get_tensor("codebook_VD"))

    def _nearest(self, cell_BLD: Tensor) -> Tensor:
        half_norm_V = 0.5 * (self.codebook_VD**2).sum(1)
        return (cell_BLD @ self.codebook_VD.T - half_norm_V).argmax(-1)

    def _split(self, code_BS: Tensor) -> list[tuple[int, Tensor]]:
        lengths = [side**2 for side in self.config.scales]
        return list(zip(self.config.scales, torch.split(code_BS, lengths, 1), strict=True))

    def _upsample(self, code_BL: Tensor, side: int) -> Tensor:
        grid_BDHW = self.codebook_VD[code_BL].transpose(1, 2).reshape(len(code_BL), -1, side, side)
        finest = self.config.scales[-1]
        return grid_BDHW if side == finest else functional.interpolate(grid_BDHW, finest, mode="bicubic")

    def _at_scale(self, image_BDHW: Tensor | None, code_BL: Tensor, side: int) -> Tensor:
        if image_BDHW is None:
            return self.codebook_VD.new_zeros(*code_BL.shape, self.config.token_dim)
        return functional.adaptive_avg_pool2d(image_BDHW, side).flatten(2).transpose(1, 2)


@torch.no_grad()
def fit_tokenizer(image_NHWC: ImageArray, config: TokenizerConfig, seed: int) -> Tokenizer:
    """Fit the codebook by k-means on the residuals that quantisation itself leaves; the same seed gives the same bytes.

    Args:
        image_NHWC: Images to draw the sample from.
        config: Shape of the tokenizer and length of the fit.
        seed: Draws the sample, the first codes and the replacements of codes that nothing uses.
    """
    generator = np.random.default_rng(seed)
    picked_N = generator.permutation(len(image_NHWC))[: config.n_images]
    blank = Tokenizer(config, torch.zeros(config.n_codes, config.token_dim))
    feature_NDHW = blank.patch_features(image_NHWC[np.sort(picked_N)])
    _, residual_NSD = blank.quantise(feature_NDHW)
    tokenizer = Tokenizer(config, _draw_rows(residual_NSD.flatten(0, 1), config.n_codes, generator))
    for _ in range(config.n_rounds):
        code_NS, residual_NSD = tokenizer.quantise(feature_NDHW)
        tokenizer = Tokenizer(config, _mean_by_code(code_NS, residual_NSD, tokenizer.codebook_VD, generator))
    return tokenizer


def _mean_by_code(code_NS: Tensor, residual_NSD: Tensor, old_VD: Tensor, generator: np.random.Generator) -> Tensor:
    code_M, residual_MD = code_NS.flatten(), residual_NSD.flatten(0, 1)
    count_V = torch.bincount(code_M, minlength=len(old_VD))
    total_VD = torch.zeros_like(old_VD).index_add_(0, code_M, residual_MD)
    mean_VD = total_VD / count_V.clamp(min=1)[:, None]
    fresh_VD = _draw_rows(residual_MD, len(old_VD), generator)
    return torch.where((count_V > 0)[:, None], mean_VD, fresh_VD)


def _draw_rows(row_MD: Tensor, n_rows: int, generator: np.random.Generator) -> Tensor:
    return row_MD[torch.from_numpy(generator.integers(0, len(row_MD), n_rows))]
