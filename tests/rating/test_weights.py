import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.rating.weights import batch_weights, effective_sample_size, entropy, product_weights
from tests.oracles import oracle_rating as oracle

scores = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12)


@given(scores)
def test_weights_are_the_softmax_of_eq_7(values: list[float]) -> None:
    weight_B = batch_weights(torch.tensor(values, dtype=torch.float32))
    assert weight_B.tolist() == pytest.approx(oracle.eq7_weights(values), rel=1e-5, abs=1e-12)


@given(scores)
def test_weights_sum_to_one(values: list[float]) -> None:
    assert batch_weights(torch.tensor(values)).sum().item() == pytest.approx(1, abs=1e-6)


@given(scores, st.floats(-6, 6, width=32))
def test_product_weights_are_eq_10(values: list[float], group_logit: float) -> None:
    group_weight = torch.sigmoid(torch.tensor(group_logit))
    weight_B = product_weights(batch_weights(torch.tensor(values, dtype=torch.float32)), group_weight)
    assert weight_B.tolist() == pytest.approx(oracle.eq10_weights(values, group_logit), rel=1e-5, abs=1e-12)


def test_effective_sample_size_runs_from_one_to_the_batch() -> None:
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])).item() == 1
    assert effective_sample_size(torch.full((8,), 1 / 8)).item() == pytest.approx(8)


def test_effective_sample_size_and_entropy_of_two_uneven_weights_by_hand() -> None:
    weight_B = torch.tensor([0.75, 0.25])
    assert effective_sample_size(weight_B).item() == pytest.approx(1.6)
    assert effective_sample_size(4 * weight_B).item() == pytest.approx(1.6)
    assert entropy(weight_B).item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert entropy(torch.tensor([1.0, 0.0, 0.0])).item() == 0


def test_a_weight_leans_to_the_higher_score_within_its_batch_alone() -> None:
    assert batch_weights(torch.tensor([math.log(3), 0.0])).tolist() == pytest.approx([0.75, 0.25])
    assert batch_weights(torch.tensor([7.0])).tolist() == [1.0]
