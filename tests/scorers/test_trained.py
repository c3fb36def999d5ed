"""A scorer that `alchemist scorer train` wrote is opened with the encoders of its training, and with no others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import ConfigError
from alchemist_core.models.critic import Critic, PublishedEncoders, caption_hashes, pack_critic
from alchemist_core.models.critic_config import N_QUANTILES, CriticRecord, CriticTrainingConfig
from alchemist_core.models.density import Density, DensityRecord, pack_density
from alchemist_core.models.image_text import Head
from alchemist_core.scorers.registration import describe, open_scorer
from alchemist_core.scorers.scorer import Batch
from tests.scorers.given_networks import CAPTIONS, DIM, SIDE, write_clip

IMAGES = np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), SIDE, SIDE, 3), np.uint8)


def critic_of(encoders: PublishedEncoders) -> bytes:
    training = CriticTrainingConfig(hidden=16, dim=8)
    head = Head(training.hidden, training.dim, dims=encoders.dims).eval()
    reference_RE = torch.nn.functional.normalize(torch.ones(2, training.dim))
    record = CriticRecord(
        dataset="v", n_train=9, n_heldout=1, n_steps=1, heldout_auc=0.9, right_quantiles=(0.0,) * N_QUANTILES,
        wrong_quantiles=(0.0,) * N_QUANTILES, resolution=SIDE, training=training, encoder_sha256s=encoders.sha256s, dims=encoders.dims,
    )  # fmt: skip
    return pack_critic(Critic(head, 2.0, reference_RE, caption_hashes(["one", "two"])), record)


def density_of(encoders: PublishedEncoders) -> bytes:
    record = DensityRecord(
        validation="v", dataset="web", n_validation=9, n_corpus=9, heldout_auc=0.6, n_dims=2, penalty=1.0, resolution=SIDE,
        encoder_sha256s=encoders.sha256s,
    )  # fmt: skip
    return pack_density(Density(np.arange(DIM, dtype=np.float64), 0.5), record)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A CLIP, and another one."""
    root = tmp_path_factory.mktemp("clips")
    other = write_clip(root / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    return write_clip(root / "clip"), other


@pytest.mark.parametrize(
    ("use", "option", "noun", "write"),
    [("critic", "head", "critic", critic_of), ("density", "file", "density ratio", density_of)],
)
def test_a_trained_scorer_takes_the_encoders_of_its_training_alone(
    use: str, option: str, noun: str, write: Callable[[PublishedEncoders], bytes], clips: tuple[Path, Path], tmp_path: Path
) -> None:  # fmt: skip
    clip, other = clips
    path = tmp_path / "trained.safetensors"
    path.write_bytes(write(PublishedEncoders(str(clip))))
    scorer = open_scorer(use, {option: str(path), "encoders": str(clip)})
    spec = describe(scorer)
    assert (spec.options, set(spec.settings)) == ({}, {option, "encoders"}), "neither path is part of the identity"
    assert set(spec.identity) == {f"{option}_sha256", "encoder_sha256s"}
    assert (scorer.image_side, scorer.uses_device, scorer.dtype) == (SIDE, True, "float32")
    score_B = scorer.score(Batch(IMAGES, CAPTIONS))
    assert score_B.dtype == np.float32
    assert len(np.unique(score_B)) == len(CAPTIONS)

    with pytest.raises(ConfigError, match=f"The {noun} {path} was trained on other encoders than {other}"):
        open_scorer(use, {option: str(path), "encoders": str(other)})
    with pytest.raises(ConfigError, match="There is no file"):
        open_scorer(use, {option: str(tmp_path / "no.safetensors"), "encoders": str(clip)})
