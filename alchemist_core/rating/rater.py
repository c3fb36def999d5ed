"""The rater: a trunk that reads image and caption together, a head for each sample and one for the batch.

It is handed its trunk and knows neither the models that value samples nor where its inputs come from.

Letters: B samples in a batch · S image tokens · D features.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rating(NamedTuple):
    """What the rater says of a batch."""

    score_B: Float[Tensor, " B"]
    """The instance logits: the score that is stored and ranked."""
    group_logit: Float[Tensor, ""]
    """Of the batch as a whole; never part of a score."""


class Rater(nn.Module):
    """Scores pairs; in fp32 whatever the trunk computes in."""

    def __init__(self, trunk: nn.Module, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.trunk = trunk
        self.instance_head = _head(width, hidden)
        self.group_head = _head(2 * width, hidden)

    def forward(self, seen_BSD: Float[Tensor, "B S D"], text: Any) -> Rating:  # noqa: ANN401  the trunk's own text type
        """Rate a batch: each sample by itself, and the batch by the mean and variance of its features."""
        feature_BD = self.features(seen_BSD, text)
        # Detached: a property of the whole batch must not shape what each sample is scored by.
        group_2D = torch.cat([feature_BD.mean(0), feature_BD.var(0, unbiased=False)]).detach()
        return Rating(self.instance_head(feature_BD).squeeze(-1), self.group_head(group_2D).squeeze(-1))

    def score(self, seen_BSD: Float[Tensor, "B S D"], text: Any) -> Float[Tensor, " B"]:  # noqa: ANN401  as above
        """Score a batch, each pair on its own."""
        score_B: Tensor = self.instance_head(self.features(seen_BSD, text)).squeeze(-1)
        return score_B

    def features(self, seen_BSD: Float[Tensor, "B S D"], text: Any) -> Float[Tensor, "B D"]:  # noqa: ANN401  as above
        """Pool the trunk's tokens: one vector a pair, no other pair in it."""
        feature_BD: Tensor = self.trunk(seen_BSD, text).mean(1).float()
        return feature_BD


def _head(width: int, hidden: int) -> nn.Sequential:
    # The last layer starts at zero: every sample begins with the same score and every batch with the same weights.
    head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, 1))
    nn.init.zeros_(head[2].weight)
    nn.init.zeros_(head[2].bias)
    return head
