"""The rater: a backbone that reads image and caption together, a head that scores each sample, and a head for each group.

Its caller passes the backbone. The rater is independent of the proxies and of the source of its inputs.

Letters: B samples in a batch · G softmax groups of a batch · S image tokens · E features.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.rating.config import RaterFeatures


class SampleRater(nn.Module, ABC):
    """A network that gives each sample a score, which does not depend on the batch composition; a higher score is a better sample."""

    @abstractmethod
    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Return each sample's score."""


class Rating(NamedTuple):
    """The rater's output for a batch."""

    score_B: Float[Tensor, " B"]
    """The instance logits: the score that is stored and ranked."""
    group_logit_G: Float[Tensor, " G"]
    """One logit for each softmax group; never part of a score."""


class Rater(SampleRater):
    """Scores samples. The heads always compute in fp32.

    The backbone has `matches(tokens, text)`, which returns how each image token matches the caption, or
    `hidden(input_BSD, text)`, which returns the output of its last block.
    """

    backbone: Any

    def __init__(
        self, backbone: nn.Module, width: int, *, reading: RaterFeatures = RaterFeatures.MATCH, hidden: int = 64
    ) -> None:
        super().__init__()
        self.backbone, self.reading = backbone, reading
        if reading is RaterFeatures.MATCH:
            self.token_head = nn.Linear(width, hidden)
            width = hidden
        self.instance_head = _head(width, hidden, approximate="tanh" if reading is RaterFeatures.HIDDEN else "none")
        self.group_head = _head(2 * width, hidden)

    def forward(self, tokens: Any, text: Any, n_groups: int = 1) -> Rating:
        """Rate each sample on its own, and each of `n_groups` equal groups by the mean and variance of its features."""
        feature_BE = self.features(tokens, text)
        # Detached, so that the group head does not train the features that scores are computed from.
        feature_GgE = feature_BE.detach().reshape(n_groups, -1, feature_BE.shape[1])
        group_G2E = torch.cat([feature_GgE.mean(1), feature_GgE.var(1, unbiased=False)], 1)
        with _full_precision(feature_BE):
            return Rating(self.instance_head(feature_BE).squeeze(-1), self.group_head(group_G2E).squeeze(-1))

    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Return each sample's score."""
        feature_BE = self.features(tokens, text)
        with _full_precision(feature_BE):
            score_B: Tensor = self.instance_head(feature_BE).squeeze(-1)
        return score_B

    def features(self, tokens: Any, text: Any) -> Float[Tensor, "B E"]:
        """Pool over the image tokens: one vector per sample, independent of all other samples.

        Source: Alchemist §3.2, the mean of the last block, for the feature `hidden`.
        """
        if self.reading is RaterFeatures.HIDDEN:
            hidden_BSE: Tensor = self.backbone.hidden(tokens.input_BSD, text)
            return hidden_BSE.float().mean(1)
        match_BSE = self.backbone.matches(tokens, text).float()
        with _full_precision(match_BSE):
            return functional.gelu(self.token_head(match_BSE)).mean(1)


def _full_precision(near: Tensor) -> torch.autocast:
    return torch.autocast(near.device.type, enabled=False)


def _head(width: int, hidden: int, approximate: str = "none") -> nn.Sequential:
    # The last layer starts at zero, so that all samples start with equal scores and all groups with equal weights.
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate), last)
