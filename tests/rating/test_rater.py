from types import SimpleNamespace

import pytest
import torch

from alchemist_core.models.config import StarConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, WordVectors
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.rating.config import RaterFeatures
from alchemist_core.rating.objective import group_objective, instance_objective
from alchemist_core.rating.rater import Rater

CAPTIONS = [
    "a red circle left of a blue square",
    "a plain red picture",
    "a small green ring at the top",
    "many shapes",
    "a blue square above a red circle",
    "",
]


def text_of(captions: list[str]) -> TextFeatures:
    return WordVectors().encode(captions)


@pytest.fixture
def rater() -> Rater:
    torch.manual_seed(0)
    rater = Rater(Star(StarConfig(width=32, depth=2)), 32)
    torch.nn.init.normal_(rater.backbone.head.weight, std=0.3)
    for head in (rater.instance_head, rater.group_head):
        torch.nn.init.normal_(head[2].weight, std=0.5)
    return rater.eval()


@pytest.fixture
def tokens() -> ImageTokens:
    generator = torch.Generator().manual_seed(1)
    code_BS = torch.randint(0, 128, (len(CAPTIONS), 21), generator=generator)
    return ImageTokens(code_BS, torch.randn(len(CAPTIONS), 21, 48, generator=generator))


def test_every_sample_starts_with_the_same_score(tokens: ImageTokens) -> None:
    fresh = Rater(Star(StarConfig(width=32)), 32)
    assert fresh.score(tokens, text_of(CAPTIONS)).tolist() == [0] * len(CAPTIONS)


def test_the_text_of_a_sample_changes_only_its_own_score(rater: Rater, tokens: ImageTokens) -> None:
    before_B = rater.score(tokens, text_of(CAPTIONS))
    changed = [*CAPTIONS[:3], "a large purple diamond", *CAPTIONS[4:]]
    after_B = rater.score(tokens, text_of(changed))
    assert (before_B != after_B).tolist() == [index == 3 for index in range(len(CAPTIONS))]


def test_the_image_of_a_sample_changes_only_its_own_score(rater: Rater, tokens: ImageTokens) -> None:
    changed_BS = tokens.code_BS.clone()
    changed_BS[2] = (changed_BS[2] + 1) % 128
    changed = ImageTokens(changed_BS, tokens.input_BSD)
    before_B, after_B = (rater.score(images, text_of(CAPTIONS)) for images in (tokens, changed))
    assert (before_B != after_B).tolist() == [index == 2 for index in range(len(CAPTIONS))]


def test_a_rater_reads_which_colour_belongs_to_which_shape(rater: Rater, tokens: ImageTokens) -> None:
    images = tokens.rows(torch.tensor([0, 0]))
    swapped = ["a red circle left of a blue square", "a blue circle left of a red square"]
    first, second = rater.score(images, text_of(swapped)).tolist()
    assert first != second


def test_a_score_is_the_same_in_any_order(rater: Rater, tokens: ImageTokens) -> None:
    order_B = torch.tensor([4, 2, 0, 5, 1, 3])
    text = text_of(CAPTIONS)
    here_B, there_B = rater.score(tokens, text)[order_B], rater.score(tokens.rows(order_B), text.rows(order_B))
    torch.testing.assert_close(here_B, there_B, rtol=0, atol=1e-5 * float(here_B.detach().std()))


def test_the_score_is_the_instance_logit_of_a_rating(rater: Rater, tokens: ImageTokens) -> None:
    text = text_of(CAPTIONS)
    assert torch.equal(rater(tokens, text).score_B, rater.score(tokens, text))


def test_the_group_head_leaves_no_gradient_on_backbone_or_instance_head(rater: Rater, tokens: ImageTokens) -> None:
    rating = rater(tokens, text_of(CAPTIONS))
    group_objective(rating.group_logit_G[0], torch.tensor(0.4), baseline=0.0, price=0.1).backward()
    assert all(p.grad is None for p in [*rater.backbone.parameters(), *rater.instance_head.parameters()])
    assert any(p.grad is not None for p in rater.group_head.parameters())


def test_the_instance_head_s_gradient_is_the_same_with_and_without_the_group_head(
    rater: Rater, tokens: ImageTokens
) -> None:
    gradients = []
    for has_group in (False, True):
        rater.zero_grad()
        rating = rater(tokens, text_of(CAPTIONS))
        loss = instance_objective(rating.score_B, torch.linspace(-1, 1, 6), price=0.2, drift_price=1e-3)
        if has_group:
            loss = loss + group_objective(rating.group_logit_G[0], torch.tensor(0.4), baseline=0.0, price=0.1)
        loss.backward()
        gradients.append([p.grad.clone() for p in rater.instance_head.parameters() if p.grad is not None])
    assert all(torch.equal(without, with_) for without, with_ in zip(*gradients, strict=True))


def test_the_group_head_sees_mean_and_spread_of_its_batch(rater: Rater, tokens: ImageTokens) -> None:
    text = text_of(CAPTIONS)
    whole = rater(tokens, text).group_logit_G
    half = rater(tokens.rows(torch.arange(3)), text.rows(torch.arange(3))).group_logit_G
    assert whole.item() != half.item()


def test_a_batch_of_one_has_a_finite_group_logit(rater: Rater, tokens: ImageTokens) -> None:
    assert torch.isfinite(rater(tokens.rows(torch.arange(1)), text_of(CAPTIONS[:1])).group_logit_G)


class Features(torch.nn.Module):
    """A backbone whose features are given."""

    def matches(self, tokens: torch.Tensor, _text: None) -> torch.Tensor:
        return tokens

    def hidden(self, tokens: torch.Tensor, _text: None) -> torch.Tensor:
        return tokens


def test_each_group_is_rated_by_the_mean_and_variance_of_its_own_samples() -> None:
    torch.manual_seed(0)
    rater = Rater(Features(), 2, reading=RaterFeatures.HIDDEN, hidden=4)
    torch.nn.init.normal_(rater.group_head[2].weight)
    token_BSD = torch.randn(6, 3, 2)
    feature_BE = token_BSD.mean(1)
    tokens = SimpleNamespace(input_BSD=token_BSD)
    by_hand = [
        rater.group_head(torch.cat([part.mean(0), ((part - part.mean(0)) ** 2).mean(0)])).item()
        for part in (feature_BE[:3], feature_BE[3:])
    ]
    assert rater(tokens, None, 2).group_logit_G.tolist() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("reading", RaterFeatures)
def test_the_heads_compute_in_full_precision_inside_half_precision(reading: RaterFeatures) -> None:
    torch.manual_seed(0)
    rater = Rater(Features(), 8, reading=reading)
    for head in (rater.instance_head, rater.group_head):
        torch.nn.init.normal_(head[2].weight)
    token_BSD = torch.randn(5, 4, 8)
    tokens = token_BSD if reading is RaterFeatures.MATCH else SimpleNamespace(input_BSD=token_BSD)
    plain = rater(tokens, None)
    with torch.autocast("cpu", torch.bfloat16):
        half, alone = rater(tokens, None), rater.score(tokens, None)
    assert torch.equal(half.score_B, plain.score_B)
    assert torch.equal(half.group_logit_G, plain.group_logit_G)
    assert torch.equal(alone, plain.score_B)


def test_a_new_rater_trusts_every_group_by_half() -> None:
    rater = Rater(Features(), 8)
    assert rater(torch.randn(4, 3, 8), None, 2).group_logit_G.tolist() == [0, 0]


@pytest.mark.parametrize("reading", RaterFeatures)
def test_the_heads_are_64_wide_as_those_of_the_raters_that_are_stored(reading: RaterFeatures) -> None:
    rater = Rater(Features(), 8, reading=reading)
    assert (rater.instance_head[0].out_features, rater.group_head[0].out_features) == (64, 64)
    assert rater.instance_head[0].in_features == (64 if reading is RaterFeatures.MATCH else 8)
