"""Where a token stands: its scale, its row and column, and which tokens it may read. Knows no weights.

Letters: S tokens over all scales · F pairs of features of one attention head · K scales.
"""

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from alchemist_core.models.config import Scales

_THETA = 10_000.0
# Every scale's grid is stretched over the same square, so that a place has one coordinate at all scales.
_EXTENT = 64.0


def scale_index(scales: Scales) -> Int64[Tensor, " S"]:
    """Number the scale of each token.

    >>> scale_index((1, 2)).tolist()
    [0, 1, 1, 1, 1]
    """
    lengths_K = torch.tensor([side**2 for side in scales], device="cpu")
    return torch.repeat_interleave(torch.arange(len(scales), device="cpu"), lengths_K)


def block_causal_mask(scales: Scales) -> Bool[Tensor, "S S"]:
    """Let a token read its own scale and all coarser ones.

    >>> block_causal_mask((1, 2))[0].tolist()
    [True, False, False, False, False]
    """
    scale_S = scale_index(scales)
    return scale_S[:, None] >= scale_S[None, :]


def coordinates(scales: Scales) -> Float[Tensor, "S 2"]:
    """Give each token's column and row on a square of side 64; a scale of one token stands at its origin."""
    grids = []
    for side in scales:
        step_L = torch.arange(side, dtype=torch.float64, device="cpu") * (_EXTENT / max(side - 1, 1))
        grids.append(torch.stack([step_L.repeat(side), step_L.repeat_interleave(side)], 1))
    return torch.cat(grids)


def rotary_turns(scales: Scales, head_dim: int) -> Complex[Tensor, "S F"]:
    """Give the turn of each pair of a head's features at each token: half the pairs turn with the column, half with the row.

    Args:
        scales: Side of each scale's grid.
        head_dim: Features of a head, a multiple of 4.

    Source: Heo et al. 2024 (axial rotary embedding); STAR stretches every scale over 0 to 64.
    """
    speed_P = _THETA ** (-4.0 * torch.arange(head_dim // 4, dtype=torch.float64, device="cpu") / head_dim)
    angle_SF = (coordinates(scales)[:, :, None] * speed_P).flatten(1)
    return torch.polar(torch.ones_like(angle_SF), angle_SF).to(torch.complex64)
