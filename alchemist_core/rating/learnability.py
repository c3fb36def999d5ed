"""The scoring rule `learnability`: the score of a sample is how far validation data alone lowered its loss under a proxy.

Letters: B samples in a batch.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from alchemist_core.rating.rater import SampleRater


class LearnabilityRater(SampleRater):
    """Two copies of one proxy: after the warm-up, and after further training on validation data only.

    A sample scores high if validation data taught the proxy to predict it. Plain samples score low, because their loss was low
    before; chaotic or mislabelled samples score low, because their loss stays high. A model returns the loss of each sample.

    Source: Mindermann et al. 2022 (RHO-LOSS), Evans et al. 2024 (JEST).
    Departs: theirs compare the model in training with one that never saw its data. Here both start from the warmed-up proxy, so
    that they differ by the validation data only.
    """

    def __init__(self, before: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = before, after

    def score(self, tokens: Any, text: Any) -> Float[Tensor, " B"]:
        """Return how far each sample's loss fell, in nats per token; a sample's score does not depend on the batch composition."""
        fell_B: Tensor = self.before(tokens, text) - self.after(tokens, text)
        return fell_B.float()
