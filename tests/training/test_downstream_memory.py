"""Options that save GPU memory do not change a step: split batches, half precision, recomputed activations."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from alchemist_core.errors import ConfigError
from alchemist_core.models.star import Block, Star
from alchemist_core.presets import preset_values
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.training import downstream_training
from alchemist_core.training.checkpoints import partial_folder
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.samples import Samples
from tests.training.progress import KilledError, ignore, kill_at
from tests.training.test_launching import TWO_PROCESSES, launch

CONFIG = DownstreamConfig(max_train_steps=10, batch_size=20, width=32, checkpointing_steps=4)
SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import torch

from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.samples import Samples

torch.set_num_threads(1)
folder = Path(sys.argv[1])
pairs = Samples(np.load(folder / "pairs.npy"), (folder / "pairs.txt").read_text().splitlines())
config = DownstreamConfig.model_validate_json((folder / "config.json").read_text())
train_downstream(config, pairs, tokenizer_from=folder, out=folder / "launched", on_progress=lambda *_: None)
"""


@pytest.fixture
def folder(tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples) -> Path:
    np.save(tmp_path / "pairs.npy", validation_pairs.image_NHWC)
    (tmp_path / "pairs.txt").write_text("\n".join(validation_pairs.captions), "utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    shutil.copy(tokenizer_from / "tokenizer.safetensors", tmp_path)
    return tmp_path


def train(out: Path, tokenizer_from: Path, pairs: Samples, **fields: object) -> list[float]:
    config = CONFIG.model_copy(update=fields)
    result = train_downstream(config, pairs, tokenizer_from=tokenizer_from, out=out, on_progress=ignore)
    return list(result["losses"])


def train_until_killed(out: Path, tokenizer_from: Path, pairs: Samples) -> None:
    with pytest.raises(KilledError):
        train_downstream(CONFIG, pairs, tokenizer_from=tokenizer_from, out=out, on_progress=kill_at(6))


def launched_losses(folder: Path, launcher: list[str], **fields: object) -> list[float]:
    (folder / "config.json").write_text(CONFIG.model_copy(update=fields).model_dump_json(), "utf-8")
    launch(launcher, folder)
    return list(json.loads((folder / "launched" / "metrics.json").read_text("utf-8"))["losses"])


def test_parts_of_a_batch_take_the_step_of_the_whole_batch(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples
) -> None:
    whole, parts = (
        train(tmp_path / str(n), tokenizer_from, validation_pairs, gradient_accumulation_steps=n) for n in (1, 4)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_a_part_is_let_go_before_the_next_one_is_read(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, forward, backward = [], Star.forward, Accelerator.backward

    def read(*given: Any) -> torch.Tensor:
        events.append("read")
        return forward(*given)

    def descend(*given: Any) -> None:
        events.append("let go")
        backward(*given)

    monkeypatch.setattr(Star, "forward", read)
    monkeypatch.setattr(Accelerator, "backward", descend)
    train(tmp_path / "model", tokenizer_from, validation_pairs, gradient_accumulation_steps=2, max_train_steps=1)
    assert events == ["read", "let go"] * 2


def test_recomputed_activations_give_the_same_steps(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = train(tmp_path / "kept", tokenizer_from, validation_pairs)
    read, forward = [], Block.forward
    monkeypatch.setattr(Block, "forward", lambda block, *given: (read.append(block), forward(block, *given))[1])
    anew = train(tmp_path / "anew", tokenizer_from, validation_pairs, gradient_checkpointing=True)
    np.testing.assert_allclose(anew, kept, rtol=1e-5)
    assert len(read) == 2 * CONFIG.max_train_steps * CONFIG.depth


@pytest.mark.slow
def test_bf16_follows_the_curve_of_fp32(folder: Path, validation_pairs: Samples) -> None:
    # In another process, because accelerate keeps one number format per process.
    half = launched_losses(
        folder, ["torch.distributed.run", "--standalone", "--nproc-per-node=1"], mixed_precision="bf16", ema_decay=0.9
    )
    whole = train(folder / "plain", folder, validation_pairs)
    np.testing.assert_allclose(half, whole, rtol=0.02)
    assert half != whole


@pytest.mark.slow
def test_two_processes_that_read_parts_give_the_loss_curve_of_one(folder: Path, validation_pairs: Samples) -> None:
    two = launched_losses(folder, TWO_PROCESSES, gradient_accumulation_steps=2)
    one = train(folder / "plain", folder, validation_pairs)
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
def test_fp16_resumes_with_its_scale_where_it_was_killed(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(tmp_path / "plain", tokenizer_from, validation_pairs)
    scalers = []

    def make_scaled(_precision: str) -> Accelerator:
        accelerator = make_accelerator()
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1)
        scalers.append(accelerator.scaler)
        return accelerator

    monkeypatch.setattr(downstream_training, "make_accelerator", make_scaled)
    train_until_killed(tmp_path / "model", tokenizer_from, validation_pairs)
    np.testing.assert_allclose(train(tmp_path / "model", tokenizer_from, validation_pairs), plain, rtol=1e-5)
    assert scalers[-1].get_scale() == 2 ** (8 + 10)


@pytest.mark.slow
def test_a_checkpoint_from_before_these_fields_resumes(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples
) -> None:
    train_until_killed(tmp_path / "model", tokenizer_from, validation_pairs)
    path = partial_folder(tmp_path / "model") / "resume" / "state.pt"
    state = torch.load(path)
    del state["scaler"]
    torch.save(state, path)
    whole = train(tmp_path / "whole", tokenizer_from, validation_pairs)
    assert train(tmp_path / "model", tokenizer_from, validation_pairs) == whole


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({}, "39486ac41ec5c64b"),
        ({"seed": 3, "num_train_epochs": 2, "width": 32, "ema_decay": 0.9}, "08d2fa7b135da28a"),
        (preset_values("train_downstream", preset="flux_mini")["model"], "b9d1e83fdab37ee2"),
    ],
)
def test_what_was_trained_before_these_fields_is_found_again(fields: dict[str, object], identity: str) -> None:
    assert DownstreamConfig.model_validate(fields).fingerprint() == identity


def test_a_run_from_before_these_fields_is_found_again() -> None:
    assert TrainDownstreamConfig(subset="s").fingerprint() == "4681a61ebd8e57ee"


@pytest.mark.parametrize(
    "fields", [{"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}, {"gradient_checkpointing": True}]
)
def test_another_value_is_another_model_and_is_read_back(fields: dict[str, object]) -> None:
    config = DownstreamConfig.model_validate(fields)
    assert config.model_dump(mode="json") == DownstreamConfig().model_dump(mode="json") | fields
    assert DownstreamConfig.model_validate_json(config.model_dump_json()) == config


def test_parts_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 20 must be a multiple of gradient_accumulation_steps 3"):
        DownstreamConfig(batch_size=20, gradient_accumulation_steps=3)


def test_parts_that_do_not_divide_the_share_of_a_process_are_refused(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 4)
    expected = "batch_size 20 does not split into 4 processes × gradient_accumulation_steps 2 .* multiple of 8"
    with pytest.raises(ConfigError, match=expected):
        train(tmp_path / "model", tokenizer_from, validation_pairs, gradient_accumulation_steps=2)


def test_fp16_without_a_gpu_is_refused(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="choose bf16 or no"):
        train(tmp_path / "model", tokenizer_from, validation_pairs, mixed_precision="fp16")


def test_a_second_number_format_in_one_process_is_refused_with_the_remedy(
    tmp_path: Path, tokenizer_from: Path, validation_pairs: Samples
) -> None:
    make_accelerator("no")
    with pytest.raises(ConfigError, match="give rater and model the same"):
        train(tmp_path / "model", tokenizer_from, validation_pairs, mixed_precision="bf16")
