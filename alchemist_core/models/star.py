"""STAR: a generator that predicts the codes of an image scale by scale, from the coarser scales and the caption. One class for all sizes.

Attention is causal between scales and full within a scale. STAR is the proxy, the downstream model and the rater's backbone. Its
tokenizer and text encoder are frozen and separate.

Parts come first: positions, attention, block, trunk, generator.

Letters: B samples in a batch · S tokens over all scales · D features of an input token · E features inside · V codebook size.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from alchemist_core.models.config import Scales, StarConfig
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens

_THETA = 10_000.0
# Every scale's grid is stretched over the same square, so that a position has one coordinate at all scales.
_EXTENT = 64.0
_FIRST_SHARPNESS, _HIGHEST_SHARPNESS = 4.0, 100.0
_SHORTEST = 1e-12
__all__ = ["Star", "Trunk"]
# As published: the head's initial weights are scaled down, so that all codes are about equally likely at first.
_FIRST_HEAD = 0.02


def scale_index(scales: Scales) -> Int64[Tensor, " S"]:
    """Return the index of each token's scale.

    >>> scale_index((1, 2)).tolist()
    [0, 1, 1, 1, 1]
    """
    return torch.tensor([scale for scale, side in enumerate(scales) for _ in range(side**2)], device="cpu")


def block_causal_mask(scales: Scales) -> Bool[Tensor, "S S"]:
    """Return the mask by which a token attends to its own scale and all coarser ones.

    >>> block_causal_mask((1, 2))[0].tolist()
    [True, False, False, False, False]
    """
    scale_S = scale_index(scales)
    return scale_S[:, None] >= scale_S[None, :]


def coordinates(scales: Scales) -> Float[Tensor, "S 2"]:
    """Return each token's column and row on a square of side 64; the token of a 1 × 1 scale is at the origin."""
    grids = []
    for side in scales:
        step_L = torch.arange(side, dtype=torch.float64, device="cpu") * (_EXTENT / max(side - 1, 1))
        grids.append(torch.stack([step_L.repeat(side), step_L.repeat_interleave(side)], 1))
    return torch.cat(grids)


def rotary_turns(scales: Scales, head_dim: int) -> Complex[Tensor, "S F"]:
    """Return the rotation of each pair of a head's features at each token: half of the pairs by column, half by row.

    Args:
        scales: Side of each scale's grid.
        head_dim: Features of a head, a multiple of 4.

    Source: Heo et al. 2024 (axial rotary embedding); STAR stretches every scale over 0 to 64.
    """
    speed_P = _THETA ** (-4.0 * torch.arange(head_dim // 4, dtype=torch.float64, device="cpu") / head_dim)
    angle_SF = (coordinates(scales)[:, :, None] * speed_P).flatten(1)
    return torch.polar(torch.ones_like(angle_SF), angle_SF).to(torch.complex64)


class KeyFreeLinear(nn.Linear):
    """Projects to keys, values and optionally queries in one product; keys have no bias."""

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
    """Keys and values of earlier scales and of the caption in one block, cached for sampling."""

    seen: tuple[Tensor, Tensor] | None = None
    text: tuple[Tensor, Tensor] | None = None

    def extend(self, key_BSHE: Tensor, value_BSHE: Tensor) -> tuple[Tensor, Tensor]:
        """Add the tokens of one scale; return all so far."""
        if self.seen is not None:
            key_BSHE, value_BSHE = (torch.cat(pair, 1) for pair in zip(self.seen, (key_BSHE, value_BSHE), strict=True))
        self.seen = key_BSHE, value_BSHE
        return self.seen


class SelfAttention(nn.Module):
    """Attention among the tokens of an image, with rotary position embedding."""

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
        """Attend to tokens with bias 0 (−∞ masks a token), and to all cached tokens."""
        n_heads = self.n_heads
        # Split, not indexed by head: the backward of indexing fills a tensor of zeros first.
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
    """Attention from the tokens of an image to the words of its caption."""

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
        """Attend from each sample's tokens to its own words, where the bias is 0."""
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
    # One complex product of adjacent pairs needs a third of the memory passes of real products.
    pair_BSGF = torch.view_as_complex(vector_BSGE.float().view(*vector_BSGE.shape[:-1], -1, 2))
    return torch.view_as_real(pair_BSGF * turn_SGF).flatten(-2)


def _by_head(vector_BSD: Tensor, n_heads: int) -> Tensor:
    return vector_BSD.view(*vector_BSD.shape[:2], n_heads, -1)


def _attend(query_BSHE: Tensor, key_BRHE: Tensor, value_BRHE: Tensor, bias: Tensor | None) -> Tensor:
    mixed_BHSE = functional.scaled_dot_product_attention(
        query_BSHE.transpose(1, 2), key_BRHE.transpose(1, 2), value_BRHE.transpose(1, 2), attn_mask=bias, scale=1.0
    )
    return mixed_BHSE.transpose(1, 2).flatten(2)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The inputs of a forward that all blocks share: positions, mask and caption."""

    turn_SGF: Complex[Tensor, "S G F"]
    bias_SS: Float[Tensor, "S S"] | None
    """Added to the attention logits: 0 where a token may attend, −∞ elsewhere."""
    text_BTD: Float[Tensor, "B T D"]
    text_bias: Float[Tensor, "B 1 1 T"]


class Block(nn.Module):
    """One transformer block: self-attention, cross-attention, feed-forward."""

    def __init__(self, config: StarConfig, drop_ratio: float) -> None:
        super().__init__()
        width = config.width
        self.drop_ratio, self.is_legacy = drop_ratio, config.is_legacy
        self.self_attention = SelfAttention(width, config.n_heads)
        self.cross_attention = CrossAttention(width, config.n_heads, text_dim=config.text_dim)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, hidden_BSD: Float[Tensor, "B S D"], around: Surroundings, cache: AttentionCache | None = None
    ) -> Float[Tensor, "B S D"]:
        """Add the three branches in turn; drop path never drops cross-attention."""
        mixed_BSD = self.self_attention(norm(hidden_BSD), around.turn_SGF, around.bias_SS, cache)
        hidden_BSD = hidden_BSD + self._maybe_drop(mixed_BSD)
        hidden_BSD = hidden_BSD + self._read_caption(norm(hidden_BSD), around, cache)
        inner_BSD = functional.gelu(self.feed_in(norm(hidden_BSD)), approximate="tanh")
        return hidden_BSD + self._maybe_drop(self.feed_out(inner_BSD))

    def _read_caption(self, normed_BSD: Tensor, around: Surroundings, cache: AttentionCache | None) -> Tensor:
        # The published code adds the first sample's row to the whole batch, and its weights were trained this way.
        rows = slice(0, 1) if self.is_legacy else slice(None)
        read: Tensor = self.cross_attention(normed_BSD[rows], around.text_BTD[rows], around.text_bias[rows], cache)
        return read

    def _maybe_drop(self, branch_BSD: Tensor) -> Tensor:
        if not self.training or not self.drop_ratio:
            return branch_BSD
        kept = 1 - self.drop_ratio
        keep_B11 = torch.empty(len(branch_BSD), 1, 1, device=branch_BSD.device).bernoulli_(kept)
        return branch_BSD * (keep_B11 / kept).type_as(branch_BSD)


def norm(hidden_BSD: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
    """Layer norm without learned parameters."""
    return functional.layer_norm(hidden_BSD, hidden_BSD.shape[-1:], eps=1e-6)


class Trunk(nn.Module):
    """The transformer of STAR. A token attends to no finer scale, and a sample to no other sample."""

    has_gradient_checkpointing = False
    """Whether training recomputes activations in the backward pass: less memory, a third more work."""
    level_S: Tensor
    mask_SS: Tensor
    turn_SGF2: Tensor

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.config = config
        self.n_first = config.scales[0] ** 2
        self.first_in = nn.Parameter(torch.zeros(1, self.n_first, config.width))
        self.token_in = nn.Linear(config.token_dim, config.width)
        self.text_in = nn.Linear(config.text_dim, config.width)
        self.level_in = nn.Embedding(len(config.scales), config.width)
        ratios = [config.drop_path_ratio * index / max(1, config.depth - 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, ratio) for ratio in ratios)
        turn_SF = rotary_turns(config.scales, config.width // config.n_heads)
        # Repeated for each head, because the product without broadcasting is three times as fast on a CPU.
        turn_SGF2 = torch.view_as_real(turn_SF)[:, None].repeat(1, 2 * config.n_heads, 1, 1)
        self.register_buffer("level_S", scale_index(config.scales), persistent=False)
        self.register_buffer("mask_SS", block_causal_mask(config.scales), persistent=False)
        self.register_buffer("turn_SGF2", turn_SGF2, persistent=False)
        self._initialise()

    def forward(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Run all scales of an image at once, teacher-forced; return the normed output."""
        return norm(self.hidden(input_BSD, text))

    def hidden(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Return the last block's output before the final norm, which the paper's rater pools."""
        first_BLE = self._first_tokens(text)
        hidden_BSE = torch.cat([first_BLE, self.token_in(input_BSD[:, self.n_first :].type_as(self.first_in))], 1)
        hidden_BSE = hidden_BSE + functional.embedding(self.level_S, self.level_in.weight)
        around = self._surroundings(text, slice(None), self.mask_SS)
        for block in self.blocks:
            if self.has_gradient_checkpointing and self.training:
                hidden_BSE = checkpoint(block, hidden_BSE, around, use_reentrant=False)
            else:
                hidden_BSE = block(hidden_BSE, around)
        return hidden_BSE

    def next_scale(
        self, scale: int, input_BLD: Float[Tensor, "B L D"] | None, text: TextFeatures, *, caches: list[AttentionCache]
    ) -> Float[Tensor, "B L E"]:
        """Run one scale after the coarser ones, which the caches hold; return its normed output.

        Args:
            scale: Index of the scale; scales must be run in order.
            input_BLD: The image so far, at this scale; None for the first.
            text: The captions.
            caches: One for each block, empty before the first scale.
        """
        start = sum(side**2 for side in self.config.scales[:scale])
        hidden_BLE = self._first_tokens(text) if input_BLD is None else self.token_in(input_BLD.type_as(self.first_in))
        hidden_BLE = hidden_BLE + self.level_in.weight[scale]
        around = self._surroundings(text, slice(start, start + hidden_BLE.shape[1]), None)
        for block, cache in zip(self.blocks, caches, strict=True):
            hidden_BLE = block(hidden_BLE, around, cache)
        return norm(hidden_BLE)

    def _first_tokens(self, text: TextFeatures) -> Tensor:
        first_BLE: Tensor = self.text_in(text.pooled_BD.type_as(self.first_in))[:, None] + self.first_in
        return first_BLE

    def _surroundings(self, text: TextFeatures, tokens: slice, mask_SS: Tensor | None) -> Surroundings:
        turn_SGF = torch.view_as_complex(self.turn_SGF2[tokens].float())
        text_BTD, text_bias = text.token_BTD.type_as(self.first_in), self._bias(text.mask_BT[:, None, None])
        return Surroundings(turn_SGF, None if mask_SS is None else self._bias(mask_SS), text_BTD, text_bias)

    def _bias(self, mask: Tensor) -> Tensor:
        # Computed once: attention would convert a boolean mask in every layer.
        return torch.zeros_like(mask, dtype=self.first_in.dtype).masked_fill_(~mask, -torch.inf)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise the weights as the published code does: equal variances, scaled down by depth in the last layers of branches.

        Source: STAR; VAR.
        """
        for module in self.modules():
            initialise(module, self.config.width)
        nn.init.trunc_normal_(self.first_in, std=_std(self.config.width))
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.self_attention.out, block.feed_out):
                last.weight /= math.sqrt(2 * self.config.depth)


def initialise(module: nn.Module, width: int) -> None:
    """Initialise a linear layer or a table by a truncated normal of variance 1/(3 width); biases are 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=_std(width))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _std(width: int) -> float:
    return math.sqrt(1 / (3 * width))


class Star(nn.Module):
    """The generator: a trunk and a head over the codes.

    Source: Ma et al. 2024 (STAR), on Tian et al. 2024 (VAR).
    """

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.head = nn.Linear(config.width, config.n_codes)
        initialise(self.head, config.width)
        with torch.no_grad():
            self.head.weight *= _FIRST_HEAD

    def forward(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, " B"]:
        """Return the loss of each sample."""
        return self.loss_per_sample(tokens, text)

    def hidden(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Return the last block's output before the final norm."""
        return self.trunk.hidden(input_BSD, text)

    def logits(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S V"]:
        """Return the logits of every token's code, teacher-forced."""
        logit_BSV: Tensor = self.head(self.trunk(input_BSD, text))
        return logit_BSV

    def matches(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Return the product, feature by feature, of each token's predicted vector and the vector of its code.

        It shows how an image matches its caption, not only how well: the sum over the features is the logit of the token's code.
        """
        expected_BSE: Tensor = self.trunk(tokens.input_BSD, text)
        return expected_BSE * functional.embedding(tokens.code_BS, self.head.weight)

    def loss_per_sample(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, " B"]:
        """Return each sample's cross-entropy in nats, averaged over its S tokens."""
        logit_BSV = self.logits(tokens.input_BSD, text)
        loss_BS = functional.cross_entropy(logit_BSV.flatten(0, 1), tokens.code_BS.flatten(), reduction="none")
        return loss_BS.view_as(tokens.code_BS).mean(1)
