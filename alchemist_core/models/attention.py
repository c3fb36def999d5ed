"""Cosine attention: queries and keys of length one, how sharply each head looks is learned. To itself, or to a caption.

Letters: B samples in a batch · S tokens that look · R tokens looked at · T text tokens · D features · H heads · E features of a head
· G heads of queries and keys together · F pairs of features of a head.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

_FIRST_SHARPNESS, _HIGHEST_SHARPNESS = 4.0, 100.0
_SHORTEST = 1e-12


class KeyFreeLinear(nn.Linear):
    """Queries if asked for, keys and values by one product; queries and values have a bias, keys have none."""

    key_bias: Tensor

    def __init__(self, dim_in: int, width: int, *, has_query: bool) -> None:
        super().__init__(dim_in, (3 if has_query else 2) * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width)) if has_query else None
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("key_bias", torch.zeros(width), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Linear's own name
        """Project."""
        biases = [self.key_bias, self.value_bias]
        if self.query_bias is not None:
            biases = [self.query_bias, *biases]
        return functional.linear(input, self.weight, torch.cat(biases))


@dataclass(slots=True)
class AttentionCache:
    """What one block has computed of earlier scales and of the caption, so that sampling need not do it again."""

    seen: tuple[Tensor, Tensor] | None = None
    text: tuple[Tensor, Tensor] | None = None

    def extend(self, key_BSHE: Tensor, value_BSHE: Tensor) -> tuple[Tensor, Tensor]:
        """Add the tokens of one scale; give all so far."""
        if self.seen is not None:
            key_BSHE, value_BSHE = (torch.cat(pair, 1) for pair in zip(self.seen, (key_BSHE, value_BSHE), strict=True))
        self.seen = key_BSHE, value_BSHE
        return self.seen


class SelfAttention(nn.Module):
    """Mixes the tokens of an image, told by rotary embedding where each stands."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.log_sharpness_H = _new_sharpness(n_heads)
        self.query_key_value = KeyFreeLinear(width, width, has_query=True)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        hidden_BSD: Float[Tensor, "B S D"],
        turn_SGF: Complex[Tensor, "S G F"],
        bias_SS: Float[Tensor, "S S"] | None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Let tokens look where the bias is 0 and not −∞, and at whatever the cache holds."""
        n_heads = self.n_heads
        # Split by heads, not indexed: the backward of an index fills a tensor of zeros first.
        all_BSGE = _by_head(self.query_key_value(hidden_BSD), 3 * n_heads)
        query_key_BSGE, value_BSHE = torch.split(all_BSGE, [2 * n_heads, n_heads], 2)
        sharpness_H = _sharpness(self.log_sharpness_H)
        length_G = torch.cat([sharpness_H, torch.ones_like(sharpness_H)])
        turned_BSGE = _turn(_scale_to(query_key_BSGE, length_G), turn_SGF).type_as(value_BSHE)
        query_BSHE, key_BSHE = torch.split(turned_BSGE, n_heads, 2)
        if cache is not None:
            key_BSHE, value_BSHE = cache.extend(key_BSHE, value_BSHE)
        out_BSD: Tensor = self.out(_attend(query_BSHE, key_BSHE, value_BSHE, bias_SS))
        return out_BSD


class CrossAttention(nn.Module):
    """Mixes the words of a caption into the tokens of its image."""

    def __init__(self, width: int, n_heads: int, *, text_dim: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.log_sharpness_H = _new_sharpness(n_heads)
        self.query = nn.Linear(width, width)
        self.key_value = KeyFreeLinear(text_dim, width, has_query=False)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        hidden_BSD: Float[Tensor, "B S D"],
        text_BTD: Float[Tensor, "B T C"],
        bias: Float[Tensor, "B 1 1 T"],
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Let each sample's tokens look at its own words where the bias is 0."""
        query_BSHE = _by_head(self.query(hidden_BSD), self.n_heads)
        key_BTHE, value_BTHE = self._read(text_BTD, cache)
        query_BSHE = _scale_to(query_BSHE, _sharpness(self.log_sharpness_H)).type_as(value_BTHE)
        out_BSD: Tensor = self.out(_attend(query_BSHE, key_BTHE, value_BTHE, bias))
        return out_BSD

    def _read(self, text_BTD: Tensor, cache: AttentionCache | None) -> tuple[Tensor, Tensor]:
        if cache is not None and cache.text is not None:
            return cache.text
        both_BTGE = _by_head(self.key_value(text_BTD), 2 * self.n_heads)
        key_BTHE, value_BTHE = torch.split(both_BTGE, self.n_heads, 2)
        key_BTHE = _scale_to(key_BTHE, torch.ones_like(self.log_sharpness_H)).type_as(value_BTHE)
        if cache is not None:
            cache.text = key_BTHE, value_BTHE
        return key_BTHE, value_BTHE


def _new_sharpness(n_heads: int) -> nn.Parameter:
    return nn.Parameter(torch.full((n_heads,), math.log(_FIRST_SHARPNESS)))


def _sharpness(log_sharpness_H: Tensor) -> Tensor:
    return log_sharpness_H.clamp(max=math.log(_HIGHEST_SHARPNESS)).exp()


def _scale_to(vector_BSHE: Tensor, length_H: Tensor) -> Tensor:
    norm_BSH1: Tensor = torch.linalg.vector_norm(vector_BSHE.float(), dim=-1, keepdim=True).clamp_min(_SHORTEST)
    return vector_BSHE * (length_H[:, None] / norm_BSH1)


def _turn(vector_BSGE: Tensor, turn_SGF: Tensor) -> Tensor:
    # One complex product of adjacent pairs: a third of the passes over memory that real products take.
    pair_BSGF = torch.view_as_complex(vector_BSGE.float().view(*vector_BSGE.shape[:-1], -1, 2))
    return torch.view_as_real(pair_BSGF * turn_SGF).flatten(-2)


def _by_head(vector_BSD: Tensor, n_heads: int) -> Tensor:
    return vector_BSD.view(*vector_BSD.shape[:2], n_heads, -1)


def _attend(query_BSHE: Tensor, key_BRHE: Tensor, value_BRHE: Tensor, bias: Tensor | None) -> Tensor:
    mixed_BHSE = functional.scaled_dot_product_attention(
        query_BSHE.transpose(1, 2), key_BRHE.transpose(1, 2), value_BRHE.transpose(1, 2), attn_mask=bias, scale=1.0
    )
    return mixed_BHSE.transpose(1, 2).flatten(2)
