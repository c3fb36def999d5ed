"""From scores to weights: within a batch, and with the group's own weight; how uneven weights are.

Letters: B samples in a batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def batch_weights(score_B: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Weight the samples of a batch by their scores; the weights sum to 1.

    Source: Alchemist Eq. 7.
    Departs: the released code applies a sigmoid before and a second softmax after, which leaves every weight within 5% of
    uniform. The equation has one softmax of the logit.

    >>> batch_weights(torch.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return torch.softmax(score_B, 0)


def product_weights(weight_B: Float[Tensor, " B"], group_weight: Float[Tensor, ""]) -> Float[Tensor, " B"]:
    """Scale a batch's weights by its group weight.

    Source: Alchemist Eq. 10.
    Departs: no further 1/N, because the weights already sum to 1. Only the proxies' losses use the product, because the
    training loss of the rater would drive it to 0 under Eq. 9.

    >>> product_weights(torch.tensor([0.5, 0.5]), torch.tensor(0.5)).tolist()
    [0.25, 0.25]
    """
    return weight_B * group_weight


def effective_sample_size(weight_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return the number of equally weighted samples with the same variance: B if uniform, 1 if one-hot.

    Source: Kish 1965.

    >>> round(effective_sample_size(torch.tensor([0.25] * 4)).item(), 6)
    4.0
    """
    return weight_B.sum() ** 2 / (weight_B**2).sum()


def entropy(weight_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return the entropy of a group's weights in nats: log B if uniform, 0 if one-hot.

    >>> round(entropy(torch.tensor([0.25] * 4)).item(), 6)
    1.386294
    """
    nats: Tensor = torch.special.entr(weight_B).sum()
    return nats
