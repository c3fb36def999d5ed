import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.rating.pmi import mutual_information
from tests.oracles import oracle_rating as oracle

OTHERS = ("a", "b", "c")
# The losses of an image under its own caption, if that is another one, and under the other captions; and its own caption.
IMAGES = st.lists(st.tuples(*[st.floats(0, 20)] * 4, st.sampled_from((*OTHERS, "own"))), min_size=1, max_size=8)


def scores(images: list[tuple[float, float, float, float, str]]) -> torch.Tensor:
    known = [dict(zip(("own", *OTHERS), image[:4], strict=True)) for image in images]
    own = torch.tensor([losses[image[4]] for losses, image in zip(known, images, strict=True)], dtype=torch.float64)
    losses = [torch.tensor([losses[name] for losses in known], dtype=torch.float64) for name in OTHERS]
    return mutual_information(own, losses, [torch.tensor([image[4] != name for image in images]) for name in OTHERS])


@given(IMAGES)
def test_a_score_is_the_mean_loss_under_other_captions_less_that_under_the_own_one(
    images: list[tuple[float, float, float, float, str]],
) -> None:
    expected = [
        oracle.pmi(image[4], dict(zip(("own", *OTHERS), image[:4], strict=True)), list(OTHERS)) for image in images
    ]
    torch.testing.assert_close(scores(images), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@given(IMAGES)
def test_a_sample_scores_the_same_alone(images: list[tuple[float, float, float, float, str]]) -> None:
    assert torch.equal(scores(images), torch.cat([scores([image]) for image in images]))


def test_what_an_image_costs_under_any_caption_cancels() -> None:
    matching, chaotic, mislabelled = scores(
        [(1.0, 2.0, 2.0, 2.0, "own"), (4.0, 4.0, 4.0, 4.0, "own"), (2.0, 1.0, 2.0, 3.0, "own")]
    ).tolist()
    assert matching == 1.0
    assert chaotic == mislabelled == 0.0
