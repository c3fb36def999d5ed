import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.rating.proxies import proxy_objective, reference_objective, seal_shares, warmup_objective
from alchemist_core.rating.weights import batch_weights
from tests.oracles import oracle_rating as oracle

losses = st.lists(st.floats(0, 9, width=32), min_size=2, max_size=8)


@given(losses)
def test_warm_up_is_eq_4(train: list[float]) -> None:
    loss_B = torch.tensor(train, requires_grad=True)
    value = warmup_objective(loss_B)
    assert value.item() == pytest.approx(oracle.eq4_warmup(train), rel=1e-5, abs=1e-7)
    value.backward()
    assert loss_B.grad is not None
    assert loss_B.grad.tolist() == pytest.approx([1 / len(train)] * len(train), rel=1e-5)


@given(losses, losses, st.floats(0.125, 4, width=32))
def test_the_proxy_descends_eq_5(validation: list[float], train: list[float], penalty: float) -> None:
    scores = [0.1 * index for index in range(len(train))]
    weights = oracle.eq7_weights(scores)
    loss_A, loss_B = torch.tensor(validation, requires_grad=True), torch.tensor(train, requires_grad=True)
    value = proxy_objective(loss_A, loss_B, batch_weights(torch.tensor(scores)), penalty=penalty)
    assert value.item() == pytest.approx(oracle.eq5_proxy(validation, train, weights, penalty), rel=1e-5, abs=1e-6)
    value.backward()
    assert loss_A.grad is not None
    assert loss_B.grad is not None
    assert loss_A.grad.tolist() == pytest.approx([1 / len(validation)] * len(validation), rel=1e-5)
    assert loss_B.grad.tolist() == pytest.approx([penalty * weight for weight in weights], rel=1e-5)


@given(losses)
def test_the_reference_sees_the_weighted_training_loss_alone(train: list[float]) -> None:
    scores = [0.2 * index for index in range(len(train))]
    value = reference_objective(torch.tensor(train), batch_weights(torch.tensor(scores)))
    assert value.item() == pytest.approx(oracle.eq5_reference(train, oracle.eq7_weights(scores)), rel=1e-5, abs=1e-6)


def test_weights_are_constants_to_the_proxies() -> None:
    score_B = torch.randn(4, requires_grad=True)
    loss_B = torch.ones(4, requires_grad=True)
    proxy_objective(torch.ones(3), loss_B, batch_weights(score_B)).backward()
    assert score_B.grad is None


@given(st.integers(0, 100))
def test_seal_s_shares_are_one_in_sum_and_move_towards_training_data(epoch: int) -> None:
    validation, train = seal_shares(epoch)
    assert validation == pytest.approx(max(0.0, 1 - 0.03 * epoch))
    assert validation + train == pytest.approx(1)
    assert seal_shares(epoch + 1)[0] <= validation


def test_a_share_of_zero_leaves_validation_data_without_a_say() -> None:
    loss_A, loss_B = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    value = proxy_objective(loss_A, loss_B, torch.full((3,), 1 / 3), penalty=1.0, validation_share=0.0)
    value.backward()
    assert loss_A.grad is not None
    assert loss_A.grad.tolist() == [0, 0]


@pytest.mark.parametrize(("epoch", "share"), [(0, 1.0), (1, 0.97), (33, 0.01), (34, 0.0), (99, 0.0)])
def test_validation_data_begin_with_all_of_a_step_and_end_with_none(epoch: int, share: float) -> None:
    validation, train = seal_shares(epoch)
    assert (validation, train) == (pytest.approx(share), pytest.approx(1 - share))


def test_a_step_of_the_proxy_by_hand() -> None:
    loss_A, loss_B, weight_B = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 8.0]), torch.tensor([0.75, 0.25])
    assert proxy_objective(loss_A, loss_B, weight_B).item() == 7.0
    assert proxy_objective(loss_A, loss_B, weight_B, penalty=0.5, validation_share=0.25).item() == 3.0
    assert reference_objective(loss_B, weight_B).item() == 5.0


def test_weights_are_constants_to_the_reference() -> None:
    weight_B = torch.full((4,), 0.25, requires_grad=True)
    reference_objective(torch.ones(4, requires_grad=True), weight_B).backward()
    assert weight_B.grad is None
