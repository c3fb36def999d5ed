"""What the rater's heads descend: the regularised objectives, and the paper's bare one for comparison.

Costs come in detached. A baseline that is not detached would make the whole gradient zero.

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
    """Give the weighted cost of a batch plus the price of weighing it unevenly.

    At its minimum a score is −E[c | sample] / price, up to one constant: the expected advantage, in any company.

    Source: Alchemist Eq. 6.
    Departs: the bare Σ c W has no minimum, it sharpens for ever; the Kullback-Leibler term gives it one.

    Args:
        score_B: Instance logits, with gradient.
        cost_B: c of each sample in nats.
        price: Nats of cost that one nat of divergence from uniform weights must earn.
        drift_price: Price of the mean logit's square, which only holds the free constant in place.
    """
    log_weight_B = torch.log_softmax(score_B, 0)
    weight_B = log_weight_B.exp()
    divergence = (weight_B * (log_weight_B + math.log(len(score_B)))).sum()
    return (cost_B.detach() * weight_B).sum() + price * divergence + drift_price * score_B.mean() ** 2


def group_objective(
    group_logit: Float[Tensor, ""], batch_cost: Float[Tensor, ""], *, baseline: float, price: float
) -> Float[Tensor, ""]:
    """Give the cost of trusting a batch, against its running mean, plus the price of being sure.

    At its minimum the group weight is σ(−(m − b) / price).

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
    """Give the paper's own objective: the cost weighted by the product of both heads.

    Source: Alchemist Eq. 10.
    """
    weight_B = product_weights(batch_weights(score_B), torch.sigmoid(group_logit))
    return (cost_B.detach() * weight_B).sum()


def running_mean(mean: float, value: float, factor: float) -> float:
    """Move a running mean one step: the past keeps `factor` of its say.

    >>> running_mean(1.0, 0.0, 0.98)
    0.98
    """
    return factor * mean + (1 - factor) * value


def sharpness_price(spread: float, *, price_ratio: float, price_floor: float) -> float:
    """Set the price of uneven weights from the running spread of c, so that scores keep one scale as losses fall.

    >>> sharpness_price(0.5, price_ratio=0.2, price_floor=1e-3)
    0.1
    """
    return max(price_ratio * spread, price_floor)
