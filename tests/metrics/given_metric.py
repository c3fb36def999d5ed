"""A metric of given images and references, without a store."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from sqlalchemy import create_engine

from alchemist_core.metrics.catalogue import METRICS, find_metric
from alchemist_core.metrics.image_metrics import ImageMetric
from alchemist_core.metrics.metric import Bench, EvaluationSamples
from alchemist_core.protocols.protocol import ImageProtocol, ProtocolFile, read_protocol
from alchemist_core.store.sample_table import spool_samples
from tests.metrics.scene_metric import SceneScore

NOWHERE = create_engine("postgresql+psycopg2://nowhere")


def forget(*_args: object) -> None:
    """Ignore the progress."""


def read_image_protocol(name: str) -> ImageProtocol:
    """The protocol of a metric of generated images."""
    return read_protocol(name).check(ImageProtocol)


class GivenSamples(EvaluationSamples):
    """Reference images that were given, in place of those of an evaluation dataset."""

    def __init__(self, references: Sequence[np.ndarray]) -> None:
        super().__init__(NOWHERE, lambda: spool_samples([]), forget)
        self._references = references

    def images(self, _side: int) -> Iterator[np.ndarray]:
        yield from self._references


def metric_of(
    protocol: ImageProtocol,
    weights: Path | None = None,
    references: Sequence[np.ndarray] = (),
    labels: list[str] | None = None,
) -> ImageMetric:
    """Make the metric of a protocol, as `pin` leaves it.

    Args:
        protocol: Its fields.
        weights: The network's.
        references: The reference images, in parts.
        labels: The category of each reference; the first ones are those of the images.
    """
    file = ProtocolFile("given", protocol.as_json())
    make = SceneScore if protocol.metric == "geneval_scenes" else find_metric(file)
    metric = make(Bench(NOWHERE, None, GivenSamples(references), weights, forget, lambda _: nullcontext()), file)
    metric.weights, metric.labels = weights, labels
    return metric


def add_scene_metric() -> None:
    """Register the tests' metric, so that protocols can name it."""
    METRICS["geneval_scenes"] = SceneScore
