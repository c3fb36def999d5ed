"""Residual quantisation over scales: each scale encodes the residual of the coarser ones with a shared codebook; fitting this codebook.

Letters: B samples in a batch · S tokens over all scales · L tokens of one scale · D features · V codebook size · H W finest grid.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.precision import without_tf32


class ResidualQuantiser(nn.Module):
    """Turns a grid of features into the codes of all scales, and codes back into the grid that they sum up to.

    Downsampling is by area and upsampling bicubic; an upsampled scale may pass through a convolution shared with its neighbours.

    Source: Tian et al. 2024 (VAR), Algorithms 1 and 2.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.scales = config.scales
        self.codebook = nn.Embedding(config.n_codes, config.token_dim)
        coder, dim = config.autoencoder, config.token_dim
        n_smoothers = coder.n_smoothers if coder else 0
        self.smoothing_ratio = coder.smoothing_ratio if coder else 0.0
        self.smoothers = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(n_smoothers))
        self.smoother_of = share_smoothers(len(self.scales), n_smoothers)

    def quantise(self, feature_BDHW: Float[Tensor, "B D H W"]) -> tuple[Int64[Tensor, "B S"], Float[Tensor, "B S D"]]:
        """Quantise residuals from the coarsest scale on; return codes and the residual vectors that were quantised."""
        residual_BDHW = feature_BDHW
        codes, residuals = [], []
        for scale in range(len(self.scales)):
            cell_BLD = self.at_scale(scale, residual_BDHW)
            code_BL = self._nearest(cell_BLD)
            residual_BDHW = residual_BDHW - self._decoded(scale, code_BL)
            codes.append(code_BL)
            residuals.append(cell_BLD)
        return torch.cat(codes, 1), torch.cat(residuals, 1)

    def at_scale(self, scale: int, grid_BDHW: Float[Tensor, "B D H W"]) -> Float[Tensor, "B L D"]:
        """Downsample a grid to one scale."""
        return functional.adaptive_avg_pool2d(grid_BDHW, self.scales[scale]).flatten(2).transpose(1, 2)

    def add_scale(
        self, scale: int, code_BL: Int64[Tensor, "B L"], grid_BDHW: Float[Tensor, "B D H W"] | None
    ) -> Float[Tensor, "B D H W"]:
        """Add the decoded codes of one scale to the grid so far."""
        decoded_BDHW = self._decoded(scale, code_BL)
        return decoded_BDHW if grid_BDHW is None else grid_BDHW + decoded_BDHW

    def grow(self, code_BS: Int64[Tensor, "B S"]) -> Iterator[Float[Tensor, "B D H W"]]:
        """Yield the grid after each scale; the last one decodes all codes."""
        grid_BDHW: Tensor | None = None
        lengths = [side**2 for side in self.scales]
        for scale, code_BL in enumerate(torch.split(code_BS, lengths, 1)):
            grid_BDHW = self.add_scale(scale, code_BL, grid_BDHW)
            yield grid_BDHW

    def inputs(self, code_BS: Int64[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Return the generator's input for each token: the grid of the coarser scales, resampled to the token's scale."""
        first_BLD = self.codebook.weight.new_zeros(len(code_BS), self.scales[0] ** 2, self.codebook.embedding_dim)
        # The last grid is not an input: zip stops at the last scale.
        later = zip(range(1, len(self.scales)), self.grow(code_BS), strict=False)
        return torch.cat([first_BLD, *(self.at_scale(scale, grid_BDHW) for scale, grid_BDHW in later)], 1)

    def _nearest(self, cell_BLD: Tensor) -> Tensor:
        half_norm_V = 0.5 * (self.codebook.weight**2).sum(1)
        return (cell_BLD @ self.codebook.weight.T - half_norm_V).argmax(-1)

    @without_tf32
    def _decoded(self, scale: int, code_BL: Tensor) -> Tensor:
        side, finest = self.scales[scale], self.scales[-1]
        grid_BDHW: Tensor = self.codebook(code_BL).transpose(1, 2).reshape(len(code_BL), -1, side, side)
        if side != finest:
            grid_BDHW = functional.interpolate(grid_BDHW, finest, mode="bicubic")
        if not self.smoothers:
            return grid_BDHW
        return torch.lerp(grid_BDHW, self.smoothers[self.smoother_of[scale]](grid_BDHW), self.smoothing_ratio)


def share_smoothers(n_scales: int, n_smoothers: int) -> list[int]:
    """Return which convolution each scale passes through: the one whose tick is nearest to the scale's position from 0 to 1.

    >>> share_smoothers(10, 4)
    [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]

    Departs: scales 2 and 7 of 10 are midway between two ticks. Rounding decides, so the ticks are computed by the same expression as
    in the training of the published weights.
    """
    if not n_smoothers:
        return []
    margin = 1 / 3 / n_smoothers if n_smoothers == 4 else 1 / 2 / n_smoothers
    ticks = np.linspace(margin, 1 - margin, n_smoothers)
    return [int(np.argmin(np.abs(ticks - scale / max(n_scales - 1, 1)))) for scale in range(n_scales)]


@torch.no_grad()
def fit_codebook(
    quantiser: ResidualQuantiser,
    feature_NDHW: Float[Tensor, "N D H W"],
    *,
    n_rounds: int,
    generator: np.random.Generator,
) -> None:
    """Fit the codebook by k-means: in each round every code becomes the mean of the residuals that it coded."""
    codebook_VD = quantiser.codebook.weight
    codebook_VD.zero_()
    _, residual_NSD = quantiser.quantise(feature_NDHW)
    codebook_VD.copy_(draw_rows(residual_NSD.flatten(0, 1), len(codebook_VD), generator))
    for _ in range(n_rounds):
        code_NS, residual_NSD = quantiser.quantise(feature_NDHW)
        codebook_VD.copy_(_mean_by_code(code_NS, residual_NSD, len(codebook_VD), generator))


def draw_rows(row_MD: Float[Tensor, "M D"], n_rows: int, generator: np.random.Generator) -> Float[Tensor, "V D"]:
    """Sample rows with replacement."""
    return row_MD[torch.from_numpy(generator.integers(0, len(row_MD), n_rows))]


def _mean_by_code(code_NS: Tensor, residual_NSD: Tensor, n_codes: int, generator: np.random.Generator) -> Tensor:
    code_M, residual_MD = code_NS.flatten(), residual_NSD.flatten(0, 1)
    count_V = torch.bincount(code_M, minlength=n_codes)
    total_VD = residual_MD.new_zeros(n_codes, residual_MD.shape[1]).index_add_(0, code_M, residual_MD)
    mean_VD = total_VD / count_V.clamp(min=1)[:, None]
    # An unused code restarts at a random residual.
    fresh_VD = draw_rows(residual_MD, n_codes, generator)
    return torch.where((count_V > 0)[:, None], mean_VD, fresh_VD)
