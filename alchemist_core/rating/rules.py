"""The scoring rules `alignment` and `loss`: each gives a sample a cost, and a low cost is good. No cost carries a gradient.

Letters: B samples in a batch.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from alchemist_core.rating.config import ScoringRule


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


# What the costs are made of: the losses under the proxy and under the reference.
_COSTS: dict[ScoringRule, Callable[[Tensor, Tensor], Tensor]] = {
    ScoringRule.ALIGNMENT: alignment_cost,
    ScoringRule.LOSS: lambda loss_B, _reference_loss_B: loss_cost(loss_B),
}


def sample_cost(
    rule: ScoringRule, loss_B: Float[Tensor, " B"], reference_loss_B: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return each sample's cost by the run's scoring rule."""
    return _COSTS[rule](loss_B, reference_loss_B)
