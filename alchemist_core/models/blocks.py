"""One block of the transformer: attention to itself, to its caption, and a feed-forward, each after an affine-free norm.

Letters: B samples in a batch · S tokens · T text tokens · D features · G heads of queries and keys · F pairs of a head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.attention import AttentionCache, CrossAttention, SelfAttention
from alchemist_core.models.config import StarConfig


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the tokens of a forward may read besides themselves: the same for every block."""

    turn_SGF: Complex[Tensor, "S G F"]
    bias_SS: Float[Tensor, "S S"] | None
    """Added to what attention scores: 0 where a token may read, −∞ where not."""
    text_BTD: Float[Tensor, "B T D"]
    text_bias: Float[Tensor, "B 1 1 T"]


class Block(nn.Module):
    """Refines every token once."""

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
        """Add the three branches in turn; the caption's is never dropped."""
        mixed_BSD = self.self_attention(norm(hidden_BSD), around.turn_SGF, around.bias_SS, cache)
        hidden_BSD = hidden_BSD + self._maybe_drop(mixed_BSD)
        hidden_BSD = hidden_BSD + self._read_caption(norm(hidden_BSD), around, cache)
        inner_BSD = functional.gelu(self.feed_in(norm(hidden_BSD)), approximate="tanh")
        return hidden_BSD + self._maybe_drop(self.feed_out(inner_BSD))

    def _read_caption(self, normed_BSD: Tensor, around: Surroundings, cache: AttentionCache | None) -> Tensor:
        # The published code adds the first sample's row to all of a batch; its weights were trained so.
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
    """Centre and scale each token's features; nothing learned."""
    return functional.layer_norm(hidden_BSD, hidden_BSD.shape[-1:], eps=1e-6)
