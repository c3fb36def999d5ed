"""The two rules by which a sample is valued: c, one number a sample; low is good. Nothing here carries a gradient.

Letters: B samples in a batch.
"""

from jaxtyping import Float
from torch import Tensor

from alchemist_core.rating.config import RatingRule


def alignment_cost(loss_B: Float[Tensor, " B"], reference_loss_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Compare a sample's loss under the proxy, which sees validation data, with that under the reference.

    Low where learning the validation data also taught the sample. The rater descends Σ c W, so its score rises there.

    Source: Alchemist Eq. 6.
    """
    return (loss_B - reference_loss_B).detach()


def loss_cost(loss_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Take the proxy's loss alone: Eq. 6 where the reference's losses are equal within the batch.

    Source: Alchemist Eq. 9.
    """
    return loss_B.detach()


def sample_cost(
    rule: RatingRule, loss_B: Float[Tensor, " B"], reference_loss_B: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Value a batch by the rule that the run was given."""
    return alignment_cost(loss_B, reference_loss_B) if rule is RatingRule.ALIGNMENT else loss_cost(loss_B)
