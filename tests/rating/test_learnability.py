import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alchemist_core.rating.learnability import LearnabilityRater
from tests.oracles import oracle_rating as oracle

LOSSES = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20)), min_size=1, max_size=8)


class LossesOf(nn.Module):
    """A model whose losses are one column of what it reads."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, tokens: Tensor, _text: None) -> Tensor:
        return tokens[:, self.column]


RATER = LearnabilityRater(LossesOf(0), LossesOf(1))


@given(LOSSES)
def test_a_score_is_what_the_loss_fell_by(losses: list[tuple[float, float]]) -> None:
    score_B = RATER.score(torch.tensor(losses, dtype=torch.float64), None)
    before, after = ([pair[column] for pair in losses] for column in (0, 1))
    expected_B = torch.tensor(oracle.learnability(before, after), dtype=torch.float32)
    torch.testing.assert_close(score_B, expected_B, rtol=1e-6, atol=1e-5)


@given(LOSSES)
def test_a_sample_scores_the_same_alone(losses: list[tuple[float, float]]) -> None:
    loss_B2 = torch.tensor(losses, dtype=torch.float64)
    assert torch.equal(RATER.score(loss_B2, None), torch.cat([RATER.score(row[None], None) for row in loss_B2]))


def test_known_and_unlearnable_samples_score_below_what_can_be_learnt() -> None:
    plain, learnable, chaotic = RATER.score(torch.tensor([[0.1, 0.05], [3.0, 1.0], [4.8, 4.9]]), None).tolist()
    assert learnable > plain > chaotic


def test_a_score_is_single_precision_whatever_the_models_compute_in() -> None:
    assert RATER.score(torch.tensor([[3.0, 1.0]], dtype=torch.bfloat16), None).dtype is torch.float32
