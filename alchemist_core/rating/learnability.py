"""Scores without a network that was trained to give them: what validation data alone taught a proxy about each pair.

Letters: B samples in a batch.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from alchemist_core.rating.rater import SampleRater


class LearnabilityRater(SampleRater):
    """Two copies of one proxy: as the warm-up left it, and after it went on with validation data alone.

    What it only half knows and learns from good data scores high; what is plain was known before, what is chaotic or mislabelled
    stays unknown after: both score low. A model gives a loss for each sample.

    Source: Mindermann et al. 2022 (RHO-LOSS), Evans et al. 2024 (JEST).
    Departs: theirs compare the model in training with one that never saw its data; here both begin as the warmed-up proxy, so
    that their difference is what the validation data did and nothing else.
    """

    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = before, after

    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Score a batch, each pair on its own: by how many nats a token its loss fell."""
        fell_B: Tensor = self.before(tokens, text) - self.after(tokens, text)
        return fell_B.float()
