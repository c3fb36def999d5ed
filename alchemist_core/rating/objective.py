"""The training loss of the rater: a regularised objective for each head, and the paper's own objective for comparison.

A sample's cost is what its scoring rule gives (`rating.rules`): by default the advantage c = L(θ) − L(θ̂). Costs carry no gradient:
with a gradient through the baseline the whole gradient would be zero.

Letters: B samples in a batch.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from alchemist_core.rating.weights import batch_weights, product_weights


def instance_objective(
    score_B: Float[Tensor, " B"], cost_B: Float[Tensor, " B"], *, price: float, drift_price: float
) -> Float[Tensor, ""]:
    """Return the weighted cost of a batch plus price × KL(W ‖ uniform).

    At its minimum a score is −E[c | sample] / price, up to one constant: the expected advantage, independent of the batch composition.

    Source: Alchemist Eq. 6.
    Departs: Σ c W alone has no minimum, so its weights sharpen without end; the Kullback-Leibler term gives it one.

    Args:
        score_B: Instance logits, with gradient.
        cost_B: Cost of each sample in nats.
        price: Weight of KL(W ‖ uniform): the nats of cost that one nat of divergence must save.
        drift_price: Weight of the squared mean logit, which only fixes the free constant.
    """
    log_weight_B = torch.log_softmax(score_B, 0)
    weight_B = log_weight_B.exp()
    divergence = (weight_B * (log_weight_B + math.log(len(score_B)))).sum()
    return (cost_B.detach() * weight_B).sum() + price * divergence + drift_price * score_B.mean() ** 2


def group_objective(
    group_logit: Float[Tensor, ""], batch_cost: Float[Tensor, ""], *, baseline: float, price: float
) -> Float[Tensor, ""]:
    """Return the group-weighted cost of a batch above its running mean, plus price × KL(group weight ‖ ½).

    At its minimum the group weight is σ(−(batch_cost − baseline) / price).

    Source: Alchemist Eq. 10.
    Departs: the product of both heads collapses to 0 under Eq. 9, so the group head has an objective of its own.
    """
    group_weight = torch.sigmoid(group_logit)
    log_on = torch.nn.functional.logsigmoid(group_logit)
    log_off = torch.nn.functional.logsigmoid(-group_logit)
    divergence = group_weight * log_on + (1 - group_weight) * log_off + math.log(2)
    return (batch_cost.detach() - baseline) * group_weight + price * divergence


def paper_objective(
    score_B: Float[Tensor, " B"], group_logit: Float[Tensor, ""], cost_B: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the paper's own objective: the cost weighted by the product of both heads.

    Source: Alchemist Eq. 10.
    """
    weight_B = product_weights(batch_weights(score_B), torch.sigmoid(group_logit))
    return (cost_B.detach() * weight_B).sum()


def running_mean(mean: float, value: float, factor: float) -> float:
    """Update a running mean by one value; the past keeps the weight `factor`.

    >>> running_mean(1.0, 0.0, 0.98)
    0.98
    """
    return factor * mean + (1 - factor) * value


def sharpness_price(spread: float, *, kl_weight: float, price_floor: float) -> float:
    """Return the KL weight: proportional to the running spread of costs, so that scores keep their scale as losses fall.

    >>> sharpness_price(0.5, kl_weight=0.2, price_floor=1e-3)
    0.1
    """
    return max(kl_weight * spread, price_floor)
