import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.rating import config, objective
from alchemist_core.rating.weights import batch_weights
from tests.oracles import oracle_rating as oracle

pairs = st.lists(st.tuples(st.floats(-3, 3, width=32), st.floats(-2, 2, width=32)), min_size=2, max_size=10)


def gradient_of(value: torch.Tensor, at: torch.Tensor) -> list[float]:
    (gradient,) = torch.autograd.grad(value, at, retain_graph=True)
    return [float(entry) for entry in gradient.flatten()]


def largest(values: list[float]) -> float:
    return max(abs(value) for value in values)


@given(pairs, st.floats(1 / 64, 2, width=32))
def test_instance_objective_equals_its_oracle_in_value_and_gradient(
    rows: list[tuple[float, float]], price: float
) -> None:
    scores, costs = [row[0] for row in rows], [row[1] for row in rows]
    score_B = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
    value = objective.instance_objective(score_B, torch.tensor(costs), price=price, drift_price=1e-3)
    assert value.item() == pytest.approx(oracle.instance_value(scores, costs, price, 1e-3), rel=1e-5, abs=1e-6)
    expected = oracle.instance_gradient(scores, costs, price, 1e-3)
    tolerance = 1e-5 * max(largest(expected), largest(costs), price)
    assert gradient_of(value, score_B) == pytest.approx(expected, rel=1e-5, abs=tolerance)


@given(pairs, st.floats(-4, 4, width=32))
def test_paper_objective_descends_the_bare_product(rows: list[tuple[float, float]], group_logit: float) -> None:
    scores, costs = [row[0] for row in rows], [row[1] for row in rows]
    score_B, logit = torch.tensor(scores, requires_grad=True), torch.tensor(group_logit, requires_grad=True)
    value = objective.paper_objective(score_B, logit, torch.tensor(costs))
    assert value.item() == pytest.approx(oracle.eq10_value(scores, group_logit, costs), rel=1e-5, abs=1e-5)
    group = 1 / (1 + math.exp(-group_logit))
    by_hand = [group * g for g in oracle.bare_gradient(scores, costs)]
    assert gradient_of(value, score_B) == pytest.approx(by_hand, rel=1e-5, abs=1e-5)


@given(
    st.floats(-4, 4, width=32), st.floats(-1, 1, width=32), st.floats(-1, 1, width=32), st.floats(1 / 64, 1, width=32)
)
def test_group_objective_equals_its_oracle(logit: float, batch_cost: float, baseline: float, price: float) -> None:
    at = torch.tensor(logit, requires_grad=True)
    value = objective.group_objective(at, torch.tensor(batch_cost), baseline=baseline, price=price)
    assert value.item() == pytest.approx(oracle.group_value(logit, batch_cost, baseline, price), rel=1e-5, abs=1e-5)
    expected = oracle.group_gradient(logit, batch_cost, baseline, price)
    # Relative to the largest of the terms that cancel in it.
    tolerance = 1e-5 * max(abs(batch_cost), abs(baseline), price * (1 + abs(logit)))
    assert gradient_of(value, at)[0] == pytest.approx(expected, rel=1e-5, abs=tolerance)


def test_a_constant_added_to_all_costs_leaves_the_gradient_unchanged() -> None:
    score_B = torch.randn(16, dtype=torch.float64, requires_grad=True)
    cost_B = torch.randn(16, dtype=torch.float64)
    plain, shifted = (
        gradient_of(objective.instance_objective(score_B, cost_B + shift, price=0.2, drift_price=0.0), score_B)
        for shift in (0.0, 7.0)
    )
    assert shifted == pytest.approx(plain, abs=1e-12)


def test_a_baseline_that_is_not_detached_kills_the_gradient() -> None:
    score_B, cost_B = torch.randn(16, dtype=torch.float64, requires_grad=True), torch.randn(16, dtype=torch.float64)
    weight_B = batch_weights(score_B)
    trapped = ((cost_B - (weight_B * cost_B).sum()) * weight_B).sum()
    detached = ((cost_B - (weight_B * cost_B).sum().detach()) * weight_B).sum()
    assert largest(gradient_of(trapped, score_B)) < 1e-12
    assert largest(gradient_of(detached, score_B)) > 1e-3


def test_costs_are_detached_even_if_the_caller_forgot() -> None:
    loss_B = torch.randn(8, requires_grad=True)
    score_B = torch.randn(8, requires_grad=True)
    objective.instance_objective(score_B, loss_B, price=0.2, drift_price=0.0).backward()
    assert loss_B.grad is None


@pytest.mark.slow
def test_the_score_converges_to_minus_the_expected_cost_over_the_price() -> None:
    generator = torch.Generator().manual_seed(0)
    expected_K = torch.tensor([-0.6, -0.1, 0.2, 0.5])
    score_K = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([score_K], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    for _ in range(3000):
        kind_B = torch.randint(0, 4, (64,), generator=generator)
        cost_B = expected_K[kind_B] + 0.3 * torch.randn(64, generator=generator)
        loss = objective.instance_objective(score_K[kind_B], cost_B, price=0.5, drift_price=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    centred_K = score_K.detach() - score_K.detach().mean()
    cost_K = expected_K - expected_K.mean()
    slope = (centred_K * cost_K).sum() / (cost_K**2).sum()
    assert slope.item() == pytest.approx(-1 / 0.5, rel=0.03)


def test_the_group_weight_converges_to_its_closed_form() -> None:
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logit], lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        objective.group_objective(logit, torch.tensor(0.3), baseline=0.1, price=0.25).backward()
        optimizer.step()
    assert torch.sigmoid(logit).item() == pytest.approx(1 / (1 + math.exp((0.3 - 0.1) / 0.25)), rel=1e-3)


def test_the_paper_s_group_weight_collapses_under_eq_9() -> None:
    score_B, logit = torch.zeros(64, requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([score_B, logit], lr=1e-2)
    for _ in range(1000):
        optimizer.zero_grad()
        objective.paper_objective(score_B, logit, torch.linspace(2, 5, 64)).backward()
        optimizer.step()
    assert torch.sigmoid(logit).item() < 0.02


def test_the_price_has_a_floor() -> None:
    assert objective.sharpness_price(0.0, kl_weight=0.2, price_floor=1e-3) == 1e-3


def test_no_objective_moves_what_a_cost_came_from() -> None:
    loss_B, score_B = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    logit = torch.zeros((), requires_grad=True)
    objective.paper_objective(score_B, logit, loss_B).backward()
    objective.group_objective(logit, loss_B.mean(), baseline=0.0, price=0.1).backward()
    assert loss_B.grad is None
    assert score_B.grad is not None
    assert logit.grad is not None


def test_objectives_of_two_samples_by_hand() -> None:
    # Scores of ln 3 apart weigh 3/4 and 1/4.
    score_B, cost_B = torch.tensor([math.log(3), 0.0]), torch.tensor([2.0, 4.0])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    value = objective.instance_objective(score_B, cost_B, price=0.5, drift_price=2.0)
    assert value.item() == pytest.approx(2.5 + 0.5 * divergence + 2.0 * (math.log(3) / 2) ** 2, rel=1e-5)
    assert objective.paper_objective(score_B, torch.tensor(0.0), cost_B).item() == pytest.approx(0.5 * 2.5)
    sure = objective.group_objective(torch.tensor(math.log(3)), torch.tensor(4.0), baseline=1.0, price=0.5)
    assert sure.item() == pytest.approx(3 * 0.75 + 0.5 * divergence, rel=1e-5)


@pytest.mark.parametrize(("spread", "price"), [(0.0, 1e-3), (0.0049, 1e-3), (0.005, 1e-3), (0.01, 2e-3), (5.0, 1.0)])
def test_the_price_is_the_larger_of_its_share_and_its_floor(spread: float, price: float) -> None:
    assert objective.sharpness_price(spread, kl_weight=0.2, price_floor=1e-3) == pytest.approx(price)


def test_a_running_mean_keeps_its_factor_of_the_past() -> None:
    assert objective.running_mean(2.0, 4.0, 0.75) == 2.5
    assert objective.running_mean(2.0, 4.0, 0.0) == 4.0


def test_the_price_of_the_mean_logit_hardly_bends_what_a_score_is() -> None:
    """A price of 0.1 takes 13 % of the slope that a score has on its cost: the constant is a hundredth of that."""
    assert (config.DRIFT_PRICE, config.PRICE_FLOOR, config.EMA_FACTOR) == (1e-3, 1e-3, 0.98)
