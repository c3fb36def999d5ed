"""Per-sample gradients equal those of a backward pass of each sample alone, for every batch size."""

import copy

import numpy as np
import pytest
import torch

from alchemist_core.experiments import dynamics
from alchemist_core.experiments.dynamics import gradient_norms
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, load_text_encoder
from alchemist_core.models.tokenizer import ImageTokens, fit_tokenizer
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.samples import Batch, Samples
from tests.training.conftest import train_pairs

__all__ = ["train_pairs"]


@pytest.fixture(scope="module")
def given(train_pairs: Samples) -> tuple[Star, Batch]:
    """A generator with weights that are far from 0, and captions of several lengths beside one another."""
    config = RaterTrainingConfig(proxy_width=16, rater_width=16, codebook_size=32)
    tokenizer = fit_tokenizer(train_pairs.image_NHWC, config.tokenizer_config, 0)
    encoder = load_text_encoder("words", "cpu")
    pairs = Samples(train_pairs.image_NHWC[:9], [*train_pairs.captions[:8], "red"])
    torch.manual_seed(0)
    model = Star(config.proxy(tokenizer.config, encoder.dim))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model, encode_samples(pairs, tokenizer, encoder).rows(torch.arange(9))


def loop(model: Star, batch: Batch) -> list[float]:
    """The slow oracle: one backward a sample, in float64."""
    exact = copy.deepcopy(model).double()
    norms = []
    for i in range(batch.n_samples):
        exact.zero_grad()
        exact(*one_in_float64(batch, i)).sum().backward()
        gradients = [weight.grad.flatten() for weight in exact.parameters() if weight.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    return norms


def one_in_float64(batch: Batch, i: int) -> Batch:
    tokens, text = batch.tokens.rows(torch.tensor([i])), batch.text.rows(torch.tensor([i]))
    return Batch(
        ImageTokens(tokens.code_BS, tokens.input_BSD.double()),
        TextFeatures(text.token_BTD.double(), text.mask_BT, text.pooled_BD.double()),
    )


def test_the_norms_are_those_of_one_backward_a_sample(given: tuple[Star, Batch]) -> None:
    model, batch = given
    found = gradient_norms(model, batch)
    assert np.ptp(found) > 0.01 * found.mean()
    np.testing.assert_allclose(found, loop(model, batch), rtol=1e-4)


def test_chunks_change_nothing(given: tuple[Star, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = given
    whole = gradient_norms(model, batch)
    monkeypatch.setattr(dynamics, "_MOST_GRADIENT_BYTES", 4 * 2 * sum(w.numel() for w in model.parameters()))
    np.testing.assert_allclose(gradient_norms(model, batch), whole, rtol=1e-4)


def test_measuring_leaves_no_gradient_behind(given: tuple[Star, Batch]) -> None:
    model, batch = given
    gradient_norms(model, batch)
    assert all(weight.grad is None for weight in model.parameters())
