"""A metric from stored images alone: features by the contract's network, then one number, or for scenes one for each question."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.local.scenes import BACKGROUND, COLOURS
from alchemist_core.metrics.distances import clip_score, drawn_kernel_distance, fit_gaussian, frechet_distance
from alchemist_core.metrics.drawn_shapes import find_shapes
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.metrics.scene_questions import read_request, score_scenes
from alchemist_core.models.features import CleanInceptionV3, Clip, EfficientNetLite0, Features, InceptionV3
from alchemist_core.models.image_text import ImageText
from alchemist_core.models.images import ImageArray
from alchemist_core.protocols.protocol import Contract
from alchemist_core.training.launching import own_device

Network = EfficientNetLite0 | InceptionV3 | CleanInceptionV3 | Clip | ImageText
_NETWORKS: dict[str, Callable[[Path, str], Network]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "inception_v3": InceptionV3,
    "inception_v3_clean": CleanInceptionV3,
    "clip": Clip,
    "efficientnet_lite0_minilm_head": ImageText,
}


class Labels(NamedTuple):
    """The category of each generated image and of each reference, in their order."""

    images: Sequence[str]
    references: Sequence[str]


class ImageMetric:
    """The metric of one contract; its network and references are loaded once for many models.

    Images come and go by the shard: what is kept of 30,000 are their features.

    Raises:
        ConfigError: The network in `weights` is another one than the contract's.
        DataError: References and their labels differ in number.
    """

    def __init__(
        self, contract: Contract, weights: Path | None, references: Iterable[ImageArray], labels: Labels | None = None
    ) -> None:
        self.contract, self._labels = contract, labels
        if contract.metric == "geneval_scenes":
            return
        assert weights is not None
        self._network = _NETWORKS[contract.extractor](weights, str(own_device()))
        if isinstance(self._network, ImageText) and self._network.side != contract.resolution:
            raise ConfigError(
                f"resolution is {contract.resolution}, but the head in {weights} was trained on pictures of "
                f"{self._network.side} px: train one by alchemist image-text-head --resolution {contract.resolution}"
            )
        if contract.metric in {"fid", "kid"}:
            self._reference_MD: Features = np.concatenate([self._network.features(part) for part in references])
            if labels is not None and len(labels.references) != len(self._reference_MD):
                raise DataError(
                    f"{len(self._reference_MD)} references, but {len(labels.references)} have a category: one cannot be "
                    "decoded; ingest the set again"
                )

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
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return {title: self._compare(*columns)} | self._by_category(columns[0])

    def _read(self, shard: ImageSet) -> Any:
        """Give the features of a shard's images and, for CLIP and the head, of their prompts; of scenes what is asked and what is there."""
        image_NHWC = shard.resized(self.contract.resolution)
        if self.contract.metric == "geneval_scenes":
            pairs = zip(image_NHWC, shard.prompts, strict=True)
            return [(read_request(prompt), find_shapes(image, COLOURS, BACKGROUND)) for image, prompt in pairs]
        if isinstance(self._network, Clip | ImageText):
            return self._network.features(image_NHWC), self._network.text_features(shard.prompts)
        return (self._network.features(image_NHWC),)

    def _by_category(self, feature_ND: Features) -> dict[str, float]:
        """Compare the images of each category with its own references."""
        if self._labels is None:
            return {}
        of_image_N, of_reference_M = (np.array(side) for side in self._labels)
        return {
            f"{self.contract.title}_{name}": _fid(
                feature_ND[of_image_N == name], self._reference_MD[of_reference_M == name]
            )
            for name in self.contract.categories or ()
        }

    def _compare(self, feature_ND: Features, text_ND: Features | None = None) -> float:
        contract = self.contract
        if text_ND is not None:
            return clip_score(feature_ND, text_ND)
        if contract.metric == "fid":
            return _fid(feature_ND, self._reference_MD)
        assert contract.n_subsets is not None
        assert contract.subset_size is not None
        return drawn_kernel_distance(
            feature_ND, self._reference_MD, n_subsets=contract.n_subsets, subset_size=contract.subset_size
        ).mean


def _fid(feature_ND: Features, reference_MD: Features) -> float:
    return frechet_distance(fit_gaussian(feature_ND), fit_gaussian(reference_MD))
