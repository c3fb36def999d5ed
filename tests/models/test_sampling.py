import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import DataError
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.sampling import cut_probabilities, guide, pick_codes, sample_codes
from alchemist_core.models.star import AttentionCache, Star
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import Tokenizer
from tests.models.given_models import CAPTIONS, TINY, lively_star, lively_tokenizer, some_codes, text_of

CONFIG = TINY.model_copy(update={"token_dim": 12})
ANY = SamplingConfig(guidance_scale=3.0, top_k=32, top_p=1.0, batch_size=4)
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def star() -> Star:
    return lively_star(CONFIG)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return lively_tokenizer()


def sample(star: Star, tokenizer: Tokenizer, config: SamplingConfig, *, captions=CAPTIONS, seeds=SEEDS, empty=""):
    text = text_of(captions)
    return sample_codes(star, tokenizer, text, empty=text_of([empty]), seeds=seeds, config=config)


def cached_logits(star: Star, tokenizer: Tokenizer, code_BS: torch.Tensor, text: TextFeatures) -> torch.Tensor:
    """The logits of given codes, scale by scale with a cache as sampling computes them."""
    caches = [AttentionCache() for _ in star.trunk.blocks]
    input_BSD, parts, start = tokenizer.tokens(code_BS).input_BSD, [], 0
    for scale, side in enumerate(CONFIG.scales):
        input_BLD = input_BSD[:, start : start + side**2] if scale else None
        parts.append(star.head(star.trunk.next_scale(scale, input_BLD, text, caches=caches)))
        start += side**2
    return torch.cat(parts, 1)


def test_the_cache_gives_the_logits_of_one_teacher_forced_forward(star: Star, tokenizer: Tokenizer) -> None:
    code_BS, text = some_codes(), text_of(CAPTIONS)
    here, there = cached_logits(star, tokenizer, code_BS, text), star.logits(tokenizer.tokens(code_BS).input_BSD, text)
    assert here.std() > 0.1
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_each_code_is_selected_from_the_guided_logits_of_the_codes_before_it(star: Star, tokenizer: Tokenizer) -> None:
    code_BS = sample(star, tokenizer, ANY)
    input_BSD, length_K = tokenizer.tokens(code_BS).input_BSD, torch.tensor([1, 4, 16])
    given, free = (star.logits(input_BSD, text) for text in (text_of(CAPTIONS), text_of([""] * 4)))
    strength_S = torch.repeat_interleave(3.0 * torch.arange(3) / 2, length_K)[:, None]
    probability_BSV = ((1 + strength_S) * given - strength_S * free).double().softmax(-1)
    for row, seed in enumerate(SEEDS):
        draw_S = torch.rand(21, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for place in range(21):
            ordered = probability_BSV[row, place].cumsum(0)
            assert code_BS[row, place] == int((ordered <= draw_S[place]).sum())


def test_guidance_of_nothing_draws_from_the_caption_alone(star: Star, tokenizer: Tokenizer) -> None:
    plain = ANY.model_copy(update={"guidance_scale": 0.0})
    assert torch.equal(
        sample(star, tokenizer, plain), sample(star, tokenizer, plain, empty="a caption that must not matter")
    )
    logit_BLV, other_BLV = torch.randn(2, 1, 3, 5)
    assert torch.equal(guide(logit_BLV, other_BLV, 0.0), logit_BLV)
    # Guidance too small to matter uses the other half of the forward pass and samples the same image.
    assert torch.equal(
        sample(star, tokenizer, plain), sample(star, tokenizer, plain.model_copy(update={"guidance_scale": 1e-9}))
    )
    assert not torch.equal(sample(star, tokenizer, plain), sample(star, tokenizer, ANY))


def test_an_image_alone_is_the_same_as_in_company(star: Star, tokenizer: Tokenizer) -> None:
    captions, seeds = CAPTIONS * 3, list(range(12))
    together_BS = sample(star, tokenizer, ANY, captions=captions, seeds=seeds)
    for index in (0, 6, 11):
        alone_BS = sample(star, tokenizer, ANY, captions=[captions[index]], seeds=[seeds[index]])
        assert torch.equal(alone_BS[0], together_BS[index])


def test_the_seed_decides_and_nothing_else_that_is_random(star: Star, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    first_BS = sample(star, tokenizer, ANY)
    torch.manual_seed(1)
    assert torch.equal(sample(star, tokenizer, ANY), first_BS)
    assert not torch.equal(sample(star, tokenizer, ANY, seeds=[1, 2, 3, 4]), first_BS)


def test_the_likeliest_code_alone_needs_no_seed(star: Star, tokenizer: Tokenizer) -> None:
    greedy = ANY.model_copy(update={"top_k": 1})
    assert torch.equal(sample(star, tokenizer, greedy), sample(star, tokenizer, greedy, seeds=[1, 2, 3, 4]))


def test_drawn_codes_become_images_of_the_tokenizer_s_side(star: Star, tokenizer: Tokenizer) -> None:
    image_NHWC = tokenizer.decode(sample(star, tokenizer, ANY))
    assert image_NHWC.shape == (4, 16, 16, 3)


def test_no_captions_give_no_images(star: Star, tokenizer: Tokenizer) -> None:
    assert sample(star, tokenizer, ANY, captions=[], seeds=[]).shape == (0, 21)


def test_captions_and_seeds_of_different_number_are_refused(star: Star, tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="4 captions but 1 seeds"):
        sample(star, tokenizer, ANY, seeds=[1])


@given(
    logits=st.lists(st.floats(-5, 5), min_size=2, max_size=12),
    top_k=st.integers(1, 14),
    top_p=st.floats(0.05, 1.0),
)
def test_cuts_keep_the_fewest_likeliest_codes_that_cover_the_share(
    logits: list[float], top_k: int, top_p: float
) -> None:
    cut_V = cut_probabilities(torch.tensor([[logits]], dtype=torch.float64), top_k=top_k, top_p=top_p)[0, 0].tolist()
    order = sorted(range(len(logits)), key=lambda code: -logits[code])[:top_k]
    weights = [2.718281828459045 ** logits[code] for code in order]
    shares = [weight / sum(weights) for weight in weights]
    n_kept = next((n for n in range(1, len(order)) if sum(shares[:n]) >= top_p + 1e-12), len(order))
    kept = [probability for probability in cut_V if probability > 0]
    assert sum(cut_V) == pytest.approx(1)
    assert abs(len(kept) - n_kept) <= (1 if any(abs(sum(shares[:n]) - top_p) < 1e-9 for n in range(1, 14)) else 0)
    assert max(cut_V) == pytest.approx(shares[0] / sum(shares[: len(kept)]), rel=1e-6)


@given(number=st.floats(0, 1, exclude_max=True))
def test_a_code_of_no_probability_is_never_drawn(number: float) -> None:
    probability_BLV = torch.tensor([[[0.0, 0.3, 0.0, 0.7, 0.0]]], dtype=torch.float64)
    code = pick_codes(probability_BLV, torch.tensor([[number]], dtype=torch.float64)).item()
    assert code == (1 if number < 0.3 else 3)


def test_codes_are_drawn_as_often_as_they_are_probable() -> None:
    probability_BLV = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).expand(1, 10_000, 3)
    draw_BL = torch.rand(1, 10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    count_V = torch.bincount(pick_codes(probability_BLV, draw_BL).flatten(), minlength=3)
    torch.testing.assert_close(count_V / 10_000, torch.tensor([0.5, 0.2, 0.3]), rtol=0, atol=0.02)
