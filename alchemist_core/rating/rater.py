"""The rater: a backbone that reads image and caption together, a head for each sample and one for each group of them.

It is handed its backbone and knows neither the models that value samples nor where its inputs come from.

Letters: B samples in a batch · G softmax groups of a batch · S image tokens · E features.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.rating.config import RaterReading


class SampleRater(nn.Module, ABC):
    """What gives each pair one number, the same in any company; higher is worth more."""

    @abstractmethod
    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Score a batch, each pair on its own."""


class Rating(NamedTuple):
    """What the rater says of a batch."""

    score_B: Float[Tensor, " B"]
    """The instance logits: the score that is stored and ranked."""
    group_logit_G: Float[Tensor, " G"]
    """Of each softmax group as a whole; never part of a score."""


class Rater(SampleRater):
    """Scores pairs; heads in fp32 whatever the backbone computes in.

    The backbone answers `matches(tokens, text)`, features of every image token that tell how it meets the caption, or
    `hidden(input_BSD, text)`, what its last block gives.
    """

    backbone: Any

    def __init__(
        self, backbone: nn.Module, width: int, *, reading: RaterReading = RaterReading.MATCHES, hidden: int = 64
    ) -> None:
        super().__init__()
        self.backbone, self.reading = backbone, reading
        if reading is RaterReading.MATCHES:
            self.token_head = nn.Linear(width, hidden)
            width = hidden
        self.instance_head = _head(width, hidden, approximate="tanh" if reading is RaterReading.HIDDEN else "none")
        self.group_head = _head(2 * width, hidden)

    def forward(self, tokens: Any, text: Any, n_groups: int = 1) -> Rating:
        """Rate a batch: each sample by itself, and each of its equal parts by the mean and variance of its features."""
        feature_BE = self.features(tokens, text)
        # Detached: a property of the whole group must not shape what each sample is scored by.
        feature_GgE = feature_BE.detach().reshape(n_groups, -1, feature_BE.shape[1])
        group_G2E = torch.cat([feature_GgE.mean(1), feature_GgE.var(1, unbiased=False)], 1)
        with _full_precision(feature_BE):
            return Rating(self.instance_head(feature_BE).squeeze(-1), self.group_head(group_G2E).squeeze(-1))

    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Score a batch, each pair on its own."""
        feature_BE = self.features(tokens, text)
        with _full_precision(feature_BE):
            score_B: Tensor = self.instance_head(feature_BE).squeeze(-1)
        return score_B

    def features(self, tokens: Any, text: Any) -> Float[Tensor, "B E"]:
        """Pool over the image tokens: one vector a pair, no other pair in it.

        Source: Alchemist §3.2, the mean of the last block, for the reading `hidden`.
        """
        if self.reading is RaterReading.HIDDEN:
            hidden_BSE: Tensor = self.backbone.hidden(tokens.input_BSD, text)
            return hidden_BSE.float().mean(1)
        match_BSE = self.backbone.matches(tokens, text).float()
        with _full_precision(match_BSE):
            return functional.gelu(self.token_head(match_BSE)).mean(1)


def _full_precision(near: Tensor) -> torch.autocast:
    return torch.autocast(near.device.type, enabled=False)


def _head(width: int, hidden: int, approximate: str = "none") -> nn.Sequential:
    # The last layer starts at zero: every sample begins with the same score and every group with the same weight.
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate), last)
