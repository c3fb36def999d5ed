"""The rater: a backbone that reads image and caption together, a head for each sample and one for the batch.

It is handed its backbone and knows neither the models that value samples nor where its inputs come from.

Letters: B samples in a batch · S image tokens · E features.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Rating(NamedTuple):
    """What the rater says of a batch."""

    score_B: Float[Tensor, " B"]
    """The instance logits: the score that is stored and ranked."""
    group_logit: Float[Tensor, ""]
    """Of the batch as a whole; never part of a score."""


class Rater(nn.Module):
    """Scores pairs; heads in fp32 whatever the backbone computes in.

    The backbone answers `matches(tokens, text)`: features of every image token that tell how it meets the caption.
    """

    backbone: Any

    def __init__(self, backbone: nn.Module, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.token_head = nn.Linear(width, hidden)
        self.instance_head = _head(hidden)
        self.group_head = _head(2 * hidden)

    def forward(self, tokens: Any, text: Any) -> Rating:
        """Rate a batch: each sample by itself, and the batch by the mean and variance of its features."""
        feature_BE = self.features(tokens, text)
        # Detached: a property of the whole batch must not shape what each sample is scored by.
        group_2E = torch.cat([feature_BE.mean(0), feature_BE.var(0, unbiased=False)]).detach()
        return Rating(self.instance_head(feature_BE).squeeze(-1), self.group_head(group_2E).squeeze(-1))

    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Score a batch, each pair on its own."""
        score_B: Tensor = self.instance_head(self.features(tokens, text)).squeeze(-1)
        return score_B

    def features(self, tokens: Any, text: Any) -> Float[Tensor, "B E"]:
        """Pool the matches of image and caption: one vector a pair, no other pair in it."""
        match_BSE = self.backbone.matches(tokens, text).float()
        return functional.gelu(self.token_head(match_BSE)).mean(1)


def _head(width: int, hidden: int = 64) -> nn.Sequential:
    # The last layer starts at zero: every sample begins with the same score and every batch with the same weights.
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)
