"""Probabilities of classes by an image classifier, such as one for images that are not safe for work, watermarks or documents.

Letters: B samples in a batch · M classes that are asked for · L all classes of the model.
"""

import re
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from alchemist_core.config import Config, Located
from alchemist_core.errors import ConfigError
from alchemist_core.models.published.sources import locate_model, model_sha256
from alchemist_core.scorers.clip import HALF_HELP, MODEL_HELP
from alchemist_core.scorers.scorer import NOT_IDENTITY, ONE_OUTPUT, Batch, Scorer

_N_NAMED = 20
_CONVNEXT_CUT = 384
"""ConvNeXt's image processor enlarges and crops below this side, and only resizes from it on."""


def _split_bars(value: Any) -> Any:
    return tuple(part.strip() for part in value.split("|")) if isinstance(value, str) else value


class ClassifierOptions(Config):
    """Which classifier, and which of its classes."""

    model: Annotated[str, Located(is_or_name=True)] = Field(
        description=f"Classifier: {MODEL_HELP}", json_schema_extra=NOT_IDENTITY
    )
    class_names: Annotated[tuple[str, ...], BeforeValidator(_split_bars)] = Field(
        min_length=1, description="Classes whose probabilities are the scores; in a text, | separates them"
    )
    half: bool = Field(True, description=HALF_HELP)


class Classifier(Scorer):
    """Probability of one class, or of several, by an image classifier of transformers; higher means more of the class.

    With one class there is one score; with several, each score is named after its class in small letters, digits and _.
    Probabilities are the softmax over all classes, or the sigmoid of each if the model's config says multi_label_classification or
    it has one class, as transformers' pipelines compute them. The pixels go through the model's own image processor.

    Departs: published image processors may squeeze the whole image into a square; here the largest centred square is scored.

    Raises:
        ConfigError: The model is not an image classifier, or has no such class.
    """

    Options = ClassifierOptions
    uses_device = True

    def __init__(self, options: Config, device: str = "cpu") -> None:
        assert isinstance(options, ClassifierOptions)
        import torch  # noqa: PLC0415  takes seconds to import
        from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: PLC0415  as above

        from alchemist_core.models.pretrained import load_pretrained  # noqa: PLC0415  as above

        located = locate_model(options.model)
        super().__init__(options.model_copy(update={"model": located.source}), device)
        self._sha256 = model_sha256(located.path)
        self._dtype = torch.float16 if options.half and torch.device(device).type == "cuda" else torch.float32
        self.dtype = str(self._dtype).removeprefix("torch.")
        self._network = load_pretrained(
            AutoModelForImageClassification, located.path, what="an image classifier",
            remedy="Give the folder of one, such as ViT for classification.", dtype=self._dtype,
        ).requires_grad_(requires_grad=False).to(device)  # fmt: skip
        try:
            kind: Any = AutoImageProcessor
            self._processor = kind.from_pretrained(located.path, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{located.path} does not hold the classifier's image processor (preprocessor_config.json): {error}"
            ) from error
        self.image_side = _side_of(self._processor)
        self._columns, self.outputs = self._find_classes(options.class_names)

    def _find_classes(self, names: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
        """Return the column of each class, and the names of the outputs."""
        labels = {str(label): int(at) for at, label in self._network.config.id2label.items()}
        if unknown := [name for name in names if name not in labels]:
            more = "" if len(labels) <= _N_NAMED else f" and {len(labels) - _N_NAMED:,} more"
            raise ConfigError(
                f"{self.options.as_json()['model']} has no class {unknown[0]!r}. It has: {', '.join(list(labels)[:_N_NAMED])}{more}."
            )
        outputs = tuple(make_identifier(name) for name in names)
        if len(set(outputs)) < len(outputs):
            raise ConfigError(f"class_names {', '.join(names)} give the same output twice: {', '.join(outputs)}.")
        return [labels[name] for name in names], ONE_OUTPUT if len(names) == 1 else outputs

    def identity(self) -> dict[str, Any]:
        """Return the hash of the model's files."""
        return {"model_sha256": self._sha256}

    def score(self, batch: Batch) -> Float32[np.ndarray, "B M"]:
        """Return the probability of each class that was asked for."""
        import torch  # noqa: PLC0415  as above

        from alchemist_core.models.precision import without_tf32  # noqa: PLC0415  as above

        with torch.inference_mode(), without_tf32:
            pixels = self._processor(list(batch.image_BHWC), return_tensors="pt")["pixel_values"]
            logit_BL = self._network(pixels.to(self.device, self._dtype)).logits.float()
            config = self._network.config
            is_each = config.problem_type == "multi_label_classification" or logit_BL.shape[1] == 1
            probability_BL = logit_BL.sigmoid() if is_each else logit_BL.softmax(1)
        probability_BM: NDArray[np.float32] = probability_BL[:, self._columns].cpu().numpy()
        return probability_BM


def make_identifier(name: str) -> str:
    """Return a class's name as the name of an output.

    >>> make_identifier("Sexy / NSFW"), make_identifier("3d art")
    ('sexy_nsfw', 'class_3d_art')
    """
    text = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return text if re.match("[a-z]", text) else f"class_{text}"


def _side_of(processor: Any) -> int:
    """Return the side to which an image processor resizes, so that it finds the image at its size."""
    size, crop_pct = processor.size, getattr(processor, "crop_pct", None)
    side = size.get("height") or size.get("shortest_edge")
    if side is None:
        raise ConfigError(f"The classifier's image processor resizes to {dict(size)}, which is not a square.")
    if crop_pct and "shortest_edge" in size and side < _CONVNEXT_CUT:
        return int(side / crop_pct)
    return int(side)
