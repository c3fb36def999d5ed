"""STAR: predicts the codes of one scale from the image so far and the caption, all in parallel. One class for all sizes.

Between scales it is causal, within a scale it is not. It is proxy, downstream model and the rater's backbone. Tokenizer and
text encoder are frozen and stand outside.

Letters: B samples in a batch · S tokens over all scales · D features of an input token · E features inside · V codebook size.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from alchemist_core.models.config import StarConfig
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.models.trunk import Trunk, initialise

__all__ = ["Star", "Trunk"]

# Published: the head's first weights are this much smaller than all others, so that every code is as likely at first.
_FIRST_HEAD = 0.02


class Star(nn.Module):
    """The generator: a causal trunk and a head over the codes.

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
        """Give the loss of each sample; what a training loop calls."""
        return self.loss_per_sample(tokens, text)

    def hidden(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Give the last block's output before the final norm."""
        return self.trunk.hidden(input_BSD, text)

    def logits(self, input_BSD: Float[Tensor, "B S D"], text: TextFeatures) -> Float[Tensor, "B S V"]:
        """Give the logits of every token's code, teacher-forced."""
        logit_BSV: Tensor = self.head(self.trunk(input_BSD, text))
        return logit_BSV

    def matches(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, "B S E"]:
        """Multiply what is expected of each token by its code's own vector: how, not only how well, image meets caption.

        Summed over the features this is the logit of the token's code.
        """
        expected_BSE: Tensor = self.trunk(tokens.input_BSD, text)
        return expected_BSE * functional.embedding(tokens.code_BS, self.head.weight)

    def loss_per_sample(self, tokens: ImageTokens, text: TextFeatures) -> Float[Tensor, " B"]:
        """Give each sample's cross-entropy in nats, averaged over its S tokens."""
        logit_BSV = self.logits(tokens.input_BSD, text)
        loss_BS = functional.cross_entropy(logit_BSV.flatten(0, 1), tokens.code_BS.flatten(), reduction="none")
        return loss_BS.view_as(tokens.code_BS).mean(1)
