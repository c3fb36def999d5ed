"""Fitting the codebook of a quantiser by k-means. What the features are, it does not know.

Letters: N images · S tokens over all scales · M tokens of all images · D features · V codebook size · H W finest grid.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alchemist_core.models.quantiser import ResidualQuantiser


@torch.no_grad()
def fit_codebook(
    quantiser: ResidualQuantiser,
    feature_NDHW: Float[Tensor, "N D H W"],
    *,
    n_rounds: int,
    generator: np.random.Generator,
) -> None:
    """Let every code be the mean of the residuals that it stands for, which quantisation itself leaves; round by round."""
    codebook_VD = quantiser.codebook.weight
    codebook_VD.zero_()
    _, residual_NSD = quantiser.quantise(feature_NDHW)
    codebook_VD.copy_(draw_rows(residual_NSD.flatten(0, 1), len(codebook_VD), generator))
    for _ in range(n_rounds):
        code_NS, residual_NSD = quantiser.quantise(feature_NDHW)
        codebook_VD.copy_(_mean_by_code(code_NS, residual_NSD, len(codebook_VD), generator))


def draw_rows(row_MD: Float[Tensor, "M D"], n_rows: int, generator: np.random.Generator) -> Float[Tensor, "V D"]:
    """Draw rows with replacement."""
    return row_MD[torch.from_numpy(generator.integers(0, len(row_MD), n_rows))]


def _mean_by_code(code_NS: Tensor, residual_NSD: Tensor, n_codes: int, generator: np.random.Generator) -> Tensor:
    code_M, residual_MD = code_NS.flatten(), residual_NSD.flatten(0, 1)
    count_V = torch.bincount(code_M, minlength=n_codes)
    total_VD = residual_MD.new_zeros(n_codes, residual_MD.shape[1]).index_add_(0, code_M, residual_MD)
    mean_VD = total_VD / count_V.clamp(min=1)[:, None]
    # A code that stands for nothing begins anew at some residual.
    fresh_VD = draw_rows(residual_MD, n_codes, generator)
    return torch.where((count_V > 0)[:, None], mean_VD, fresh_VD)
