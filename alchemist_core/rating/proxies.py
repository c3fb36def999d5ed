"""What the two proxies descend. The models that make the losses are not known here.

Letters: B samples in a batch · A samples in the validation batch.
"""

from jaxtyping import Float
from torch import Tensor


def warmup_objective(loss_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Average the training losses uniformly, before any rater has a say.

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
    """Add the re-weighted training loss to the validation loss: the step of θ.

    Source: Alchemist Eq. 5.
    Departs: with a share of its own for validation data the step is SEAL's; the equation has 1.
    """
    return validation_share * validation_loss_A.mean() + penalty * reference_objective(loss_B, weight_B)


def seal_shares(epoch: int, *, decay: float = 0.03) -> tuple[float, float]:
    """Share a proxy's step between validation and training data: all to the former at first, less with each epoch.

    Source: SEAL (Shen et al. 2024), `upperlevel_weight`; the released Alchemist code trains so, which leaves its training
    term at most .27 of a step in ten epochs.

    Args:
        epoch: Passes over the validation data so far, from 0.
        decay: What the validation data lose with each.

    >>> tuple(round(share, 2) for share in seal_shares(9))
    (0.73, 0.27)
    """
    validation = max(0.0, 1 - decay * epoch)
    return validation, 1 - validation


def reference_objective(loss_B: Float[Tensor, " B"], weight_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Weigh the training loss alone: the step of θ̂, which tracks the model that never sees validation data.

    Source: Alchemist Eq. 5.
    Departs: the paper prints Eq. 4's uniform loss; its own text and the penalty method's derivation re-weigh it.
    """
    return (weight_B.detach() * loss_B).sum()
