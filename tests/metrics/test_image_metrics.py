"""The protocol names the image metric, whichever network computes the features."""

from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.protocols.protocol import ImageProtocol
from tests.metrics.given_metric import metric_of
from tests.models.test_features import clip_folder, some_images

__all__ = ["clip_folder"]
N_IMAGES = 6


def test_a_fid_on_clip_s_features_is_a_distance_and_no_cosine(clip_folder: Path) -> None:
    protocol = ImageProtocol.model_validate(
        {"metric": "fid", "extractor": "clip", "resolution": 32, "n_images": N_IMAGES}
    )
    references = some_images(N_IMAGES, 32)
    # The same images in another order: their distance is 0, and their mean cosine with any caption is not.
    images = ImageSet(np.concatenate([references[1:], references[:1]]), ["a"] * N_IMAGES, [0] * N_IMAGES)
    values = metric_of(protocol, clip_folder, [references]).measure_images([images])
    assert values == {"fid_clip": pytest.approx(0, abs=1e-4)}


def test_each_category_is_compared_with_its_own_references(clip_folder: Path) -> None:
    fields = {"metric": "fid", "extractor": "clip", "resolution": 32}
    pictures = some_images(N_IMAGES + 9, 32, seed=1)
    shown, references = pictures[:N_IMAGES], pictures[N_IMAGES:]
    labels = [("animals", "indoor")[place % 3 == 0] for place in range(len(references))]

    def values_of(images: np.ndarray, references: np.ndarray, labels: list[str] | None) -> dict[str, float]:
        categories = None if labels is None else ("animals", "indoor")
        protocol = ImageProtocol.model_validate(fields | {"n_images": len(images), "categories": categories})
        # In two parts each, as image sets and datasets give them.
        shards = [ImageSet(part, ["a"] * len(part), [0] * len(part)) for part in np.array_split(images, 2)]
        return metric_of(protocol, clip_folder, np.array_split(references, 2), labels).measure_images(shards)

    values = values_of(shown, references, labels)
    assert values.keys() == {"fid_clip", "fid_clip_animals", "fid_clip_indoor"}
    assert values["fid_clip"] == pytest.approx(values_of(shown, references, None)["fid_clip"], rel=1e-4)
    for name in ("animals", "indoor"):
        is_own = np.array(labels) == name
        alone = values_of(shown[is_own[:N_IMAGES]], references[is_own], None)
        assert values[f"fid_clip_{name}"] == pytest.approx(alone["fid_clip"], rel=1e-3)


def test_another_number_of_images_than_the_protocol_s_is_refused(clip_folder: Path) -> None:
    protocol = ImageProtocol.model_validate({"metric": "fid", "extractor": "clip", "resolution": 32, "n_images": 2})
    shard = ImageSet(some_images(3, 32), ["a"] * 3, [0] * 3)
    with pytest.raises(DataError, match="3 images were given, but the protocol has n_images 2"):
        metric_of(protocol, clip_folder, [some_images(2, 32)]).measure_images([shard])


def test_a_clip_that_reads_images_of_another_side_is_refused_before_any_is_generated(clip_folder: Path) -> None:
    fields = {"metric": "clip_score", "extractor": "clip", "resolution": 64, "n_images": 2}
    with pytest.raises(ConfigError, match=r"resolution is 64, but the CLIP in .* reads images of 32 px"):
        metric_of(ImageProtocol.model_validate(fields), clip_folder).load()


@pytest.mark.parametrize(("sampler", "allowed"), [
    ("star", "guidance_scale, top_k, top_p, batch_size"), ("flow", "num_inference_steps, guidance_scale, batch_size"),
])  # fmt: skip
def test_an_option_that_the_sampler_does_not_have_is_refused_with_those_that_it_has(sampler: str, allowed: str) -> None:
    fields = {"metric": "fid", "extractor": "clip", "resolution": 32, "n_images": 2, "sampler": sampler}
    with pytest.raises(
        ConfigError, match=rf"^Evaluation protocol given is not valid: sampling\.steps: .*\. Allowed: {allowed}\.$"
    ):
        metric_of(ImageProtocol.model_validate(fields | {"sampling": {"steps": 20}}))


def test_too_few_references_for_a_subset_are_refused_before_any_image_is_generated(clip_folder: Path) -> None:
    fields = {"metric": "kid", "extractor": "clip", "resolution": 32, "n_images": 6, "n_subsets": 2, "subset_size": 5}
    protocol = ImageProtocol.model_validate(fields)
    metric_of(protocol, clip_folder, [some_images(5, 32)]).load()
    with pytest.raises(DataError, match="has subset_size 5, but only 4 reference images can be decoded"):
        metric_of(protocol, clip_folder, [some_images(4, 32)]).load()
