"""A metric from outside the package: GenEval's questions about synthetic scenes, answered by arithmetic without a network.

This class and `scenes_geneval.toml` beside it are the whole metric; it calls only its own arithmetic.
"""

from typing import Any, Literal

from pydantic import Field

from alchemist_core.local.scenes import BACKGROUND, COLOURS
from alchemist_core.metrics.image_metrics import ImageMetric
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.protocols.protocol import ImageProtocol
from tests.metrics.drawn_shapes import find_shapes
from tests.metrics.scene_questions import read_request, score_scenes


class SceneProtocol(ImageProtocol):
    """An image protocol whose images are analysed instead of given to a network."""

    extractor: Literal["drawn_shapes"] = Field(..., description="The analysis")

    @property
    def title(self) -> str:
        """The bare name: there is one analysis only."""
        return self.metric


class SceneScore(ImageMetric):
    """The share of questions that the images answer rightly, and each question's own."""

    fields = SceneProtocol

    def load(self) -> None:
        """Load nothing: no network looks at the images."""

    def read(self, shard: ImageSet) -> tuple[Any, ...]:
        """Return the requested and the found shapes."""
        images = shard.resized(self.protocol.resolution)
        shapes = [find_shapes(image, COLOURS, BACKGROUND) for image in images]
        return [read_request(prompt) for prompt in shard.prompts], shapes

    def compare(self, requests: Any, shapes: Any) -> dict[str, float]:
        """Answer every question."""
        values = score_scenes(requests, shapes)
        return {self.title if tag == "overall" else f"{self.title}_{tag}": value for tag, value in values.items()}
