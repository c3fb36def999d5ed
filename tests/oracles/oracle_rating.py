"""Slow oracles of the paper's equations: float64, loops; they share no code with the product.

Each function computes its symbol in plain arithmetic.
"""

import math


def eq4_warmup(losses: list[float]) -> float:
    """Uniform mean of the training losses."""
    total = 0.0
    for loss in losses:
        total += loss
    return total / len(losses)


def eq5_proxy(validation: list[float], train: list[float], weights: list[float], penalty: float) -> float:
    """Mean validation loss plus the weighted training loss."""
    total = 0.0
    for loss in validation:
        total += loss / len(validation)
    for loss, weight in zip(train, weights, strict=True):
        total += penalty * weight * loss
    return total


def eq5_reference(train: list[float], weights: list[float]) -> float:
    total = 0.0
    for loss, weight in zip(train, weights, strict=True):
        total += weight * loss
    return total


def eq6_cost(loss: list[float], reference_loss: list[float]) -> list[float]:
    return [a - b for a, b in zip(loss, reference_loss, strict=True)]


def eq9_cost(loss: list[float]) -> list[float]:
    return list(loss)


def eq7_weights(scores: list[float]) -> list[float]:
    """exp(s_i) / Σ_j exp(s_j), one at a time."""
    return [math.exp(s) / sum(math.exp(other) for other in scores) for s in scores]


def eq10_weights(scores: list[float], group_logit: float) -> list[float]:
    group = 1 / (1 + math.exp(-group_logit))
    return [weight * group for weight in eq7_weights(scores)]


def eq10_value(scores: list[float], group_logit: float, costs: list[float]) -> float:
    total = 0.0
    for weight, cost in zip(eq10_weights(scores, group_logit), costs, strict=True):
        total += weight * cost
    return total


def bare_gradient(scores: list[float], costs: list[float]) -> list[float]:
    """d/ds_i Σ_j c_j W_j, by the softmax's Jacobian written out: W_j (1[i=j] − W_i)."""
    weights = eq7_weights(scores)
    gradient = []
    for i in range(len(scores)):
        total = 0.0
        for j in range(len(scores)):
            total += costs[j] * weights[j] * ((1.0 if i == j else 0.0) - weights[i])
        gradient.append(total)
    return gradient


def instance_value(scores: list[float], costs: list[float], price: float, drift_price: float) -> float:
    """Σ c W + λ Σ W log(N W) + ε (mean s)²."""
    weights, n = eq7_weights(scores), len(scores)
    total = drift_price * (sum(scores) / n) ** 2
    for weight, cost in zip(weights, costs, strict=True):
        total += cost * weight + price * weight * math.log(n * weight)
    return total


def instance_gradient(scores: list[float], costs: list[float], price: float, drift_price: float) -> list[float]:
    """The same, differentiated by hand: d/dW_j is c_j + λ (log(N W_j) + 1), then the softmax's Jacobian."""
    n = len(scores)
    slope = [c + price * (math.log(n * w) + 1) for c, w in zip(costs, eq7_weights(scores), strict=True)]
    mean = sum(scores) / n
    return [g + 2 * drift_price * mean / n for g in bare_gradient(scores, slope)]


def group_value(logit: float, batch_cost: float, baseline: float, price: float) -> float:
    """(m − b) W_b + λ_b KL(Bernoulli(W_b) ‖ ½)."""
    w = 1 / (1 + math.exp(-logit))
    return (batch_cost - baseline) * w + price * (w * math.log(w / 0.5) + (1 - w) * math.log((1 - w) / 0.5))


def group_gradient(logit: float, batch_cost: float, baseline: float, price: float) -> float:
    """d/dlogit: ((m − b) + λ_b logit) W_b (1 − W_b)."""
    w = 1 / (1 + math.exp(-logit))
    return ((batch_cost - baseline) + price * logit) * w * (1 - w)


def learnability(losses_before: list[float], losses_after: list[float]) -> list[float]:
    """RHO-LOSS: what the loss fell by."""
    return [before - after for before, after in zip(losses_before, losses_after, strict=True)]


def pmi(own: str, losses: dict[str, float], others: list[str]) -> float:
    """Mean loss of an image under the other captions, without its own, less its loss under its own."""
    total, n = 0.0, 0
    for caption in others:
        if caption != own:
            total += losses[caption]
            n += 1
    return total / n - losses[own]
