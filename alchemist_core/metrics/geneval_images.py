"""GenEval over a folder of images in its own layout: detect, name colours, judge; and its lines of verdicts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.detectors import ColourNamer, Found, Mask2Former, Picture
from alchemist_core.metrics.geneval import PUBLISHED, Detection, Rules, judge, keep_detections, summarize
from alchemist_core.metrics.geneval_files import Result, find_images
from alchemist_core.models.features import Clip
from alchemist_core.training.launching import own_device

Report = Callable[[int, int, str], None]


class Detector(Protocol):
    """What finds objects."""

    @property
    def n_classes(self) -> int:
        """Count the classes that it knows."""
        ...

    def detect(self, image_HW3: Picture) -> list[Found]:
        """Find objects, unsorted and unfiltered."""
        ...


class Namer(Protocol):
    """What names colours."""

    def name(self, image_HW3: Picture, found: Found, class_name: str) -> str:
        """Name the colour of one object."""
        ...


def load_networks(detector: Path, clip: Path) -> tuple[Detector, Namer]:
    """Load Mask2Former, which finds objects, and CLIP, which names their colours.

    Raises:
        ConfigError: A folder does not hold that network.
    """
    device = str(own_device())
    return Mask2Former(detector, device), ColourNamer(Clip(clip, device))


def judge_images(
    folder: Path, names: Sequence[str], detector: Detector, namer: Namer, *, report: Report, rules: Rules = PUBLISHED
) -> list[Result]:
    """Judge every image under a folder.

    Args:
        folder: `NUMBER/samples/*.png` beside `NUMBER/metadata.jsonl`.
        names: The classes' names in the detector's order.
        detector: Finds objects.
        namer: Names colours where a prompt asks for one.
        report: Told the images done.
        rules: Thresholds.

    Raises:
        ConfigError: Names and classes differ in number.
    """
    if len(names) != detector.n_classes:
        raise ConfigError(f"{len(names)} names for {detector.n_classes} classes of the detector; give its own list")
    images = list(find_images(folder))
    results = []
    for done, (path, metadata) in enumerate(images, 1):
        image_HW3 = np.array(Image.open(path).convert("RGB"))
        objects = _describe(image_HW3, metadata, names, detector.detect(image_HW3), namer, rules)
        kept = keep_detections(objects, metadata["tag"], rules)
        verdict = judge(metadata, kept, rules)
        boxes = {name: [[*map(float, one.box), one.score] for one in ones] for name, ones in kept.items()}
        results.append(Result(str(path), verdict.is_correct, verdict.reason, metadata, boxes))
        report(done, len(images), f"{metadata['tag']}")
    return results


def summarize_results(results: Sequence[Result]) -> dict[str, float]:
    """Give each task's share of correct images, and overall the mean over the tasks."""
    verdicts: dict[str, list[bool]] = {}
    for one in results:
        verdicts.setdefault(one.metadata["tag"], []).append(one.is_correct)
    return summarize(verdicts)


def _describe(
    image_HW3: Picture,
    metadata: Mapping[str, Any],
    names: Sequence[str],
    found: Sequence[Found],
    namer: Namer,
    rules: Rules,
) -> dict[str, list[Detection]]:
    """Group what was found by class; colours are named only where they are asked for and the box may count."""
    coloured = {item["class"] for item in metadata["include"] if "color" in item}
    objects: dict[str, list[Detection]] = {}
    for one in found:
        name = names[one.label]
        is_asked = name in coloured and one.score > rules.threshold
        colour = namer.name(image_HW3, one, name) if is_asked else None
        objects.setdefault(name, []).append(Detection(one.box, one.score, colour))
    return objects
