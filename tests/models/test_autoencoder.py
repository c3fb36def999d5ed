import numpy as np
import pytest
import torch

from alchemist_core.models.autoencoder import Autoencoder, Grow, Shrink, restart_unused, tokenizer_loss
from alchemist_core.models.config import TokenizerConfig, tokenizer_tiny
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer
from tests.models.given_models import lively_tokenizer
from tests.models.test_tokenizer import shapes


def quick(n_steps: int) -> TokenizerConfig:
    tiny = tokenizer_tiny(n_codes=32)
    assert tiny.autoencoder is not None
    return tiny.model_copy(update={"autoencoder": tiny.autoencoder.model_copy(update={"n_steps": n_steps})})


@pytest.mark.parametrize("n_steps", [2, 19, 20, 21])
@pytest.mark.slow
def test_a_short_training_has_a_learning_rate_too(n_steps: int) -> None:
    tokenizer = fit_tokenizer(shapes(20, seed=0), quick(n_steps), seed=0)
    assert np.isfinite(error(tokenizer, shapes(20, seed=0)))


def error(tokenizer: Tokenizer, image_NHWC: np.ndarray) -> float:
    drawn_NHWC = tokenizer.decode(tokenizer.encode(image_NHWC))
    return float(np.mean((drawn_NHWC.astype(float) - image_NHWC) ** 2))


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return fit_tokenizer(shapes(100, seed=0), quick(20), seed=0)


@pytest.mark.slow
def test_training_learns_to_draw() -> None:
    image_NHWC = shapes(100, seed=3)
    trained = fit_tokenizer(shapes(400, seed=0), quick(150), seed=0)
    untrained = fit_tokenizer(shapes(400, seed=0), quick(1), seed=0)
    assert error(trained, image_NHWC) < 0.6 * error(untrained, image_NHWC)
    assert error(trained, image_NHWC) < 0.8 * image_NHWC.astype(float).var()


@pytest.mark.slow
def test_the_same_seed_trains_the_same_tokenizer() -> None:
    first, again, other = (fit_tokenizer(shapes(50, seed=0), quick(6), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first.state_dict()[name], weight) for name, weight in again.state_dict().items())
    assert not torch.equal(first.quantiser.codebook.weight, other.quantiser.codebook.weight)


def test_a_trained_tokenizer_is_frozen_and_comes_back_from_its_file(trained: Tokenizer, tmp_path) -> None:
    assert not any(weight.requires_grad for weight in trained.parameters())
    trained.save(tmp_path / "tokenizer.safetensors")
    loaded, image_NHWC = Tokenizer.load(tmp_path / "tokenizer.safetensors"), shapes(9, seed=8)
    assert loaded.config == trained.config
    assert torch.equal(loaded.encode(image_NHWC), trained.encode(image_NHWC))
    assert np.array_equal(loaded.decode(loaded.encode(image_NHWC)), trained.decode(trained.encode(image_NHWC)))


def test_codes_do_not_depend_on_company(trained: Tokenizer) -> None:
    image_NHWC = shapes(30, seed=2)
    together_BS = trained.encode(image_NHWC)
    assert torch.equal(trained.encode(image_NHWC[27:28]), together_BS[27:28])


def test_large_images_come_in_smaller_batches() -> None:
    assert Tokenizer(TokenizerConfig(resolution=256, scales=(1, 16))).encode_batch == 16
    assert Tokenizer(TokenizerConfig()).encode_batch == 256


def test_gradients_pass_straight_through_the_codes() -> None:
    tokenizer = lively_tokenizer().requires_grad_(requires_grad=True)
    assert isinstance(tokenizer.coder, Autoencoder)
    pixels_BCHW = torch.rand(4, 3, 16, 16)
    feature_BDHW = tokenizer.coder.encode(pixels_BCHW)
    code_BS, _ = tokenizer.quantise(feature_BDHW.detach())
    # Without commitment loss the encoder gets gradients from the pixels alone, straight through the codes.
    feature_BDHW.retain_grad()
    loss = tokenizer_loss(tokenizer.coder, tokenizer.quantiser, pixels_BCHW, feature_BDHW, code_BS, commitment=0.0)
    loss.backward()
    *_, grid_BDHW = tokenizer.quantiser.grow(code_BS)
    grid_BDHW = grid_BDHW.detach().requires_grad_()
    torch.nn.functional.mse_loss(tokenizer.coder.decode(grid_BDHW), pixels_BCHW).backward()
    torch.testing.assert_close(feature_BDHW.grad, grid_BDHW.grad, rtol=1e-3, atol=1e-7)


def test_the_loss_is_the_pixels_error_and_the_distance_to_the_codes_at_every_scale() -> None:
    tokenizer = lively_tokenizer()
    pixels_BCHW = torch.rand(4, 3, 16, 16)
    feature_BDHW = tokenizer.coder.encode(pixels_BCHW)
    code_BS, _ = tokenizer.quantise(feature_BDHW)
    grids = list(tokenizer.quantiser.grow(code_BS))
    distance = sum(((grid - feature_BDHW) ** 2).mean().item() for grid in grids) / 3
    drawn = ((tokenizer.coder.decode(grids[-1]) - pixels_BCHW) ** 2).mean().item()
    loss = tokenizer_loss(tokenizer.coder, tokenizer.quantiser, pixels_BCHW, feature_BDHW, code_BS, commitment=0.25)
    assert loss.item() == pytest.approx(drawn + 1.25 * distance, rel=1e-4)


def test_only_unused_codes_are_reset() -> None:
    quantiser = lively_tokenizer().quantiser
    before_VD = quantiser.codebook.weight.clone()
    n_used_V = torch.ones(32, dtype=torch.int64)
    n_used_V[[3, 17]] = 0
    residual_MD = torch.full((5, 12), 9.0)
    restart_unused(quantiser, n_used_V, residual_MD, np.random.default_rng(0))
    is_new_V = (quantiser.codebook.weight != before_VD).any(1)
    assert is_new_V.nonzero().flatten().tolist() == [3, 17]
    assert (quantiser.codebook.weight[3] == 9).all()


def test_a_side_is_halved_from_the_top_left_and_doubled_again() -> None:
    shrink, grow = Shrink(1), Grow(1)
    for conv in (shrink.conv, grow.conv):
        torch.nn.init.zeros_(conv.bias)
        torch.nn.init.zeros_(conv.weight)
    shrink.conv.weight.data[..., 2, 2] = 1
    grow.conv.weight.data[..., 1, 1] = 1
    grid_BCHW = torch.arange(16.0).view(1, 1, 4, 4)
    # The window of the last cell reaches one row and one column of padding beyond the end.
    assert shrink(grid_BCHW).flatten().tolist() == [10, 0, 0, 0]
    assert grow(grid_BCHW)[0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_new_block_is_its_shortcut() -> None:
    tokenizer = Tokenizer(tokenizer_tiny())
    assert isinstance(tokenizer.coder, Autoencoder)
    block, grid_BCHW = tokenizer.coder.encoder.down[0].block[0], torch.randn(2, 12, 8, 8)
    torch.nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(grid_BCHW), grid_BCHW)
