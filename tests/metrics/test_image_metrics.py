"""The protocol names the image metric, whichever network computes the features."""

from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import DataError
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


def test_another_number_of_images_than_the_protocol_s_is_refused(clip_folder: Path) -> None:
    protocol = ImageProtocol.model_validate({"metric": "fid", "extractor": "clip", "resolution": 32, "n_images": 2})
    shard = ImageSet(some_images(3, 32), ["a"] * 3, [0] * 3)
    with pytest.raises(DataError, match="3 images were given, but the protocol has n_images 2"):
        metric_of(protocol, clip_folder, [some_images(2, 32)]).measure_images([shard])
