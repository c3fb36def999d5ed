"""A network of a library is loaded whole or refused: the libraries would fill what is missing with random numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alchemist_core.errors import ConfigError
from alchemist_core.models.flux_encoders import FluxAutoencoder, FluxTextEncoder
from alchemist_core.models.text import load_text_encoder
from tests.models.given_flux import TINY, write_flux_parts
from tests.models.test_text_models import save_clip

KEY = "encoder.layers.1.mlp.fc1.bias"
Weights = dict[str, Tensor]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    save_clip(tmp_path, tmp_path)
    return tmp_path


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        load()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: {key: weight for key, weight in weights.items() if key != KEY}, f"{KEY} is missing; 1 in all"),
        (lambda weights: {key.replace("fc1", "fc_1"): weight for key, weight in weights.items()}, "fc1.bias is missing; 4 in all"),
        (lambda weights: {key: weight[:-1] if key == KEY else weight for key, weight in weights.items()}, f"{KEY} is (31,), not (32,)"),
    ],
    ids=["missing", "renamed", "another size"],
)  # fmt: skip
def test_a_network_that_lacks_weights_is_refused_by_the_first(
    clip: Path, change: Callable[[Weights], Weights], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(change(load_file(clip / "model.safetensors")), clip / "model.safetensors", {"format": "pt"})
    said = refusal(lambda: load_text_encoder(f"clip:{clip}"))
    assert f"{clip} does not hold a CLIP text model. First difference: " in said
    assert told in said
    assert "LOAD REPORT" not in capsys.readouterr().err


def test_a_network_that_is_cut_off_is_refused_by_the_first_key_that_is_lost(clip: Path) -> None:
    path = clip / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "are cut off or damaged: they end inside of " in refusal(lambda: load_text_encoder(f"clip:{clip}"))


def test_flux_s_encoders_are_loaded_whole_or_refused(tmp_path: Path) -> None:
    parts = write_flux_parts(tmp_path)
    for name, load in (
        ("vae/diffusion_pytorch_model", lambda: FluxAutoencoder(parts, TINY)),
        ("text_encoder_2/model", lambda: FluxTextEncoder(parts, TINY)),
    ):
        load()
        path = parts / f"{name}.safetensors"
        weights = load_file(path)
        lost = min(weights)
        del weights[lost]
        save_file(weights, path, {"format": "pt"})
        said = refusal(load)
        assert f"does not hold FLUX.1's {path.parent.name}" in said
        assert lost in said


def test_a_loaded_network_is_in_eval_mode(clip: Path) -> None:
    model = load_text_encoder(f"clip:{clip}")._model  # type: ignore[attr-defined]
    assert not model.training
    assert isinstance(model, torch.nn.Module)
