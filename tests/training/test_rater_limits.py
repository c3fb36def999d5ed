"""What rater training refuses, and when it stops early."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from alchemist_core.errors import ConfigError, DataError, TrainingCollapsedError
from alchemist_core.models.star import Star
from alchemist_core.presets import preset_values
from alchemist_core.rating.config import ScoringRule
from alchemist_core.training.bilevel import collapse_reason, make_rater
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from tests.training.progress import ignore
from tests.training.test_rater_training import CONFIG


@pytest.mark.parametrize("of", ["training", "validation"])
def test_one_sample_alone_is_too_few_to_train_on(
    tmp_path: Path, train_pairs: Samples, validation_pairs: Samples, of: str
) -> None:
    # The stage may have read as many as it requested, and all but one may be damaged.
    one, config = (
        np.arange(1),
        CONFIG.model_copy(update={"proxy_warmup_steps": 1, "max_train_steps": 1, "codebook_size": 2}),
    )
    pairs = (train_pairs.rows(one), validation_pairs) if of == "training" else (train_pairs, validation_pairs.rows(one))
    with pytest.raises(DataError, match=f"Only 1 {of} sample"):
        train_rater(config, *pairs, out=tmp_path / "rater", on_progress=ignore)


def test_fp16_without_a_gpu_is_refused(
    tmp_path: Path, train_pairs: Samples, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    config = CONFIG.model_copy(update={"mixed_precision": "fp16"})
    with pytest.raises(ConfigError, match="choose bf16 or no"):
        train_rater(config, train_pairs, validation_pairs, out=tmp_path / "rater", on_progress=ignore)


@pytest.mark.slow
def test_a_run_whose_weights_collapse_stops_with_the_reason(
    tmp_path: Path, train_pairs: Samples, validation_pairs: Samples
) -> None:
    config = CONFIG.model_copy(
        update={"kl_weight": 1e-3, "rule": ScoringRule.LOSS, "rater_learning_rate": 3e-2, "max_train_steps": 600}
    )
    with pytest.raises(TrainingCollapsedError, match=r"of 32 samples \(at least 3.2 are needed\)"):
        train_rater(config, train_pairs, validation_pairs, out=tmp_path / "rater", on_progress=ignore)


def test_a_loss_that_is_not_finite_is_a_reason_to_stop() -> None:
    step = {
        "step": 7,
        "validation_loss": 1.0,
        "train_loss": float("nan"),
        "reference_loss": 2.0,
        "effective_sample_size": 9.0,
    }
    assert collapse_reason([step | {"train_loss": 1.0}], 32) is None
    assert str(collapse_reason([step], 32)).startswith("train_loss is not finite at step 7")


@pytest.mark.parametrize("group_size", [2, 8, 32])
def test_weights_that_go_to_one_sample_are_a_collapse_in_a_group_of_any_size(group_size: int) -> None:
    losses = {"validation_loss": 1.0, "train_loss": 1.0, "reference_loss": 1.0}
    one, some = ([losses | {"step": step, "effective_sample_size": n} for step in range(100)] for n in (1.0, 1.02))
    assert "the rater has collapsed" in (collapse_reason(one, group_size) or "")
    assert collapse_reason(some[1:], group_size) is None
    assert (collapse_reason(some, group_size) is None) == (group_size < 10)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 30, "softmax_group_size": 16},
        {"gradient_accumulation_steps": 3},
        {"batch_size": 2, "gradient_accumulation_steps": 4},
    ],
)
def test_groups_that_do_not_divide_the_batch_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="must be a multiple of softmax_group_size"):
        RaterTrainingConfig(**{**CONFIG.model_dump(), **change})


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_softmax_group_of_one_sample_is_refused_where_a_rater_is_trained(batch_size: int) -> None:
    change = {"batch_size": batch_size, "gradient_accumulation_steps": batch_size}
    with pytest.raises(ValidationError, match="at least 2 are needed: lower gradient_accumulation_steps"):
        RaterTrainingConfig.model_validate(change)
    assert RaterTrainingConfig.model_validate(change | {"rule": "learnability"}).group_size == 1


def test_a_rater_larger_than_its_proxy_cannot_start_from_it() -> None:
    with pytest.raises(ValidationError, match="set rater_init to scratch"):
        RaterTrainingConfig(rater_width=128, proxy_width=64)


@pytest.mark.parametrize("preset", ["gpu80", "paper"])
def test_a_preset_of_the_paper_s_size_builds_the_paper_s_networks(preset: str) -> None:
    values = preset_values("train_rater", preset=preset)["training"] | {
        "tokenizer_weights": "vae.pth",
        "text_encoder": "clip:x",
    }
    config = RaterTrainingConfig.model_validate(values)
    with torch.device("meta"):
        rater = make_rater(config, config.rater(config.tokenizer_config, 1024))
        proxy = Star(config.proxy(config.tokenizer_config, 1024))
    # The published counts include a table of 1,001 classes that nothing reads; it is omitted here.
    n_rater, n_proxy = (sum(weight.numel() for weight in model.parameters()) for model in (rater, proxy))
    assert n_rater + 1001 * 512 == 38_952_322
    assert round((n_proxy + 1001 * 1024) / 1e6, 2) == 274.93
    assert config.tokenizer_config.n_tokens == 680


def test_a_resolution_without_a_published_schedule_is_refused() -> None:
    with pytest.raises(ValidationError, match="choose from"):
        RaterTrainingConfig(tokenizer_weights="vae.pth", resolution=128)
