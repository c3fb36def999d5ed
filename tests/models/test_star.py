import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from alchemist_core.models.config import StarConfig, TokenizerConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, WordVectors
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer, fit_tokenizer

CAPTIONS = ["a red circle", "a blue square at the top", "many shapes", "a plain green picture"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    image_NHWC = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    return fit_tokenizer(image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=0)


@pytest.fixture
def star() -> Star:
    torch.manual_seed(0)
    return Star(StarConfig(width=32, n_codes=32))


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(0, 32, (4, 21), generator=torch.Generator().manual_seed(0))


def text_of(captions: list[str]) -> TextFeatures:
    return WordVectors().encode(captions)


def test_an_untrained_model_is_about_as_wrong_as_guessing(
    star: Star, tokenizer: Tokenizer, codes: torch.Tensor
) -> None:
    loss_B = star.loss_per_sample(tokenizer.tokens(codes), text_of(CAPTIONS))
    assert loss_B.shape == (4,)
    assert loss_B.mean().item() == pytest.approx(math.log(32), rel=0.15)


def test_the_loss_is_the_mean_cross_entropy_over_all_tokens(
    star: Star, tokenizer: Tokenizer, codes: torch.Tensor
) -> None:
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    logit_BSV = star.logits(tokens.input_BSD, text).detach().double()
    by_hand = [
        sum(float(torch.logsumexp(logit_BSV[b, s], 0) - logit_BSV[b, s, codes[b, s]]) for s in range(21)) / 21
        for b in range(4)
    ]
    assert star.loss_per_sample(tokens, text).tolist() == pytest.approx(by_hand, rel=1e-5)


def test_a_scale_s_prediction_does_not_depend_on_its_own_or_finer_codes(
    star: Star, tokenizer: Tokenizer, codes: torch.Tensor
) -> None:
    changed_BS = codes.clone()
    changed_BS[:, 1:] = (changed_BS[:, 1:] + 7) % 32
    before, after = (star.logits(tokenizer.tokens(c).input_BSD, text_of(CAPTIONS)) for c in (codes, changed_BS))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


def test_later_scales_read_earlier_ones(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    changed_BS = codes.clone()
    changed_BS[:, 0] = (changed_BS[:, 0] + 7) % 32
    before, after = (star.logits(tokenizer.tokens(c).input_BSD, text_of(CAPTIONS)) for c in (codes, changed_BS))
    assert ((before - after).abs().amax((0, 2)) > 1e-5).tolist() == [False] + [True] * 20


def test_the_text_of_a_sample_changes_only_its_own_loss(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens = tokenizer.tokens(codes)
    before_B = star(tokens, text_of(CAPTIONS))
    after_B = star(tokens, text_of([CAPTIONS[0], "something else", *CAPTIONS[2:]]))
    assert (before_B != after_B).tolist() == [False, True, False, False]


def test_padding_after_a_caption_changes_nothing(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    text = text_of(CAPTIONS)
    junk_BTD = torch.where(text.mask_BT[..., None], text.token_BTD, torch.full_like(text.token_BTD, 9.0))
    tokens = tokenizer.tokens(codes)
    torch.testing.assert_close(star(tokens, text), star(tokens, TextFeatures(junk_BTD, text.mask_BT, text.pooled_BD)))
    torch.testing.assert_close(star(tokens, text), star(tokens, text.cropped()))


def test_matches_sum_to_the_logit_of_each_token_s_code(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    logit_BS = star.logits(tokens.input_BSD, text).gather(2, codes[..., None])[..., 0]
    torch.testing.assert_close(star.matches(tokens, text).sum(2) + star.head.bias[codes], logit_BS)


def test_a_few_samples_can_be_learnt_by_heart(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    optimizer = torch.optim.AdamW(star.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        star(tokens, text).mean().backward()
        optimizer.step()
    assert star(tokens, text).mean() < 0.3


def test_a_model_whose_heads_do_not_divide_its_width_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be a multiple of n_heads"):
        StarConfig(width=33, n_heads=2)


def test_tokens_can_be_gathered_and_cut(tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens: ImageTokens = tokenizer.tokens(codes)
    assert torch.equal(tokens.rows(torch.tensor([3, 1])).code_BS, codes[[3, 1]])
    assert torch.equal(tokens.after(3).input_BSD, tokens.input_BSD[3:])
