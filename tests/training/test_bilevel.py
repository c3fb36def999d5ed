"""A single step: loss scaling in half precision, and memory of a batch that is split."""

import pytest
import torch

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.text import TextFeatures
from alchemist_core.models.tokenizer import ImageTokens
from alchemist_core.training.bilevel import Bilevel
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.samples import Batch

CONFIG = RaterTrainingConfig(batch_size=8, proxy_width=16, rater_width=16)
TOKENIZER, TEXT_DIM = TokenizerConfig(), 12


def make_bilevel(config: RaterTrainingConfig, scaler: torch.amp.GradScaler | None = None) -> Bilevel:
    accelerator = make_accelerator()
    accelerator.scaler = scaler
    bilevel = Bilevel(config, accelerator, (config.proxy(TOKENIZER, TEXT_DIM), config.rater(TOKENIZER, TEXT_DIM)))
    # One after the other, as on a GPU.
    bilevel._beside = None
    return bilevel


def draw_batch(n_samples: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, TOKENIZER.n_codes, (n_samples, TOKENIZER.n_tokens), generator=generator)
    tokens = ImageTokens(codes, torch.randn(n_samples, TOKENIZER.n_tokens, TOKENIZER.token_dim, generator=generator))
    words = torch.randn(n_samples, 3, TEXT_DIM, generator=generator)
    return Batch(tokens, TextFeatures(words, torch.ones(n_samples, 3, dtype=torch.bool), words.sum(1)))


def train(bilevel: Bilevel) -> dict[str, torch.Tensor]:
    for seed in range(2):
        bilevel.warmup_step([draw_batch(8, seed)])
    bilevel.end_warmup()
    for seed in range(3):
        bilevel.step([draw_batch(16, 10 + seed)], 8)
    models = bilevel.state_dict()["models"]
    return {f"{name}.{key}": weight for name, weights in models.items() for key, weight in weights.items()}


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_a_scale_that_grows_after_every_step_changes_no_step(max_grad_norm: float | None) -> None:
    """Three optimisers share the scale of fp16: it may move only when all of them have stepped."""
    config = CONFIG.model_copy(update={"max_grad_norm": max_grad_norm})
    plain = train(make_bilevel(config))
    scaled = train(make_bilevel(config, torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1)))
    for name, weight in plain.items():
        torch.testing.assert_close(scaled[name], weight, rtol=1e-5, atol=1e-7)


def test_a_checkpoint_holds_the_scale() -> None:
    first, second = (make_bilevel(CONFIG, torch.amp.GradScaler("cpu", growth_interval=1)) for _ in range(2))
    first.warmup_step([draw_batch(8, 0)])
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["scaler"] == first.state_dict()["scaler"]
    assert second.state_dict()["scaler"]["scale"] == 2 * 65536


def test_a_part_of_the_warm_up_is_let_go_before_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bilevel, events = make_bilevel(CONFIG), []
    proxy, backward = bilevel.proxy, bilevel.accelerator.backward

    def read(*part: object) -> torch.Tensor:
        events.append("read")
        loss_B: torch.Tensor = proxy(*part)
        return loss_B

    def descend(loss: torch.Tensor) -> None:
        events.append("let go")
        backward(loss)

    monkeypatch.setattr(bilevel, "proxy", read)
    monkeypatch.setattr(bilevel.accelerator, "backward", descend)
    bilevel.warmup_step([draw_batch(4, 0), draw_batch(4, 1)])
    assert events == ["read", "let go"] * 2
