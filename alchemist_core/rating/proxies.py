"""The training losses of the two proxies θ and θ̂, computed from each sample's loss.

Letters: B samples in a batch · A samples in the validation batch.
"""

from jaxtyping import Float
from torch import Tensor


def warmup_objective(loss_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Average the training losses uniformly: the warm-up, before the rater weights samples.

    Source: Alchemist Eq. 4.
    """
    return loss_B.mean()


def proxy_objective(
    validation_loss_A: Float[Tensor, " A"],
    loss_B: Float[Tensor, " B"],
    weight_B: Float[Tensor, " B"],
    *,
    penalty: float = 1.0,
    validation_share: float = 1.0,
) -> Float[Tensor, ""]:
    """Add the re-weighted training loss to the validation loss: the training loss of θ.

    Source: Alchemist Eq. 5.
    Departs: `validation_share` is SEAL's; the equation has 1.
    """
    return validation_share * validation_loss_A.mean() + penalty * reference_objective(loss_B, weight_B)


def seal_shares(epoch: int, *, decay: float = 0.03) -> tuple[float, float]:
    """Return the shares of validation and training data in a proxy's step: all validation at first, less with each epoch.

    Source: SEAL (Shen et al. 2024), `upperlevel_weight`; the released Alchemist code does this, so its training
    term is at most 0.27 of a step within ten epochs.

    Args:
        epoch: Passes over the validation data so far, from 0.
        decay: Decrease of the validation share per epoch.

    >>> tuple(round(share, 2) for share in seal_shares(9))
    (0.73, 0.27)
    """
    validation = max(0.0, 1 - decay * epoch)
    return validation, 1 - validation


def reference_objective(loss_B: Float[Tensor, " B"], weight_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Re-weight the training loss alone: the training loss of θ̂, the model that never sees validation data.

    Source: Alchemist Eq. 5.
    Departs: the paper prints Eq. 4's uniform loss; its text and the derivation of the penalty method re-weight it.
    """
    return (weight_B.detach() * loss_B).sum()
