"""The scoring rules `alignment` and `loss`: each gives a sample a cost, and a low cost is good. No cost carries a gradient.

Letters: B samples in a batch.
"""

from jaxtyping import Float
from torch import Tensor

from alchemist_core.rating.config import RatingRule


def alignment_cost(loss_B: Float[Tensor, " B"], reference_loss_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the advantage c = L(θ) − L(θ̂): the loss under the proxy, which sees validation data, minus that under the reference.

    It is low where learning the validation data also taught the sample. The training loss of the rater is Σ c W, so the score is
    high there.

    Source: Alchemist Eq. 6.
    """
    return (loss_B - reference_loss_B).detach()


def loss_cost(loss_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the proxy's loss. It equals Eq. 6 where the reference's losses are equal within the batch.

    Source: Alchemist Eq. 9.
    """
    return loss_B.detach()


def sample_cost(
    rule: RatingRule, loss_B: Float[Tensor, " B"], reference_loss_B: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return each sample's cost by the run's scoring rule."""
    return alignment_cost(loss_B, reference_loss_B) if rule is RatingRule.ALIGNMENT else loss_cost(loss_B)
