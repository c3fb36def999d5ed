"""The trunk of STAR: blocks over the tokens of all scales. The generator puts a head on it, the paper's rater its own two.

Letters: B samples in a batch · S tokens over all scales · L tokens of one scale · D features of an input token · E features inside
· G heads of queries and keys · F pairs of features of a head.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from alchemist_core.models.attention import AttentionCache
from alchemist_core.models.blocks import Block, Surroundings, norm
from alchemist_core.models.config import StarConfig
from alchemist_core.models.positions import block_causal_mask, rotary_turns, scale_index
from alchemist_core.models.text import TextFeatures


class Trunk(nn.Module):
    """Reads an image scale by scale with its caption; a token never sees a finer scale, nor a sample another."""

    has_gradient_checkpointing = False
    """Whether training keeps only each block's input and computes the rest again: less memory, a third more work."""
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
        ratios = torch.linspace(0, config.drop_path_ratio, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, ratio) for ratio in ratios)
        turn_SF = rotary_turns(config.scales, config.width // config.n_heads)
        # Written out for each head: a product without broadcasting inside a sample is three times faster on a CPU.
        turn_SGF2 = torch.view_as_real(turn_SF)[:, None].repeat(1, 2 * config.n_heads, 1, 1)
        self.register_buffer("level_S", scale_index(config.scales), persistent=False)
        self.register_buffer("mask_SS", block_causal_mask(config.scales), persistent=False)
        self.register_buffer("turn_SGF2", turn_SGF2, persistent=False)
        self._initialise()

    def forward(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Read all scales of an image at once, teacher-forced, and norm what comes out."""
        return norm(self.hidden(input_BSD, text))

    def hidden(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Give the last block's output before the final norm, which the paper's rater pools."""
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
        """Read one scale after the coarser ones, which the caches remember; give its normed output.

        Args:
            scale: Its number from 0; scales must come in order.
            input_BLD: The image so far, at this scale; none for the first.
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
        # Attention would turn a mask of booleans into this once in every layer.
        return torch.zeros_like(mask, dtype=self.first_in.dtype).masked_fill_(~mask, -torch.inf)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw the first weights as the published code does: one width for all, the branches' last layers by depth.

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
    """Draw the weights of a linear layer or table from a truncated normal of variance 1/(3 width); biases start at 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=_std(width))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _std(width: int) -> float:
    return math.sqrt(1 / (3 * width))
