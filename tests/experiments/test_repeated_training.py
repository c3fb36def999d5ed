"""Following a rater's training does not change it; its records equal those of plain code, and a kill loses none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alchemist_core.experiments import dynamics
from alchemist_core.experiments.dynamics import follow_training
from alchemist_core.models.star import Star
from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.checkpoints import partial_folder, write_json
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import JoinedSamples, Samples
from tests.training.conftest import train_pairs, validation_pairs
from tests.training.progress import KilledError, ignore, kill_at, kill_at_any_step

pytestmark = pytest.mark.slow

__all__ = ["train_pairs", "validation_pairs"]

CONFIG = RaterTrainingConfig(
    proxy_warmup_steps=20, max_train_steps=40, batch_size=32, proxy_width=32, rater_width=32, codebook_size=64,
    validation_steps=20, checkpointing_steps=25, early_stopping_patience=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory, train_pairs: Samples, validation_pairs: Samples) -> Path:
    out = tmp_path_factory.mktemp("raters") / "rater"
    train_rater(CONFIG, train_pairs, validation_pairs, out=out, on_progress=ignore)
    return out


@pytest.fixture
def followed() -> dict[str, Any]:
    """Every second of 400 samples, boxes in band 0 and noise in band 1; the gradients of one in ten of them."""
    places = np.arange(0, 400, 2)
    bands, has_gradient = (places >= 200).astype(np.int64), places % 20 == 0
    return {"place_N": places, "band_N": bands, "has_gradient_N": has_gradient, "n_bands": 2, "n_marks": 4}


@pytest.fixture
def pairs(validation_pairs: Samples, train_pairs: Samples) -> JoinedSamples:
    return JoinedSamples(validation_pairs, train_pairs)


@pytest.fixture
def follow(
    rater: Path, tmp_path: Path, pairs: JoinedSamples, followed: dict[str, Any]
) -> Callable[..., dict[str, Any]]:
    def run(name: str = "course", on_progress: OnProgress = ignore, of: Path = rater) -> dict[str, Any]:
        return follow_training(of, pairs, followed, out=tmp_path / name, cache=None, on_progress=on_progress)

    return run


@pytest.mark.slow
def test_the_training_is_the_raters_own_bit_for_bit(
    follow: Callable[..., dict[str, Any]], rater: Path, tmp_path: Path
) -> None:
    assert follow()["largest_difference"] == 0
    other = shutil.copytree(rater, tmp_path / "other-rater")
    write_json(other / "config.json", CONFIG.model_copy(update={"seed": 1}).model_dump(mode="json"))
    assert follow("other", of=other)["largest_difference"] > 0


def test_the_last_mark_is_what_the_stored_proxy_gives(
    follow: Callable[..., dict[str, Any]], rater: Path, followed: dict[str, Any], train_pairs: Samples
) -> None:
    last = follow()["marks"][-1]
    tokenizer, encoder = Tokenizer.load(rater / "tokenizer.safetensors"), load_text_encoder("words", "cpu")
    proxy = Star(CONFIG.proxy(tokenizer.config, encoder.dim))
    proxy.load_state_dict(load_file(rater / "proxy.safetensors"))
    encoded = encode_samples(train_pairs, tokenizer, encoder)
    for band in (0, 1):
        losses, norms = [], []
        for place, has_gradient in zip(followed["place_N"], followed["has_gradient_N"], strict=True):
            if followed["band_N"][followed["place_N"] == place] != band:
                continue
            proxy.zero_grad()
            loss = proxy(*encoded.rows(torch.tensor([place]))).sum()
            losses.append(loss.item())
            if has_gradient:
                loss.backward()
                norms.append(torch.cat([w.grad.flatten() for w in proxy.parameters() if w.grad is not None]).norm())
        assert last["loss_of_band"][band] == pytest.approx(np.mean(losses), rel=1e-4)
        assert last["gradient_norm_of_band"][band] == pytest.approx(float(np.mean(norms)), rel=1e-3)


def test_marks_are_evenly_spaced_and_the_reference_begins_after_the_warm_up(
    follow: Callable[..., dict[str, Any]],
) -> None:
    marks = follow()["marks"]
    assert [mark["step"] for mark in marks] == [0, 15, 30, 45, 60]
    assert [mark["epoch"] for mark in marks] == [step * 32 / 400 for step in (0, 15, 30, 45, 60)]
    assert [mark["reference_loss"] is None for mark in marks] == [True, True, False, False, False]
    # What helps the validation set is learnt, noise is not.
    boxes, noise = zip(*(mark["loss_of_band"] for mark in marks), strict=True)
    assert boxes[0] - boxes[-1] > 2 * (noise[0] - noise[-1])


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=pytest.mark.slow) for step in (33, 59))])
def test_a_killed_run_resumes_and_measures_the_same(
    follow: Callable[..., dict[str, Any]], tmp_path: Path, step: int
) -> None:
    with pytest.raises(KilledError):
        follow("killed", kill_at(step))
    assert not (tmp_path / "killed").exists()
    assert follow("killed") == follow("whole")
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"course.json"}
    assert not partial_folder(tmp_path / "killed").exists()


@pytest.mark.slow
def test_a_kill_between_a_checkpoint_and_the_mark_of_its_step_costs_no_mark(
    follow: Callable[..., dict[str, Any]], rater: Path, tmp_path: Path
) -> None:
    other, measure, measured = shutil.copytree(rater, tmp_path / "other-rater"), dynamics.gradient_norms, []
    config = CONFIG.model_copy(update={"checkpointing_steps": 15})
    write_json(other / "config.json", config.model_dump(mode="json"))

    def die_at_the_third_mark(*given: Any) -> Any:
        measured.append(given)
        if len(measured) == 3:
            raise KilledError
        return measure(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "gradient_norms", die_at_the_third_mark)
        with pytest.raises(KilledError):
            follow("killed", of=other)
    assert follow("killed", of=other) == follow("whole")


def test_a_finished_course_is_read_and_not_trained_again(follow: Callable[..., dict[str, Any]]) -> None:
    first = follow()
    assert follow(on_progress=kill_at_any_step) == first
