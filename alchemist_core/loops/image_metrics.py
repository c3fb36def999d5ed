"""A metric from stored images alone: features by the contract's network, then one number, or for scenes one for each question."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alchemist_core.data.image_sets import ImageSet
from alchemist_core.errors import DataError
from alchemist_core.evaluation.contract import Contract
from alchemist_core.evaluation.distances import clip_score, drawn_kernel_distance, fit_gaussian, frechet_distance
from alchemist_core.evaluation.drawn_shapes import find_shapes
from alchemist_core.evaluation.scene_questions import read_request, score_scenes
from alchemist_core.local.scene_drawing import BACKGROUND, COLOURS
from alchemist_core.models.features import Clip, EfficientNetLite0, Features, InceptionV3
from alchemist_core.models.images import ImageArray

_NETWORKS: dict[str, Callable[[Path, str], EfficientNetLite0 | InceptionV3 | Clip]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "inception_v3": InceptionV3,
    "clip": Clip,
}


class ImageMetric:
    """The metric of one contract; its network and references are loaded once for many models.

    Images come and go by the shard: what is kept of 30,000 are their features.
    """

    def __init__(self, contract: Contract, weights: Path | None, references: Iterable[ImageArray]) -> None:
        self.contract = contract
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if contract.metric == "geneval_scenes":
            return
        assert weights is not None
        self._network = _NETWORKS[contract.extractor](weights, device)
        if contract.metric in {"fid", "kid"}:
            self._reference_MD: Features = np.concatenate([self._network.features(part) for part in references])

    def measure(self, shards: Iterable[ImageSet]) -> dict[str, float]:
        """Give the metric under its title, and its parts, if it has any, under titles that begin with it.

        Raises:
            DataError: There is another number of images than the contract says.
        """
        title, parts, n_images = self.contract.title, [], 0
        for shard in shards:
            parts.append(self._read(shard))
            n_images += len(shard.prompts)
        if n_images != self.contract.n_images:
            raise DataError(f"{n_images} images, but the contract says n_images {self.contract.n_images}")
        if self.contract.metric == "geneval_scenes":
            requests, shapes = zip(*(pair for part in parts for pair in part), strict=True)
            values = score_scenes(requests, shapes)
            return {title if tag == "overall" else f"{title}_{tag}": value for tag, value in values.items()}
        return {title: self._compare(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))}

    def _read(self, shard: ImageSet) -> Any:
        """Give the features of a shard's images and, for CLIP, of their prompts; of scenes what is asked and what is there."""
        image_NHWC = shard.resized(self.contract.resolution)
        if self.contract.metric == "geneval_scenes":
            pairs = zip(image_NHWC, shard.prompts, strict=True)
            return [(read_request(prompt), find_shapes(image, COLOURS, BACKGROUND)) for image, prompt in pairs]
        if isinstance(self._network, Clip):
            return self._network.features(image_NHWC), self._network.text_features(shard.prompts)
        return (self._network.features(image_NHWC),)

    def _compare(self, feature_ND: Features, text_ND: Features | None = None) -> float:
        contract = self.contract
        if text_ND is not None:
            return clip_score(feature_ND, text_ND)
        if contract.metric == "fid":
            return frechet_distance(fit_gaussian(feature_ND), fit_gaussian(self._reference_MD))
        assert contract.n_subsets is not None
        assert contract.subset_size is not None
        return drawn_kernel_distance(
            feature_ND, self._reference_MD, n_subsets=contract.n_subsets, subset_size=contract.subset_size
        ).mean
