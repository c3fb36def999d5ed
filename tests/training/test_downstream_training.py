from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alchemist_core.errors import ConfigError, DataError, TrainingCollapsedError
from alchemist_core.metrics.heldout import heldout_losses
from alchemist_core.training.averaging import average_weights
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.samples import Samples
from tests.training.progress import KilledError, collect, ignore, kill_at, kill_at_any_step

CONFIG = DownstreamConfig(num_train_epochs=6, batch_size=20, width=32, checkpointing_steps=10)


@pytest.mark.slow
def test_training_lowers_the_held_out_loss(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, heldout_pairs: Samples
) -> None:
    short = CONFIG.model_copy(update={"num_train_epochs": 1})
    for name, config in (("short", short), ("long", CONFIG)):
        train_downstream(
            config, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / name, on_progress=ignore
        )
    before_N, after_N = (heldout_losses(tmp_path / name, heldout_pairs) for name in ("short", "long"))
    assert before_N.shape == after_N.shape == (60,)
    assert after_N.mean() < before_N.mean() - 0.2


def test_a_training_whose_loss_is_not_finite_stops_and_leaves_no_model(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples
) -> None:
    wild = CONFIG.model_copy(update={"learning_rate": 1e30, "num_train_epochs": 2, "lr_warmup_steps": 0})
    with pytest.raises(TrainingCollapsedError, match=r"not finite at step \d+. Lower --learning-rate, now 1e\+30"):
        train_downstream(
            wild, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "model", on_progress=ignore
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_all_arms_take_the_same_epochs(tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples) -> None:
    half = validation_pairs.rows(np.arange(100))
    steps = [
        train_downstream(CONFIG, pairs, tokenizer_from=tokenizer_from, out=tmp_path / name, on_progress=ignore)[
            "n_steps"
        ]
        for name, pairs in (("half", half), ("full", validation_pairs))
    ]
    assert steps == [30, 60]


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"ema_decay": 0.9, "proportion_empty_prompts": 0.1}])
def test_a_killed_run_resumes_to_bit_identical_weights(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, given: dict[str, float]
) -> None:
    config = CONFIG.model_copy(update=given)
    train_downstream(
        config, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "whole", on_progress=ignore
    )
    with pytest.raises(KilledError):
        train_downstream(
            config, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "killed",
            on_progress=kill_at(27),
        )  # fmt: skip
    assert not (tmp_path / "killed").exists()
    steps: list[int] = []
    train_downstream(
        config, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "killed",
        on_progress=collect(steps),
    )  # fmt: skip
    assert steps[0] == 21
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_averaging_changes_what_is_kept_and_not_how_it_is_trained(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples
) -> None:
    short = CONFIG.model_copy(update={"num_train_epochs": 1})
    losses = {}
    for average in (0.0, 0.9):
        config, out = short.model_copy(update={"ema_decay": average}), tmp_path / str(average)
        found = train_downstream(config, validation_pairs, tokenizer_from=tokenizer_from, out=out, on_progress=ignore)
        losses[average] = found["losses"]
    assert losses[0.0] == losses[0.9]
    last, mean = (load_file(tmp_path / name / "model.safetensors") for name in ("0.0", "0.9"))
    assert last.keys() == mean.keys()
    assert all(
        not torch.equal(last[name], mean[name])
        for name in last
        if last[name].is_floating_point() and last[name].dim() > 1
    )


def test_a_share_of_empty_captions_changes_the_training_and_no_evaluation_replaces_captions(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, heldout_pairs: Samples
) -> None:
    losses = {}
    for share in (0.0, 0.5):
        config = CONFIG.model_copy(update={"num_train_epochs": 1, "proportion_empty_prompts": share})
        out = tmp_path / str(share)
        found = train_downstream(config, validation_pairs, tokenizer_from=tokenizer_from, out=out, on_progress=ignore)
        losses[share] = found["losses"]
    # The first step has the same weights and samples in both trainings: only captions differ.
    assert losses[0.0][0] != losses[0.5][0]
    evaluated = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        evaluated.append(heldout_losses(tmp_path / "0.5", heldout_pairs))
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize("longest", [0.5, 0.99])
def test_the_average_of_constant_weights_equals_them(longest: float) -> None:
    mean, now = torch.tensor([0.0]), torch.tensor([1.0])
    for n_averaged in range(1, 2000):
        mean = average_weights(longest, mean, now, n_averaged)
    assert mean.item() == pytest.approx(1.0, abs=1e-4)


def test_a_finished_run_is_read_not_repeated(tmp_path: Path, tokenizer_from: Path, heldout_pairs: Samples) -> None:
    out = tmp_path / "model"
    first = train_downstream(CONFIG, heldout_pairs, tokenizer_from=tokenizer_from, out=out, on_progress=ignore)
    again = train_downstream(
        CONFIG,
        heldout_pairs,
        tokenizer_from=tokenizer_from,
        out=out,
        on_progress=kill_at_any_step,
    )
    assert again == first


def test_another_config_s_checkpoint_is_refused(tmp_path: Path, tokenizer_from: Path, heldout_pairs: Samples) -> None:
    with pytest.raises(KilledError):
        train_downstream(
            CONFIG, heldout_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "model",
            on_progress=kill_at(12),
        )  # fmt: skip
    other = CONFIG.model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another config"):
        train_downstream(
            other, heldout_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "model", on_progress=ignore
        )


def test_no_samples_are_refused(tmp_path: Path, tokenizer_from: Path, heldout_pairs: Samples) -> None:
    nothing = heldout_pairs.rows(np.arange(0))
    with pytest.raises(DataError, match="No samples"):
        train_downstream(CONFIG, nothing, tokenizer_from=tokenizer_from, out=tmp_path / "model", on_progress=ignore)


def test_losses_come_in_the_order_of_the_samples_and_of_a_cache_that_needs_no_images(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, heldout_pairs: Samples
) -> None:
    out = tmp_path / "model"
    brief = CONFIG.model_copy(update={"max_train_steps": 2})
    train_downstream(brief, validation_pairs, tokenizer_from=tokenizer_from, out=out, on_progress=ignore)
    order = np.arange(60)[::-1].copy()
    loss_N = heldout_losses(out, heldout_pairs)
    np.testing.assert_allclose(loss_N[order], heldout_losses(out, heldout_pairs.rows(order)), atol=1e-5)
    keyed = replace(heldout_pairs, image_keys=np.random.default_rng(0).integers(0, 256, (60, 32), np.uint8))
    first_N = heldout_losses(out, keyed, cache=tmp_path / "cache")
    np.testing.assert_allclose(first_N, loss_N, atol=1e-5)
    black = replace(keyed, image_NHWC=np.zeros_like(keyed.image_NHWC))
    np.testing.assert_array_equal(heldout_losses(out, black, cache=tmp_path / "cache"), first_N)
    assert heldout_losses(out, heldout_pairs.rows(order[:0])).shape == (0,)


@pytest.mark.slow
def test_lora_improves_its_base_and_leaves_a_plain_model(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, heldout_pairs: Samples
) -> None:
    few = validation_pairs.rows(np.arange(60))
    longer = CONFIG.model_copy(update={"num_train_epochs": 40, "learning_rate": 5e-3})
    train_downstream(longer, few, tokenizer_from=tokenizer_from, out=tmp_path / "base", on_progress=ignore)
    lora = CONFIG.model_copy(
        update={"method": "lora", "base_model": str(tmp_path / "base"), "learning_rate": 2e-2, "num_train_epochs": 12}
    )
    train_downstream(lora, validation_pairs, tokenizer_from=tokenizer_from, out=tmp_path / "lora", on_progress=ignore)
    before_N, after_N = (heldout_losses(tmp_path / name, heldout_pairs) for name in ("base", "lora"))
    assert after_N.mean() < before_N.mean() - 0.02
    adapters, model = (load_file(tmp_path / "lora" / f"{name}.safetensors") for name in ("adapters", "model"))
    assert all("lora_" in name for name in adapters)
    assert model.keys() == load_file(tmp_path / "base" / "model.safetensors").keys()


def test_lora_without_a_base_is_refused() -> None:
    with pytest.raises(ValidationError, match="lora and finetune require one"):
        DownstreamConfig(method="lora")
