"""The convolutional coder of the tokenizer: pixels to features of the finest grid and back, and how it is trained.

Modules have the names of the published checkpoint, so that most of its keys match. Parts come first, then the whole, then
its training.

Letters: B samples in a batch · N images · C channels · D features of a token · H W grid.
"""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.config import AutoencoderConfig
from alchemist_core.models.precision import without_tf32
from alchemist_core.models.quantiser import ResidualQuantiser, draw_rows, fit_codebook

_WARMUP_RATIO = 0.05
# The autoencoder is first trained without codes; then k-means fits the codebook to its features.
_PLAIN_RATIO, _N_ROUNDS, _N_FITTED = 0.5, 8, 1000
# A code that is not used within this many steps gets a new vector, except in the last tenth of the training.
_PATIENCE, _SETTLING_RATIO = 25, 0.1


class ResidualBlock(nn.Module):
    """Two convolutions, each after norm and SiLU, added to the input."""

    def __init__(self, n_in: int, n_out: int, n_groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in, n_groups), nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2, self.conv2 = _norm(n_out, n_groups), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        # Departs: a block initially returns its input. After 200 steps the error of the small autoencoder is then a third.
        nn.init.zeros_(self.conv2.weight)

    def forward(self, hidden_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E H W"]:
        """Update every cell from its neighbours."""
        inner = self.conv1(functional.silu(self.norm1(hidden_BCHW)))
        inner = self.conv2(functional.silu(self.norm2(inner)))
        out: Tensor = self.nin_shortcut(hidden_BCHW) + inner
        return out


class GridAttention(nn.Module):
    """Single-head attention among all cells of a grid."""

    def __init__(self, width: int, n_groups: int) -> None:
        super().__init__()
        self.norm = _norm(width, n_groups)
        self.qkv, self.proj_out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, hidden_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Update every cell from all others."""
        query, key, value = self.qkv(self.norm(hidden_BCHW)).flatten(2).transpose(1, 2).chunk(3, 2)
        mixed_BLC = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = hidden_BCHW + self.proj_out(mixed_BLC.transpose(1, 2).reshape(hidden_BCHW.shape))
        return out


class Shrink(nn.Module):
    """Halve the side; the padding is at the bottom and on the right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, hidden_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Return the grid at half the side."""
        out: Tensor = self.conv(functional.pad(hidden_BCHW, (0, 1, 0, 1)))
        return out


class Grow(nn.Module):
    """Double the side by nearest-neighbour upsampling, then convolve."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden_BCHW: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """Return the grid at twice the side."""
        out: Tensor = self.conv(functional.interpolate(hidden_BCHW, scale_factor=2, mode="nearest"))
        return out


class Level(nn.Module):
    """The blocks of one resolution, then the resampling to the next."""

    def __init__(self, n_in: int, n_out: int, config: AutoencoderConfig, *, n_blocks: int, is_coarsest: bool) -> None:
        super().__init__()
        widths = pairwise([n_in, *[n_out] * n_blocks])
        self.block = nn.ModuleList(ResidualBlock(*pair, config.n_groups) for pair in widths)
        n_attentions = n_blocks if is_coarsest else 0
        self.attn = nn.ModuleList(GridAttention(n_out, config.n_groups) for _ in range(n_attentions))
        self.resample: nn.Module = nn.Identity()

    def forward(self, hidden_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:
        """Update the grid and resample it to the next level's side."""
        for index, block in enumerate(self.block):
            hidden_BCHW = block(hidden_BCHW)
            if self.attn:
                hidden_BCHW = self.attn[index](hidden_BCHW)
        out: Tensor = self.resample(hidden_BCHW)
        return out


class Middle(nn.Module):
    """The part between the levels and the codes: block, attention, block."""

    def __init__(self, width: int, n_groups: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (ResidualBlock(width, width, n_groups) for _ in range(2))
        self.attn_1 = GridAttention(width, n_groups)

    def forward(self, hidden_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Update the coarsest grid."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(hidden_BCHW)))
        return out


class Encoder(nn.Module):
    """Pixels to features, from the finest level to the coarsest."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = _widths(config)
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        for level, (n_in, n_out) in enumerate(pairwise([config.width, *widths])):
            is_coarsest = level == len(widths) - 1
            made = Level(n_in, n_out, config, n_blocks=config.n_blocks, is_coarsest=is_coarsest)
            made.resample = nn.Identity() if is_coarsest else Shrink(n_out)
            self.down.append(made)
        self.mid = Middle(widths[-1], config.n_groups)
        self.norm_out = _norm(widths[-1], config.n_groups)
        self.conv_out = nn.Conv2d(widths[-1], config.token_dim, 3, padding=1)

    def forward(self, pixels_BCHW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Return one feature vector for each cell of the coarsest grid."""
        hidden_BCHW = self.conv_in(pixels_BCHW)
        for level in self.down:
            hidden_BCHW = level(hidden_BCHW)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(self.mid(hidden_BCHW))))
        return out


class Decoder(nn.Module):
    """Features to pixels, from the coarsest level to the finest."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = _widths(config)
        self.conv_in = nn.Conv2d(config.token_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.n_groups)
        self.up = nn.ModuleList()
        for level, (n_out, n_in) in enumerate(pairwise([*widths, widths[-1]])):
            is_coarsest = level == len(widths) - 1
            made = Level(n_in, n_out, config, n_blocks=config.n_blocks + 1, is_coarsest=is_coarsest)
            made.resample = Grow(n_out) if level else nn.Identity()
            self.up.append(made)
        self.norm_out = _norm(config.width * config.width_ratios[0], config.n_groups)
        self.conv_out = nn.Conv2d(config.width * config.width_ratios[0], 3, 3, padding=1)

    def forward(self, feature_BDHW: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        """Return the pixels, about −1 to 1."""
        hidden_BCHW = self.mid(self.conv_in(feature_BDHW))
        for level in reversed(self.up):
            hidden_BCHW = level(hidden_BCHW)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(hidden_BCHW)))
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder, with the convolutions before and after the codebook.

    Source: Tian et al. 2024 (VAR); Esser et al. 2021 (VQGAN).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(config.token_dim, config.token_dim, 3, padding=1) for _ in range(2)
        )

    @without_tf32
    def encode(self, pixels_BCHW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Return the features to quantise."""
        out: Tensor = self.quant_conv(self.encoder(pixels_BCHW))
        return out

    @without_tf32
    def decode(self, feature_BDHW: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        """Return the pixels of features."""
        out: Tensor = self.decoder(self.post_quant_conv(feature_BDHW))
        return out


class PatchCoder(nn.Module):
    """A coder without weights: a feature vector is the pixels of a patch."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def encode(self, pixels_BCHW: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Split into patches."""
        return functional.pixel_unshuffle(pixels_BCHW, self.patch)

    def decode(self, feature_BDHW: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        """Join patches."""
        return functional.pixel_shuffle(feature_BDHW, self.patch)


def _widths(config: AutoencoderConfig) -> list[int]:
    return [config.width * ratio for ratio in config.width_ratios]


def _norm(width: int, n_groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(n_groups, width, eps=1e-6)


@without_tf32
def train_autoencoder(
    coder: Autoencoder,
    quantiser: ResidualQuantiser,
    pixels_NCHW: Float[Tensor, "N 3 H W"],
    config: AutoencoderConfig,
    *,
    generator: np.random.Generator,
) -> None:
    """Train coder and quantiser in place; equal initial weights and generator give equal bytes."""
    weights = [*coder.parameters(), *quantiser.parameters()]
    optimizer = torch.optim.AdamW(weights, config.learning_rate, (0.9, 0.95), weight_decay=0.0)
    # A warm-up that ends with the first step would be divided by its length of 0.
    warmup_ratio = _WARMUP_RATIO if _WARMUP_RATIO * config.n_steps > 1 else 0.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.n_steps, pct_start=warmup_ratio
    )
    n_used_V = torch.zeros(quantiser.codebook.num_embeddings, dtype=torch.int64)
    first = int(_PLAIN_RATIO * config.n_steps)
    for step in range(config.n_steps):
        pixels_BCHW = pixels_NCHW[torch.from_numpy(generator.integers(0, len(pixels_NCHW), config.batch_size))]
        if step < first:
            loss = functional.mse_loss(coder.decode(coder.encode(pixels_BCHW)), pixels_BCHW)
        else:
            if step == first:
                fitted_NDHW = _features(coder, pixels_NCHW[:_N_FITTED], config.batch_size)
                fit_codebook(quantiser, fitted_NDHW, n_rounds=_N_ROUNDS, generator=generator)
            feature_BDHW = coder.encode(pixels_BCHW)
            code_BS, residual_BSD = _quantise(quantiser, feature_BDHW)
            n_used_V += torch.bincount(code_BS.flatten(), minlength=len(n_used_V))
            loss = tokenizer_loss(coder, quantiser, pixels_BCHW, feature_BDHW, code_BS, commitment=config.commitment)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if first < step < (1 - _SETTLING_RATIO) * config.n_steps and step % _PATIENCE == 0:
            restart_unused(quantiser, n_used_V, residual_BSD.flatten(0, 1), generator)
            n_used_V.zero_()


def tokenizer_loss(
    coder: Autoencoder,
    quantiser: ResidualQuantiser,
    pixels_BCHW: Float[Tensor, "B 3 H W"],
    feature_BDHW: Float[Tensor, "B D h w"],
    code_BS: Int64[Tensor, "B S"],
    *,
    commitment: float,
) -> Float[Tensor, ""]:
    """Return the error of the reconstruction plus the distance of features and codes, averaged over the scales.

    Source: van den Oord et al. 2017, Eq. 3, after every scale as in VAR.
    """
    grids = list(quantiser.grow(code_BS))
    distance = sum(
        functional.mse_loss(grid_BDHW, feature_BDHW.detach())
        + commitment * functional.mse_loss(grid_BDHW.detach(), feature_BDHW)
        for grid_BDHW in grids
    ) / len(grids)
    # Straight-through: the decoder reads the codes, and the gradient skips the quantisation.
    passed_BDHW = feature_BDHW + (grids[-1] - feature_BDHW).detach()
    return functional.mse_loss(coder.decode(passed_BDHW), pixels_BCHW) + distance


@torch.no_grad()
def _features(coder: Autoencoder, pixels_NCHW: Tensor, batch_size: int) -> Tensor:
    return torch.cat([coder.encode(pixels_BCHW) for pixels_BCHW in torch.split(pixels_NCHW, batch_size)])


@torch.no_grad()
def _quantise(quantiser: ResidualQuantiser, feature_BDHW: Tensor) -> tuple[Tensor, Tensor]:
    return quantiser.quantise(feature_BDHW)


@torch.no_grad()
def restart_unused(
    quantiser: ResidualQuantiser, n_used_V: Tensor, residual_MD: Tensor, generator: np.random.Generator
) -> None:
    """Replace every unused code by a random residual."""
    codebook_VD = quantiser.codebook.weight
    fresh_VD = draw_rows(residual_MD, len(codebook_VD), generator)
    codebook_VD.copy_(torch.where((n_used_V > 0)[:, None], codebook_VD, fresh_VD))
