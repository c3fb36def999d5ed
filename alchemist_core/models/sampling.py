"""Sampling images from STAR: scale by scale, with a key-value cache and classifier-free guidance.

Letters: B images of a forward · N images · S tokens over all scales · L tokens of one scale · V codebook size · D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from alchemist_core.errors import DataError
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.quantiser import ResidualQuantiser
from alchemist_core.models.star import AttentionCache, Star
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import Tokenizer


@torch.inference_mode()
def sample_codes(
    star: Star,
    tokenizer: Tokenizer,
    text: TextFeatures,
    *,
    empty: TextFeatures,
    seeds: Sequence[int],
    config: SamplingConfig,
) -> Int64[Tensor, "N S"]:
    """Sample one image per caption, as codes for `tokenizer.decode`; each depends on its own seed and caption only.

    Kernels depend on the shape of a batch, so every forward has the same shape.

    Args:
        star: The generator, in eval mode.
        tokenizer: The tokenizer that it was trained on.
        text: One caption per image.
        empty: The features of the empty caption, `encoder.encode([""])`.
        seeds: One per image.
        config: Guidance, top-k, top-p and batch size.

    Raises:
        DataError: Captions and seeds differ in number.
    """
    if len(seeds) != len(text.mask_BT):
        raise DataError(f"{len(text.mask_BT)} captions but {len(seeds)} seeds. Give one seed per caption.")
    n_tokens = star.trunk.config.n_tokens
    parts = [torch.zeros(0, n_tokens, dtype=torch.int64)]
    for start in range(0, len(seeds), config.batch_size):
        index_B = torch.arange(start, start + config.batch_size).clamp(max=len(seeds) - 1)
        uniform_BS = torch.stack([_uniforms(seeds[index], n_tokens) for index in index_B.tolist()])
        batch = _Batch(star, tokenizer.quantiser, text.rows(index_B), None, config)
        if config.guidance_scale:
            batch = replace(batch, empty=empty.rows(torch.zeros_like(index_B)))
        parts.append(batch.sample(uniform_BS)[: len(seeds) - start])
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images sampled together; with guidance, the second half of each forward has the empty caption."""

    star: Star
    quantiser: ResidualQuantiser
    text: TextFeatures
    empty: TextFeatures | None
    config: SamplingConfig

    def sample(self, uniform_BS: Tensor) -> Tensor:
        """Sample all scales, coarse first; a uniform number from 0 to 1 decides each code."""
        text = self.text if self.empty is None else self.text.joined(self.empty)
        device = self.star.head.weight.device
        text, uniform_BS = text.to(device), uniform_BS.to(device)
        caches = [AttentionCache() for _ in self.star.trunk.blocks]
        scales = self.star.trunk.config.scales
        grid_BDHW: Tensor | None = None
        codes: list[Tensor] = []
        for scale, uniform_BL in enumerate(torch.split(uniform_BS, [side**2 for side in scales], 1)):
            input_BLD = None if grid_BDHW is None else self.quantiser.at_scale(scale, grid_BDHW)
            if input_BLD is not None and self.empty is not None:
                input_BLD = input_BLD.repeat(2, 1, 1)
            logit_BLV = self.star.head(self.star.trunk.next_scale(scale, input_BLD, text, caches=caches)).float()
            if self.empty is not None:
                strength = self.config.guidance_scale * scale / max(len(scales) - 1, 1)
                with_BLV, without_BLV = logit_BLV.chunk(2)
                logit_BLV = guide(with_BLV, without_BLV, strength)
            probability_BLV = cut_probabilities(logit_BLV, top_k=self.config.top_k, top_p=self.config.top_p)
            codes.append(pick_codes(probability_BLV, uniform_BL))
            grid_BDHW = self.quantiser.add_scale(scale, codes[-1], grid_BDHW)
        return torch.cat(codes, 1).cpu()


def guide(
    logit_BLV: Float[Tensor, "B L V"], empty_logit_BLV: Float[Tensor, "B L V"], strength: float
) -> Float[Tensor, "B L V"]:
    """Move logits away from the logits of the empty caption (classifier-free guidance).

    Source: Ho and Salimans 2022, Eq. 6.
    """
    return (1 + strength) * logit_BLV - strength * empty_logit_BLV


def cut_probabilities(logit_BLV: Float[Tensor, "B L V"], *, top_k: int, top_p: float) -> Float[Tensor, "B L V"]:
    """Return the probabilities of the most likely codes only: at most `top_k`, and no more than are needed to cover `top_p`.

    Source: Holtzman et al. 2020 (top-p).
    """
    n_kept = min(top_k, logit_BLV.shape[-1])
    value_BLK, code_BLK = logit_BLV.double().topk(n_kept, -1)
    probability_BLK = value_BLK.softmax(-1)
    # A code is kept if the more likely codes do not cover top_p, so the most likely code is always kept.
    is_kept_BLK = probability_BLK.cumsum(-1) - probability_BLK < top_p
    kept_BLK = torch.where(is_kept_BLK, probability_BLK, 0.0)
    cut_BLV = torch.zeros_like(logit_BLV, dtype=torch.float64).scatter(-1, code_BLK, kept_BLK)
    return cut_BLV / cut_BLV.sum(-1, keepdim=True)


def pick_codes(probability_BLV: Float[Tensor, "B L V"], uniform_BL: Float[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
    """Return each token's code: the inverse of the cumulative probabilities at a uniform number."""
    cumulated_BLV = probability_BLV.cumsum(-1)
    # Clamp to the last code with a positive probability: by rounding, the sum may stay below the uniform number.
    reached_BL1 = uniform_BL[..., None] * cumulated_BLV[..., -1:]
    code_BL1 = torch.searchsorted(cumulated_BLV, reached_BL1, right=True)
    last_BL1 = torch.searchsorted(cumulated_BLV, cumulated_BLV[..., -1:].contiguous())
    return torch.minimum(code_BL1, last_BL1)[..., 0]


def _uniforms(seed: int, n_tokens: int) -> Tensor:
    # Drawn on the CPU: the same seed gives the same numbers on every device.
    return torch.rand(n_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
