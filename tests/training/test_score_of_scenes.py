"""A tiny STAR answers more questions about scenes correctly the longer it is trained, and its KID falls."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_sets import generate_images, read_set
from alchemist_core.models.config import SamplingConfig, TokenizerConfig
from alchemist_core.models.extractors import find_weights
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.protocols.protocol import ImageProtocol
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.samples import Samples
from tests.metrics.given_metric import metric_of
from tests.metrics.scene_metric import SceneProtocol

N_IMAGES = 160
SAMPLING = SamplingConfig(guidance_scale=1.0, top_k=128, top_p=0.95, batch_size=80)


def forget(*_args: object) -> None:
    """Ignore the progress."""


def scenes(n: int, seed: int, side: int = 16) -> Samples:
    rng = random.Random(seed)
    drawn = [draw_informative(rng, side) for _ in range(n)]
    return Samples(np.stack([np.asarray(one.image) for one in drawn]), [one.caption for one in drawn])


@pytest.mark.slow
@pytest.mark.e2e
def test_score_rises_and_kid_falls_with_training(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    train, prompts = scenes(2000, seed=0), scenes(N_IMAGES, seed=1).captions
    tokenizer = fit_tokenizer(train.image_NHWC, TokenizerConfig(), seed=0)
    tokenizer.save(tmp_path / "tokenizer.safetensors")
    shared = {"resolution": 16, "n_images": N_IMAGES}
    questions = SceneProtocol.model_validate(shared | {"metric": "geneval_scenes", "extractor": "drawn_shapes"})
    kernel = ImageProtocol.model_validate({
        **shared, "resolution": 32, "metric": "kid", "extractor": "efficientnet_lite0", "n_subsets": 10, "subset_size": 100,
    })  # fmt: skip
    references = [scenes(N_IMAGES, seed=2, side=32).image_NHWC]
    kid = metric_of(kernel, find_weights("efficientnet_lite0", None), references)
    found = []
    for n_steps in (60, 400):
        model, out = tmp_path / f"model-{n_steps}", tmp_path / f"images-{n_steps}"
        config = DownstreamConfig(max_train_steps=n_steps)
        train_downstream(config, train, tokenizer_from=tmp_path, out=model, on_progress=forget)
        generate_images(model, prompts, first_seed=0, sampling=SAMPLING, out=out, on_progress=forget)
        found.append(metric_of(questions).measure_images(read_set(out)) | kid.measure_images(read_set(out)))
    short, long = found
    # A patchwork of codes shows some requested shape by chance, but not its position or two colours.
    for question, least in (("", 0.03), ("_above_chance", 0.03), ("_colors", 0.05), ("_position", 0.03)):
        name = f"geneval_scenes{question}"
        assert long[name] > short[name] + least, (name, short, long)
    assert long["kid_efficientnet_lite0"] < short["kid_efficientnet_lite0"]
