import pytest
import torch

from alchemist_core.rating.config import ScoringRule
from alchemist_core.rating.objective import instance_objective
from alchemist_core.rating.rules import alignment_cost, loss_cost, sample_cost
from tests.oracles import oracle_rating as oracle

LOSSES, REFERENCE = [2.0, 3.5, 1.25, 4.0], [2.5, 3.0, 1.5, 4.5]


def score_gradient(cost_B: torch.Tensor) -> torch.Tensor:
    score_B = torch.tensor([0.3, -0.2, 0.9, 0.1], requires_grad=True)
    instance_objective(score_B, cost_B, price=0.2, drift_price=1e-3).backward()
    assert score_B.grad is not None
    return score_B.grad


def test_alignment_cost_is_eq_6() -> None:
    assert alignment_cost(torch.tensor(LOSSES), torch.tensor(REFERENCE)).tolist() == pytest.approx(
        oracle.eq6_cost(LOSSES, REFERENCE), rel=1e-5
    )


def test_loss_cost_is_eq_9() -> None:
    assert loss_cost(torch.tensor(LOSSES)).tolist() == pytest.approx(oracle.eq9_cost(LOSSES), rel=1e-5)


def test_eq_9_moves_the_rater_like_eq_6_when_reference_losses_are_equal() -> None:
    loss_B = torch.tensor(LOSSES)
    by_alignment = sample_cost(ScoringRule.ALIGNMENT, loss_B, torch.full((4,), 1.7))
    by_loss = sample_cost(ScoringRule.LOSS, loss_B, torch.full((4,), 1.7))
    torch.testing.assert_close(score_gradient(by_alignment), score_gradient(by_loss), rtol=1e-5, atol=1e-6)


def test_the_two_rules_differ_when_reference_losses_do() -> None:
    by_alignment = sample_cost(ScoringRule.ALIGNMENT, torch.tensor(LOSSES), torch.tensor(REFERENCE))
    by_loss = sample_cost(ScoringRule.LOSS, torch.tensor(LOSSES), torch.tensor(REFERENCE))
    assert (score_gradient(by_alignment) - score_gradient(by_loss)).abs().max() > 1e-2


def test_a_cost_carries_no_gradient() -> None:
    loss_B = torch.tensor(LOSSES, requires_grad=True)
    assert not alignment_cost(loss_B, loss_B * 2).requires_grad
    assert not loss_cost(loss_B).requires_grad


def test_each_rule_by_hand_and_only_alignment_looks_at_the_reference() -> None:
    loss_B, reference_B = torch.tensor([2.0, 3.0]), torch.tensor([2.5, 1.0])
    assert sample_cost(ScoringRule.ALIGNMENT, loss_B, reference_B).tolist() == [-0.5, 2.0]
    assert sample_cost(ScoringRule.LOSS, loss_B, reference_B).tolist() == [2.0, 3.0]
