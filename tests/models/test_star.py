import math

import numpy as np
import pytest
import torch

from alchemist_core.models.config import StarConfig, TokenizerConfig, published_star
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer, fit_tokenizer
from tests.models.given_models import CAPTIONS, TINY, lively_star, some_codes, text_of
from tests.oracles import oracle_star


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    image_NHWC = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    return fit_tokenizer(image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=0)


@pytest.fixture
def star() -> Star:
    return lively_star()


@pytest.fixture
def codes() -> torch.Tensor:
    return some_codes()


def test_logits_and_gradients_are_those_of_the_description() -> None:
    config = StarConfig(depth=2, width=16, n_heads=2, scales=(1, 2, 3), n_codes=5, token_dim=6, text_dim=7)
    star = lively_star(config).double()
    generator = torch.Generator().manual_seed(1)
    inputs, words, pooled, pull = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((14, 6), (3, 7), (7,), (14, 5))
    )
    text = TextFeatures(words[None], torch.ones(1, 3, dtype=torch.bool), pooled[None])
    here = star.logits(inputs[None], text)[0]
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in star.named_parameters()}
    there = oracle_star.logits(weights, 2, 2, config.scales, inputs=inputs, words=words, pooled=pooled)
    # The turns are tabulated in float32, everything else is float64.
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
    (here * pull).sum().backward()
    (there * pull).sum().backward()
    for name, weight in star.named_parameters():
        largest = weights[name].grad.abs().max()
        torch.testing.assert_close(weight.grad, weights[name].grad, rtol=0, atol=1e-5 * largest.item(), msg=name)


def test_an_untrained_model_is_about_as_wrong_as_guessing(tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    loss_B = Star(TINY).loss_per_sample(tokenizer.tokens(codes), text_of(CAPTIONS))
    assert loss_B.shape == (4,)
    assert loss_B.mean().item() == pytest.approx(math.log(32), rel=0.02)


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


def test_a_code_of_one_scale_moves_the_logits_of_all_later_scales_and_of_no_other(
    star: Star, tokenizer: Tokenizer, codes: torch.Tensor
) -> None:
    before = star.logits(tokenizer.tokens(codes).input_BSD, text_of(CAPTIONS))
    for place, first_moved in ((0, 1), (2, 5), (9, 21)):
        changed_BS = codes.clone()
        changed_BS[:, place] = (changed_BS[:, place] + 7) % 32
        after = star.logits(tokenizer.tokens(changed_BS).input_BSD, text_of(CAPTIONS))
        is_moved_S = ((before - after).abs().amax((0, 2)) > 1e-5).tolist()
        assert is_moved_S == [False] * first_moved + [True] * (21 - first_moved)


def test_the_text_of_a_sample_changes_only_its_own_loss(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens = tokenizer.tokens(codes)
    before_B = star(tokens, text_of(CAPTIONS))
    after_B = star(tokens, text_of([CAPTIONS[0], "something else", *CAPTIONS[2:]]))
    assert (before_B != after_B).tolist() == [False, True, False, False]


@pytest.mark.parametrize("reader", [0, 3])
def test_words_reach_every_token_of_their_image_and_no_other_image(
    star: Star, tokenizer: Tokenizer, codes: torch.Tensor, reader: int
) -> None:
    moved = moved_by_words(star, tokenizer.tokens(codes), reader)
    assert moved == [index == reader for index in range(4)]


@pytest.mark.parametrize(("reader", "moved"), [(0, [True] * 4), (3, [False] * 4)])
def test_the_published_defect_gives_the_first_sample_s_words_to_all(
    tokenizer: Tokenizer, codes: torch.Tensor, reader: int, moved: list[bool]
) -> None:
    star = lively_star(TINY.model_copy(update={"is_legacy": True}))
    assert moved_by_words(star, tokenizer.tokens(codes), reader) == moved


def moved_by_words(star: Star, tokens: ImageTokens, reader: int) -> list[bool]:
    """The samples whose last token changes when the words of one sample change, but not its pooled vector."""
    text = text_of(CAPTIONS)
    token_BTD = text.token_BTD.clone()
    token_BTD[reader] += 1.0
    other = TextFeatures(token_BTD, text.mask_BT, text.pooled_BD)
    before, after = (star.logits(tokens.input_BSD, words) for words in (text, other))
    return ((before - after).abs()[:, -1].amax(1) > 1e-4).tolist()


def test_padding_after_a_caption_changes_nothing(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    text = text_of(CAPTIONS)
    junk_BTD = torch.where(text.mask_BT[..., None], text.token_BTD, torch.full_like(text.token_BTD, 9.0))
    tokens = tokenizer.tokens(codes)
    torch.testing.assert_close(star(tokens, text), star(tokens, TextFeatures(junk_BTD, text.mask_BT, text.pooled_BD)))
    longest = int(text.mask_BT.sum(1).max())
    short = TextFeatures(text.token_BTD[:, :longest], text.mask_BT[:, :longest], text.pooled_BD)
    torch.testing.assert_close(star(tokens, text), star(tokens, short))


def test_matches_sum_to_the_logit_of_each_token_s_code(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    logit_BS = star.logits(tokens.input_BSD, text).gather(2, codes[..., None])[..., 0]
    torch.testing.assert_close(star.matches(tokens, text).sum(2) + star.head.bias[codes], logit_BS)


def test_hidden_is_what_the_final_norm_is_put_on(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    input_BSD, text = tokenizer.tokens(codes).input_BSD, text_of(CAPTIONS)
    hidden_BSE = star.hidden(input_BSD, text)
    normed_BSE = torch.nn.functional.layer_norm(hidden_BSE, (32,), eps=1e-6)
    torch.testing.assert_close(star.trunk(input_BSD, text), normed_BSE)
    assert (hidden_BSE - normed_BSE).abs().max() > 0.1


@pytest.mark.slow
def test_a_few_samples_can_be_learnt_by_heart(tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    torch.manual_seed(0)
    star, tokens, text = Star(TINY), tokenizer.tokens(codes), text_of(CAPTIONS)
    optimizer = torch.optim.AdamW(star.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        star(tokens, text).mean().backward()
        optimizer.step()
    assert star(tokens, text).mean() < 0.3


def test_recomputing_blocks_changes_neither_loss_nor_gradient(tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    losses, gradients = [], []
    for gradient_checkpointing in (False, True):
        star = lively_star().train()
        star.trunk.has_gradient_checkpointing = gradient_checkpointing
        loss = star(tokenizer.tokens(codes), text_of(CAPTIONS)).mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append([weight.grad for weight in star.parameters()])
    assert losses[0] == losses[1]
    assert all(torch.equal(here, there) for here, there in zip(*gradients, strict=True))


def test_dropped_paths_leave_whole_samples_alone_in_training_only(tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    star = lively_star(TINY.model_copy(update={"drop_path_ratio": 0.9}))
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    torch.testing.assert_close(star(tokens, text), lively_star()(tokens, text))
    star.train()
    torch.manual_seed(0)
    losses = torch.stack([star(tokens, text) for _ in range(30)])
    # Two branches of the last block, each kept with probability 0.1, so most passes of a sample are equal.
    most_common = losses[:, 0].mode()
    assert (losses[:, 0] == most_common.values).float().mean() > 0.5
    assert losses[:, 0].std() > 0


def test_half_precision_is_near_full_precision(star: Star, tokenizer: Tokenizer, codes: torch.Tensor) -> None:
    tokens, text = tokenizer.tokens(codes), text_of(CAPTIONS)
    full_B = star(tokens, text)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_B = star(tokens, text)
    torch.testing.assert_close(mixed_B.float(), full_B, rtol=0.03, atol=0)
    torch.testing.assert_close(star.bfloat16()(tokens, text).float(), full_B, rtol=0.06, atol=0)


def test_the_same_seed_makes_the_same_model() -> None:
    def new(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([weight.flatten() for weight in Star(TINY).parameters()])

    assert torch.equal(new(0), new(0))
    assert not torch.equal(new(0), new(1))


# Parameter counts of the published classes in millions, exact if the published class was run; buffers included.
PUBLISHED_NUMBERS = {4: 7_363_104, 8: 40_963_200, 16: 274_967_040, 30: 1_678_846_216}
PUBLISHED_MILLIONS = {4: 7.36, 8: 40.96, 16: 274.93, 24: 878.10, 30: 1678.7}


@pytest.mark.parametrize("depth", PUBLISHED_MILLIONS)
def test_a_model_has_the_published_weights_but_for_those_that_nothing_reads(depth: int) -> None:
    with torch.device("meta"):
        star = Star(published_star(depth))
    width = 64 * depth
    n_class_table, n_zero_biases = 1001 * width, 2 * depth * width
    n_ours = sum(weight.numel() for weight in star.parameters())
    n_published = n_ours + n_class_table
    assert n_published / 1e6 == pytest.approx(PUBLISHED_MILLIONS[depth], abs=0.05 if depth == 30 else 0.006)
    if depth in PUBLISHED_NUMBERS:
        assert n_published + n_zero_biases == PUBLISHED_NUMBERS[depth]


def test_the_paper_s_rater_has_the_published_size() -> None:
    def head(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(width, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))

    with torch.device("meta"):
        parts = [Star(published_star(8)).trunk, head(512), head(1024)]
    n_ours = sum(weight.numel() for part in parts for weight in part.parameters())
    assert n_ours + 1001 * 512 == 38_952_322
