from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer

CONFIG = TokenizerConfig(n_codes=128, n_rounds=6)


def shapes(n_images: int, seed: int, side: int = 16) -> np.ndarray:
    """Draw coloured boxes on grey."""
    generator = np.random.default_rng(seed)
    image_NHWC = np.full((n_images, side, side, 3), 40, np.uint8)
    for image in image_NHWC:
        top, left = generator.integers(0, side // 2, 2)
        image[top : top + side // 2, left : left + side // 2] = generator.choice([30, 130, 230], 3)
    return image_NHWC


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return fit_tokenizer(shapes(400, seed=0), CONFIG, seed=0)


def test_the_same_seed_fits_the_same_codebook(tokenizer: Tokenizer) -> None:
    again = fit_tokenizer(shapes(400, seed=0), CONFIG, seed=0)
    other = fit_tokenizer(shapes(400, seed=0), CONFIG, seed=1)
    assert torch.equal(again.quantiser.codebook.weight, tokenizer.quantiser.codebook.weight)
    assert not torch.equal(other.quantiser.codebook.weight, tokenizer.quantiser.codebook.weight)


def test_an_image_has_one_code_for_each_cell_of_each_scale(tokenizer: Tokenizer) -> None:
    code_BS = tokenizer.encode(shapes(5, seed=1))
    assert code_BS.shape == (5, 1 + 4 + 16)
    assert code_BS.min() >= 0
    assert code_BS.max() < CONFIG.n_codes


def test_codes_do_not_depend_on_company(tokenizer: Tokenizer) -> None:
    image_NHWC = shapes(300, seed=2)
    together_BS = tokenizer.encode(image_NHWC)
    assert torch.equal(tokenizer.encode(image_NHWC[270:271]), together_BS[270:271])
    assert torch.equal(tokenizer.encode(image_NHWC[::-1].copy()), together_BS.flip(0))


def test_decoding_keeps_most_of_an_unseen_image(tokenizer: Tokenizer) -> None:
    image_NHWC = shapes(100, seed=3)
    drawn_NHWC = tokenizer.decode(tokenizer.encode(image_NHWC))
    error = np.mean((drawn_NHWC.astype(float) - image_NHWC) ** 2)
    assert error < 0.5 * image_NHWC.astype(float).var()


def test_each_scale_adds_to_the_image_before_it(tokenizer: Tokenizer) -> None:
    image_NHWC = shapes(100, seed=4)
    feature_BDHW = tokenizer.features(image_NHWC)
    _, residual_BSD = tokenizer.quantise(feature_BDHW)
    coarse, fine = residual_BSD[:, :1], residual_BSD[:, 5:]
    assert fine.pow(2).mean() < feature_BDHW.pow(2).mean()
    torch.testing.assert_close(coarse[:, 0], feature_BDHW.mean((2, 3)))


def test_a_generator_never_sees_the_scale_it_predicts(tokenizer: Tokenizer) -> None:
    code_BS = tokenizer.encode(shapes(2, seed=5))
    changed_BS = code_BS.clone()
    changed_BS[:, 5:] = (changed_BS[:, 5:] + 1) % CONFIG.n_codes
    before, after = tokenizer.tokens(code_BS), tokenizer.tokens(changed_BS)
    assert torch.equal(before.input_BSD, after.input_BSD)
    changed_BS[:, 0] = (code_BS[:, 0] + 1) % CONFIG.n_codes
    assert not torch.equal(before.input_BSD, tokenizer.tokens(changed_BS).input_BSD)


def test_images_of_any_side_are_read(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(shapes(2, seed=7, side=64)).shape == (2, 21)
    assert tokenizer.encode(shapes(0, seed=7)).shape == (0, 21)


def test_a_saved_tokenizer_gives_the_same_codes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.safetensors")
    loaded = Tokenizer.load(tmp_path / "tokenizer.safetensors")
    assert loaded.config == tokenizer.config
    assert torch.equal(loaded.encode(shapes(9, seed=8)), tokenizer.encode(shapes(9, seed=8)))


@pytest.mark.parametrize("scales", [(1, 2, 3), (4, 2, 1), (2, 2, 4)])
def test_a_grid_that_does_not_fit_the_image_is_refused(scales: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="must increase, and the last one must divide"):
        TokenizerConfig(resolution=16, scales=scales)
