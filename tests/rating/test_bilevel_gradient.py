"""The rater's step on a bilevel problem of two parameters, against finite differences of the penalty itself.

Inner problem: one number θ is fitted to weighted targets; outer: it should fit another target. Both have closed forms in
float64, so the penalty F(μ) = Σ W_i [L_i(θ) − L_i(θ̂(μ))] can be differentiated by brute force.
"""

import pytest
import torch

from alchemist_core.rating.objective import paper_objective
from alchemist_core.rating.rules import alignment_cost
from alchemist_core.rating.weights import batch_weights

TARGET_B = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
FEATURE_B2 = torch.tensor([[1.0, 0.2], [-0.5, 1.0], [0.3, -0.7]], dtype=torch.float64)
VALIDATION_TARGET = 1.5


def losses(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter - TARGET_B) ** 2


def weights(rater_2: torch.Tensor) -> torch.Tensor:
    return batch_weights(FEATURE_B2 @ rater_2)


def fitted_reference(rater_2: torch.Tensor) -> torch.Tensor:
    """Give argmin θ̂ of the weighted training loss: the weighted mean of the targets."""
    return (weights(rater_2) * TARGET_B).sum()


def fitted_proxy(rater_2: torch.Tensor) -> torch.Tensor:
    """Give argmin θ of validation loss + weighted training loss."""
    return (VALIDATION_TARGET + (weights(rater_2) * TARGET_B).sum()) / 2


def penalty_function(rater_2: torch.Tensor) -> float:
    """Give min over θ of L_val(θ) + G(μ, θ) − min over θ̂ of G(μ, θ̂)."""
    proxy, reference, weight_B = fitted_proxy(rater_2), fitted_reference(rater_2), weights(rater_2)
    inner_gap = (weight_B * losses(proxy)).sum() - (weight_B * losses(reference)).sum()
    return float((proxy - VALIDATION_TARGET) ** 2 + inner_gap)


def by_finite_differences(rater_2: torch.Tensor, width: float = 1e-5) -> list[float]:
    gradient = []
    for index in range(2):
        shift_2 = torch.zeros(2, dtype=torch.float64)
        shift_2[index] = width
        gradient.append((penalty_function(rater_2 + shift_2) - penalty_function(rater_2 - shift_2)) / (2 * width))
    return gradient


@pytest.mark.parametrize("start", [(0.0, 0.0), (0.7, -0.4), (-1.2, 0.9)])
def test_the_rater_s_step_is_the_gradient_of_the_penalty(start: tuple[float, float]) -> None:
    rater_2 = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    proxy, reference = fitted_proxy(rater_2.detach()), fitted_reference(rater_2.detach())
    cost_B = alignment_cost(losses(proxy), losses(reference))
    always_on = torch.tensor(100.0, dtype=torch.float64)
    paper_objective(FEATURE_B2 @ rater_2, always_on, cost_B).backward()
    assert rater_2.grad is not None
    assert rater_2.grad.tolist() == pytest.approx(by_finite_differences(rater_2.detach()), rel=1e-6, abs=1e-8)
