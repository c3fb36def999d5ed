"""The scoring rule `pmi`: the score of a sample is how much better one proxy predicts its image from its own caption than from others.

Letters: B samples in a batch · K other captions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mutual_information(
    loss_B: Float[Tensor, " B"], other_losses: Sequence[Float[Tensor, " B"]], is_other: Sequence[Bool[Tensor, " B"]]
) -> Float[Tensor, " B"]:
    """Return the mean loss of each image under other captions less its loss under its own, in nats per token.

    Wrong captions score about 0, because they are as good as any other; so do images that every caption predicts equally well. All losses
    of a sample are of the same tokens, so that what the image alone costs cancels.

    Source: Church and Hanks 1990 (pointwise mutual information), log p(x | y) − log p(x), with p(x) from other captions.
    Departs: the mean of the losses instead of the logarithm of the mean probability, which one lucky caption would decide.

    Args:
        loss_B: Losses under the own captions.
        other_losses: Losses under each of the K other captions.
        is_other: Where each of them differs from the own caption; one that does not is left out. At least one must differ.
    """
    total_B, n_B = torch.zeros_like(loss_B), torch.zeros_like(loss_B)
    # Added one by one: a sum over a table may depend on a sample's place in the batch, and the bits of a score must not.
    for other_loss_B, is_other_B in zip(other_losses, is_other, strict=True):
        total_B = total_B + other_loss_B.where(is_other_B, 0)
        n_B = n_B + is_other_B
    return total_B / n_B - loss_B
