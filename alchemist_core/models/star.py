"""STAR, tiny: a transformer that predicts the codes of one scale from the image so far and the caption, all in parallel.

Between scales it is causal, within a scale it is not. It is proxy, downstream model and the rater's backbone. Tokenizer and
text encoder are frozen and stand outside.

Letters: B samples in a batch · S tokens over all scales · T text tokens · D features · V codebook size · H attention heads.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.config import StarConfig
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself or to a text, each sample to its own."""

    def __init__(self, width: int, n_heads: int, *, context_dim: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_dim, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        hidden_BSD: Float[Tensor, "B S D"],
        context_BTD: Float[Tensor, "B T E"],
        mask: Bool[Tensor, "..."],
    ) -> Float[Tensor, "B S D"]:
        """Mix the context into the sequence; a position of the context is seen where the mask is true."""
        query_BHSD = self._by_head(self.query(hidden_BSD))
        key_BTD, value_BTD = self.key_value(context_BTD).view(*context_BTD.shape[:2], 2, -1).unbind(-2)
        mixed_BHSD = functional.scaled_dot_product_attention(
            query_BHSD, self._by_head(key_BTD), self._by_head(value_BTD), attn_mask=mask
        )
        out_BSD: Tensor = self.out(mixed_BHSD.transpose(1, 2).flatten(2))
        return out_BSD

    def _by_head(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD.view(*hidden_BSD.shape[:2], self.n_heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, cross-attention to the caption, and a feed-forward, each after an affine-free norm."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attention = Attention(width, config.n_heads, context_dim=width)
        self.cross_attention = Attention(width, config.n_heads, context_dim=config.text_dim)
        self.feed_in, self.feed_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        hidden_BSD: Float[Tensor, "B S D"],
        text: TextFeatures,
        mask_SS: Bool[Tensor, "S S"],
    ) -> Float[Tensor, "B S D"]:
        """Refine the sequence once."""
        normed_BSD = _norm(hidden_BSD)
        hidden_BSD = hidden_BSD + self.self_attention(normed_BSD, normed_BSD, mask_SS)
        hidden_BSD = hidden_BSD + self.cross_attention(_norm(hidden_BSD), text.token_BTD, text.mask_BT[:, None, None])
        inner_BSD = functional.gelu(self.feed_in(_norm(hidden_BSD)))
        out_BSD: Tensor = hidden_BSD + self.feed_out(inner_BSD)
        return out_BSD


class Trunk(nn.Module):
    """Blocks over the tokens of all scales, with a learned place for each and the pooled caption added to every one."""

    level_S: Tensor
    mask_SS: Tensor

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        side_S = torch.tensor([side for side in config.scales for _ in range(side**2)])
        self.level_in = nn.Parameter(torch.zeros(len(config.scales), config.width))
        self.place_SD = nn.Parameter(torch.zeros(len(side_S), config.width))
        self.token_in = nn.Linear(config.token_dim, config.width)
        self.text_in = nn.Linear(config.text_dim, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        level_S = torch.searchsorted(torch.tensor(config.scales), side_S)
        self.register_buffer("level_S", level_S, persistent=False)
        self.register_buffer("mask_SS", side_S[:, None] >= side_S[None, :], persistent=False)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.place_SD, std=0.02)

    def forward(self, token_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Read tokens with their caption; a sample never sees another's."""
        place_SD = self.place_SD + self.level_in[self.level_S]
        hidden_BSD = self.token_in(token_BSD) + place_SD + self.text_in(text.pooled_BD)[:, None]
        for block in self.blocks:
            hidden_BSD = block(hidden_BSD, text, self.mask_SS)
        return _norm(hidden_BSD)


class Star(nn.Module):
    """The generator: a causal trunk and a head over the codes."""

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.head = nn.Linear(config.width, config.n_codes)
        _initialise(self.head)

    def forward(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, " B"]:
        """Give the loss of each sample; what a training loop calls."""
        return self.loss_per_sample(tokens, text)

    def logits(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S V"]:
        """Give the logits of every token's code, teacher-forced."""
        logit_BSV: Tensor = self.head(self.trunk(input_BSD, text))
        return logit_BSV

    def matches(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Multiply what is expected of each token by its code's own vector: how, not only how well, image meets caption.

        Summed over the features this is the logit of the token's code.
        """
        expected_BSE: Tensor = self.trunk(tokens.input_BSD, text)
        return expected_BSE * self.head.weight[tokens.code_BS]

    def loss_per_sample(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, " B"]:
        """Give each sample's cross-entropy in nats, averaged over its S tokens."""
        logit_BSV = self.logits(tokens.input_BSD, text)
        loss_BS = functional.cross_entropy(logit_BSV.flatten(0, 1), tokens.code_BS.flatten(), reduction="none")
        return loss_BS.view_as(tokens.code_BS).mean(1)


def _norm(hidden_BSD: Tensor) -> Tensor:
    return functional.layer_norm(hidden_BSD, hidden_BSD.shape[-1:], eps=1e-6)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=(1 / (3 * module.in_features)) ** 0.5)
        nn.init.zeros_(module.bias)
