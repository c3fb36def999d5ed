import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.models.config import SCALES
from alchemist_core.models.star import block_causal_mask, coordinates, rotary_turns, scale_index


@given(scales=st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True).map(sorted))
def test_a_token_reads_its_own_and_coarser_scales_and_nothing_else(scales: list[int]) -> None:
    index = [number for number, side in enumerate(scales) for _ in range(side**2)]
    assert scale_index(tuple(scales)).tolist() == index
    assert block_causal_mask(tuple(scales)).tolist() == [[there <= here for there in index] for here in index]


@pytest.mark.parametrize("resolution", SCALES)
def test_every_scale_covers_the_same_square(resolution: int) -> None:
    place_S2, index_S = coordinates(SCALES[resolution]), scale_index(SCALES[resolution])
    assert place_S2[0].tolist() == [0, 0]
    for scale in range(1, len(SCALES[resolution])):
        place_L2 = place_S2[index_S == scale]
        assert place_L2.min() == 0
        assert place_L2.max().item() == pytest.approx(64)


def test_the_second_token_of_a_row_differs_in_its_column() -> None:
    assert coordinates((3,))[:4].tolist() == [[0, 0], [32, 0], [64, 0], [0, 32]]


def test_turns_are_the_published_ones() -> None:
    turn_SF = rotary_turns((1, 3), 64).numpy()
    column, row = 64.0, 32.0  # token 1 + 5: the last column of the middle row
    speed = 10_000.0 ** (-4 * np.arange(16) / 64)
    expected = np.exp(1j * np.concatenate([column * speed, row * speed]))
    assert turn_SF.shape == (10, 32)
    np.testing.assert_allclose(turn_SF[6], expected, atol=1e-5)
    np.testing.assert_allclose(turn_SF[0], 1)


@pytest.mark.parametrize("head_dim", [4, 8, 12, 32])
def test_what_two_tokens_score_depends_on_their_distance_alone(head_dim: int) -> None:
    turn_SF = rotary_turns((5,), head_dim).to(torch.complex128)
    query_F, key_F = torch.randn(2, head_dim // 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))

    def score(here: int, there: int) -> float:
        return float(((query_F * turn_SF[here]) * (key_F * turn_SF[there]).conj()).sum().real)

    assert score(0, 6) == pytest.approx(score(6, 12), abs=1e-4)
    assert score(0, 6) != pytest.approx(score(0, 7), abs=1e-4)
