"""Metrics of generated images: each model generates one image per caption of the evaluation dataset, once; images are stored in tars.

A class computes a value from images or their features. Features of 30,000 images are kept in memory, the images are not.

Letters: N images · M references · D features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alchemist_core.config import fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path, require_artifact
from alchemist_core.metrics.distances import (
    Features,
    clip_score,
    drawn_kernel_distance,
    fit_gaussian,
    frechet_distance,
)
from alchemist_core.metrics.image_sets import ImageSet, generate_images, is_finished, read_set
from alchemist_core.metrics.metric import Bench, Measured
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.extractors import find_weights, weights_sha256
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.protocols.protocol import ImageProtocol, ProtocolFile, texts_sha256
from alchemist_core.store.manifests import hashes_sha256
from alchemist_core.store.models import ModelRow

SAMPLERS: dict[str, type[SamplingConfig] | type[FlowSamplingConfig]] = {
    "star": SamplingConfig,
    "flow": FlowSamplingConfig,
}


class ImageMetric(ABC):
    """Base of metrics of generated images. A subclass implements `compare`."""

    uses_device = True
    fields: ClassVar[type[ImageProtocol]] = ImageProtocol
    """Model of the protocol's fields; a metric with fields of its own names a subclass."""
    has_references: ClassVar[bool] = False
    """Whether the metric compares images with those of the evaluation dataset."""

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        self.bench, self.protocol_name = bench, file.name
        self.protocol = file.check(self.fields)
        file.check(SAMPLERS[self.protocol.sampler], table="sampling")
        self.weights: Path | None = None
        self.labels: list[str] | None = None

    @property
    def title(self) -> str:
        """The metric's name in every table."""
        return self.protocol.title

    @property
    def sampler(self) -> str:
        """The family of models whose images are compared."""
        return self.protocol.sampler

    @cached_property
    def prompts(self) -> list[str]:
        """The captions for which images are generated.

        Raises:
            DataError: The evaluation dataset has fewer samples than the protocol's n_images.
        """
        rows, n_images = self.bench.samples.rows, self.protocol.n_images
        if len(rows) < n_images:
            raise DataError(
                f"Evaluation protocol {self.protocol_name} has n_images {n_images}, but the evaluation dataset has "
                f"{len(rows)} samples. Ingest a larger one, or lower n_images in a copy of the protocol under another name."
            )
        return [row.caption for row in rows[:n_images]]

    def pin(self) -> dict[str, Any]:
        """Return the protocol with the hashes of prompts, weights, references and categories filled in.

        Raises:
            ConfigError: The protocol's file gives a hash, and what was found has another one.
            DataError: The dataset's samples or categories are not those of the protocol.
        """
        draft = self.protocol
        self.weights = find_weights(draft.extractor, self.bench.weights)
        found: dict[str, Any] = {"prompts_sha256": texts_sha256(self.prompts)}
        self.labels = self._read_labels()
        if self.weights is not None:
            found["weights_sha256"] = weights_sha256(self.weights)
        if self.has_references:
            found["reference_sha256"] = hashes_sha256(self.bench.samples.rows.hashes("image_hash"))
        if self.labels is not None:
            found["labels_sha256"] = texts_sha256(self.labels)
        # Store the sampler's defaults too, so that a later change of a default makes another protocol.
        sampling = SAMPLERS[draft.sampler].from_stored(draft.sampling).hashed_json()
        self.protocol = draft.model_copy(update={"sampling": sampling}).pinned(**found)
        return self.protocol.as_json()

    def measure(self, model: ModelRow) -> Measured:
        """Generate the model's images where they are missing, and compare them."""
        # Check the weights before generation, which can take hours.
        self.load()
        return Measured(self.measure_images(read_set(self._generate(model))), self.protocol.n_images)

    def measure_images(self, shards: Iterable[ImageSet]) -> dict[str, float]:
        """Return the values of a set of images.

        Raises:
            DataError: The number of images is not the protocol's.
        """
        self.load()
        parts, n_images = [], 0
        for shard in shards:
            parts.append(self.read(shard))
            n_images += len(shard.prompts)
        if n_images != self.protocol.n_images:
            raise DataError(f"{n_images} images were given, but the protocol has n_images {self.protocol.n_images}.")
        return self.compare(*map(_join, zip(*parts, strict=True)))

    def load(self) -> None:
        """Load the network, and the features of the references if there are any: once for many models."""
        _ = self.references if self.has_references else self.network

    def read(self, shard: ImageSet) -> tuple[Any, ...]:
        """Return arrays or lists with one row per image of a shard; `compare` is given those of all shards, joined."""
        return (self.network.features(shard.resized(self.protocol.resolution)),)

    @abstractmethod
    def compare(self, *columns_N: Any) -> dict[str, float]:
        """Return the value under `title`, and further values under names that begin with the title."""

    @cached_property
    def network(self) -> Any:
        """The protocol's extractor, on this process's device.

        Raises:
            ConfigError: The network reads images of another size than the protocol's resolution.
        """
        extractor, resolution = self.protocol.extractor, self.protocol.resolution
        assert self.weights is not None, f"no weights are known for {extractor}"
        network = load_network(extractor, self.weights)
        if extractor == "efficientnet_lite0_minilm_head" and network.side != resolution:
            raise ConfigError(
                f"resolution is {resolution}, but the head in {self.weights} was trained on images of {network.side} px. "
                f"Train one with alchemist image-text-head --resolution {resolution}."
            )
        if extractor == "clip" and network.side != resolution:
            raise ConfigError(
                f"resolution is {resolution}, but the CLIP in {self.weights} reads images of {network.side} px. Give another CLIP, or set "
                f"resolution = {network.side} in a copy of the protocol under another name."
            )
        return network

    @cached_property
    def references(self) -> Features:
        """Features of the images of the evaluation dataset.

        Raises:
            DataError: An image cannot be decoded, so that labels and images are not aligned.
        """
        images = self.bench.samples.images(self.protocol.resolution)
        feature_MD: Features = np.concatenate([self.network.features(part) for part in images])
        if self.labels is not None and len(self.labels) != len(feature_MD):
            raise DataError(
                f"{len(feature_MD)} reference images can be decoded, but {len(self.labels)} have a category. "
                "Ingest the evaluation dataset again."
            )
        return feature_MD

    def _read_labels(self) -> list[str] | None:
        categories = self.protocol.categories
        if categories is None:
            return None
        labels = self.bench.samples.categories()
        if set(labels) != set(categories):
            raise DataError(
                f"Categories are {', '.join(sorted(categories))} in the protocol, but {', '.join(sorted(set(labels)))} in the "
                "evaluation dataset. Import MJHQ-30K with --layout mjhq, or give the dataset's categories in a copy of the protocol."
            )
        return labels

    def _generate(self, model: ModelRow) -> Path:
        """Return the folder of a model's images, which are generated if they are not there; a complete set needs no model."""
        protocol = self.protocol
        identity = {
            "model": model.checkpoint_sha256.hex(), "prompts": protocol.prompts_sha256,
            "first_seed": protocol.first_seed, "sampling": protocol.sampling,
        }  # fmt: skip
        out = artifact_path(f"images/{fingerprint(identity)}")
        # Protocols with equal settings of generation share their images.
        with self.bench.hold(f"images:{out.name}"):
            if not is_finished(out):
                generate_images(
                    require_artifact(model.checkpoint_uri, model.checkpoint_sha256), self.prompts,
                    first_seed=protocol.first_seed, sampling=SAMPLERS[protocol.sampler].from_stored(protocol.sampling),
                    out=out, on_progress=self.bench.on_progress,
                )  # fmt: skip
        return out


class Fid(ImageMetric):
    """Fréchet distance of the images' features to those of the references; with categories, one of each category too.

    Source: Heusel et al. 2017, Eq. 6.
    """

    has_references = True

    def compare(self, feature_ND: Features) -> dict[str, float]:
        """Compare all images, then those of each category with its own references."""
        values = {self.title: _fid(feature_ND, self.references)}
        if self.labels is None:
            return values
        of_reference_M = np.array(self.labels)
        of_image_N = of_reference_M[: len(feature_ND)]
        for name in self.protocol.categories or ():
            own_ND, own_MD = feature_ND[of_image_N == name], self.references[of_reference_M == name]
            values[f"{self.title}_{name}"] = _fid(own_ND, own_MD)
        return values


class Kid(ImageMetric):
    """Kernel distance of the images' features to those of the references, averaged over random subsets.

    Source: Bińkowski et al. 2018, Sec. 3.
    """

    has_references = True

    def load(self) -> None:
        """Load the network and the features of the references.

        Raises:
            DataError: Fewer references can be decoded than a subset has.
        """
        super().load()
        subset_size = self.protocol.subset_size
        assert subset_size is not None
        if (n_references := len(self.references)) < subset_size:
            raise DataError(
                f"Evaluation protocol {self.protocol_name} has subset_size {subset_size}, but only {n_references} reference images can be "
                "decoded. Ingest the evaluation dataset again, or lower subset_size in a copy of the protocol under another name."
            )

    def compare(self, feature_ND: Features) -> dict[str, float]:
        """Average over the protocol's number of subsets."""
        n_subsets, subset_size = self.protocol.n_subsets, self.protocol.subset_size
        assert n_subsets is not None
        assert subset_size is not None
        distance = drawn_kernel_distance(feature_ND, self.references, n_subsets=n_subsets, subset_size=subset_size)
        return {self.title: distance.mean}


class ClipScore(ImageMetric):
    """Mean cosine between each image and its own prompt, on CLIP or on a trained image-text head.

    Source: Hessel et al. 2021, Eq. 1.
    """

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        super().__init__(bench, file)
        if self.protocol.extractor not in {"clip", "efficientnet_lite0_minilm_head"}:
            raise ConfigError(
                f"Evaluation protocol {file.name}: {self.protocol.metric} needs features of texts, which extractor "
                f"{self.protocol.extractor} does not compute. Allowed: clip and efficientnet_lite0_minilm_head."
            )

    def read(self, shard: ImageSet) -> tuple[Any, ...]:
        """Return features of a shard's images and of their prompts."""
        return (*super().read(shard), self.network.text_features(shard.prompts))

    def compare(self, feature_ND: Features, text_ND: Features) -> dict[str, float]:
        """Average the cosines."""
        return {self.title: clip_score(feature_ND, text_ND)}


def load_network(extractor: str, weights: Path) -> Any:
    """Load the network that computes features, on the device of this process.

    Raises:
        ConfigError: The weights are another network's.
    """
    from alchemist_core.models.features import CleanInceptionV3, Clip, EfficientNetLite0, InceptionV3  # noqa: PLC0415  torch
    from alchemist_core.models.image_text import ImageText  # noqa: PLC0415
    from alchemist_core.training.launching import own_device  # noqa: PLC0415

    networks: dict[str, Any] = {
        "efficientnet_lite0": EfficientNetLite0,
        "inception_v3": InceptionV3,
        "inception_v3_clean": CleanInceptionV3,
        "clip": Clip,
        "efficientnet_lite0_minilm_head": ImageText,
    }
    return networks[extractor](weights, str(own_device()))


def _join(parts: tuple[Any, ...]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]


def _fid(feature_ND: Features, reference_MD: Features) -> float:
    return frechet_distance(fit_gaussian(feature_ND), fit_gaussian(reference_MD))
