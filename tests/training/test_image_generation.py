"""A set of images is a function of model, prompts, seeds and sampler, even after kills; its metric needs no model."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from alchemist_core.errors import DataError
from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_sets import SHARD_SIZE, ImageSet, finish_set, generate_images, read_set, write_shard
from alchemist_core.models.config import SamplingConfig, tokenizer_tiny
from alchemist_core.models.extractors import find_weights
from alchemist_core.protocols.protocol import ImageProtocol
from alchemist_core.training.checkpoints import write_json
from alchemist_core.training.config import DownstreamConfig
from tests.metrics.given_metric import metric_of
from tests.metrics.scene_metric import SceneProtocol
from tests.models.given_models import CAPTIONS, lively_star, lively_tokenizer

N_IMAGES = SHARD_SIZE + 4
PROMPTS = [f"{CAPTIONS[place % len(CAPTIONS)]} {place}" for place in range(N_IMAGES)]
SAMPLING = SamplingConfig(guidance_scale=1.0, batch_size=64)


def forget(*_args: object) -> None:
    """Ignore the progress."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it, of random weights."""
    folder = tmp_path_factory.mktemp("model")
    config, tokenizer = DownstreamConfig(width=32), lively_tokenizer(tokenizer_tiny(n_codes=32))
    tokenizer.save(folder / "tokenizer.safetensors")
    star = lively_star(config.star(tokenizer.config, 144))
    save_file(dict(star.state_dict()), folder / "model.safetensors")
    write_json(folder / "config.json", config.model_dump(mode="json"))
    return folder


@pytest.fixture(scope="module")
def drawn(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    draw(model_path, out)
    return out


def draw(model_path: Path, out: Path, on_progress: Callable[[int, int, str], None] = forget) -> None:
    generate_images(model_path, PROMPTS, first_seed=3, sampling=SAMPLING, out=out, on_progress=on_progress)


def test_every_prompt_has_its_image_and_its_seed(drawn: Path) -> None:
    shards = list(read_set(drawn))
    assert [len(shard.prompts) for shard in shards] == [SHARD_SIZE, 4]
    assert [prompt for shard in shards for prompt in shard.prompts] == PROMPTS
    assert [seed for shard in shards for seed in shard.seeds] == list(range(3, 3 + N_IMAGES))
    assert len(np.unique(np.concatenate([shard.image_NHWC for shard in shards]), axis=0)) > 200


def test_a_run_that_was_killed_resumes_with_the_missing_shard_and_ends_in_the_same_bytes(
    model_path: Path, drawn: Path, tmp_path: Path
) -> None:
    shutil.copy(drawn / "000001.tar", tmp_path)
    reported: list[int] = []
    draw(model_path, tmp_path, lambda done, _total, _note: reported.append(done))
    assert reported == [N_IMAGES]
    for path in drawn.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def protocol_of(metric: str, extractor: str, **fields: object) -> ImageProtocol:
    model = SceneProtocol if extractor == "drawn_shapes" else ImageProtocol
    return model.model_validate(
        {"metric": metric, "extractor": extractor, "resolution": 32, "n_images": N_IMAGES} | fields
    )


def references(n: int = 40) -> np.ndarray:
    rng = random.Random(0)
    return np.stack([np.asarray(draw_informative(rng, 32).image) for _ in range(n)])


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "fields"), [("kid", {"n_subsets": 3, "subset_size": 30}), ("fid", {})])
def test_a_distance_is_measured_again_from_the_tars_alone(drawn: Path, metric: str, fields: dict[str, int]) -> None:
    protocol = protocol_of(metric, "efficientnet_lite0", **fields)
    weights = find_weights("efficientnet_lite0", None)
    values = [metric_of(protocol, weights, [references()]).measure_images(read_set(drawn)) for _ in range(2)]
    assert values[0] == values[1]
    assert values[0].keys() == {f"{metric}_efficientnet_lite0"}
    assert values[0][f"{metric}_efficientnet_lite0"] > 0


def test_references_may_come_in_parts(drawn: Path) -> None:
    protocol = protocol_of("kid", "efficientnet_lite0", n_subsets=3, subset_size=30)
    weights, images = find_weights("efficientnet_lite0", None), references(32)
    whole = metric_of(protocol, weights, [images]).measure_images(read_set(drawn))
    assert metric_of(protocol, weights, [images[:16], images[16:]]).measure_images(read_set(drawn)) == whole


def test_another_number_of_images_is_refused(drawn: Path) -> None:
    protocol = protocol_of("kid", "efficientnet_lite0", n_subsets=3, subset_size=30, n_images=N_IMAGES - 1)
    with pytest.raises(DataError, match=f"{N_IMAGES} images were given, but the protocol has n_images {N_IMAGES - 1}"):
        metric_of(protocol, find_weights("efficientnet_lite0", None), [references()]).measure_images(read_set(drawn))


@pytest.mark.slow
def test_scenes_are_asked_every_question(tmp_path: Path) -> None:
    """Synthetic scenes instead of generated ones: from tars to the score of a perfect generator."""
    rng = random.Random(1)
    scenes = [draw_informative(rng, 64) for _ in range(60)]
    images = ImageSet(np.stack([np.asarray(one.image) for one in scenes]), [one.caption for one in scenes], [0] * 60)
    write_shard(tmp_path, range(60), images)
    finish_set(tmp_path, 60, {})
    protocol = protocol_of("geneval_scenes", "drawn_shapes", n_images=60, resolution=64)
    values = metric_of(protocol).measure_images(read_set(tmp_path))
    tags = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    above_chance = values.pop("geneval_scenes_above_chance")
    assert 0.6 < above_chance < 0.95
    assert values == {"geneval_scenes": 1.0} | {f"geneval_scenes_{tag}": 1.0 for tag in tags}
