"""GenEval: does an image show the objects, counts, colours and positions that its prompt describes?

The file has four parts: the official rules, which turn a detector's boxes into a verdict with a reason (same texts, same float32); the
official file formats, so that the official evaluator can be used too; judging a folder of images; the metric that stores the shares.

Source: Ghosh et al. 2023.

Letters: H W pixels.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray
from PIL import Image

from alchemist_core.config import current_names
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import atomic_folder, write_bytes_atomically
from alchemist_core.metrics.metric import Measured
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.extractors import weights_sha256
from alchemist_core.protocols.protocol import ImageProtocol, ProtocolFile, find_differences, texts_sha256
from alchemist_core.store.models import ModelRow
from alchemist_core.telemetry import OnProgress

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_NEAR = 1e-3

Box = Float32[np.ndarray, "4"]
ImageHW3 = UInt8[np.ndarray, "H W 3"]


class Detection(NamedTuple):
    """One box: its left, top, right and bottom in pixels, and the colour that CLIP gave it if the prompt asks for one."""

    box: Sequence[float]
    score: float
    colour: str | None = None


class Rules(NamedTuple):
    """GenEval's thresholds: 0 to 1, and the largest number of objects per class."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


PUBLISHED = Rules()


class Verdict(NamedTuple):
    """Whether an image shows what its prompt describes; if not, a line with the reason for each fault."""

    is_correct: bool
    reason: str


Objects = Mapping[str, Sequence[Detection]]


def keep_detections(found: Objects, tag: str, rules: Rules = PUBLISHED) -> dict[str, list[Detection]]:
    """Return the boxes that count, best first; classes without such a box are absent.

    The number of objects is limited before overlapping boxes are dropped. Only boxes of one class are compared.

    Args:
        found: Everything that was detected, by class.
        tag: The prompt's task; counting has its own threshold.
        rules: Thresholds.
    """
    least = np.float32(rules.counting_threshold if tag == "counting" else rules.threshold)
    kept = {}
    for name, detections in found.items():
        ordered = sorted(detections, key=lambda one: one.score, reverse=True)
        confident = [one for one in ordered if np.float32(one.score) > least][: rules.max_objects]
        if distinct := _drop_overlaps(confident, rules.max_overlap):
            kept[name] = distinct
    return kept


def judge(asked: Mapping[str, Any], kept: Objects, rules: Rules = PUBLISHED) -> Verdict:
    """Compare the kept boxes of an image with the metadata of its prompt.

    Source: Ghosh et al. 2023 (GenEval), its evaluation script.
    """
    faults: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for item in asked.get("include", []):
        best = kept.get(item["class"], [])[: item["count"]]
        fault = _count_fault(item, best) or _colour_fault(item, best) or _position_fault(item, best, matched, rules)
        faults += [fault] if fault else []
        matched.append(None if fault else best)
    for item in asked.get("exclude", []):
        n_found = len(kept.get(item["class"], []))
        if n_found >= item["count"]:
            faults.append(f"expected {item['class']}<{item['count']}, found {n_found}")
    return Verdict(not faults, "\n".join(faults))


def relations(box: Box, target: Box, margin: float = 0.1) -> list[str]:
    """Return where a box is relative to another one: none, one or two of left of, right of, above, below.

    >>> relations(np.float32([0, 0, 10, 10]), np.float32([50, 0, 60, 10]))
    ['left of']
    """
    (low, high), (target_low, target_high) = box.reshape(2, 2), target.reshape(2, 2)
    offset = (low + high) / 2 - (target_low + target_high) / 2
    sizes = np.abs(high - low) + np.abs(target_high - target_low)
    reduced = np.maximum(np.abs(offset) - np.float32(margin) * sizes, 0) * np.sign(offset)
    if (np.abs(reduced) < _NEAR).all():
        return []
    # GenEval divides by the length of the offset before it is reduced: a shift along one axis must exceed twice the margin.
    x, y = reduced / np.linalg.norm(offset)
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return [name for name, is_so in holds.items() if is_so]


def summarize(verdicts: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Return each task's share of correct images, and as `overall` their unweighted mean.

    >>> summarize({"colors": [True, False], "position": [False]})
    {'overall': 0.25, 'colors': 0.5, 'position': 0.0}
    """
    shares = {tag: sum(verdicts[tag]) / len(verdicts[tag]) for tag in TAGS if verdicts.get(tag)}
    return {"overall": sum(shares.values()) / len(shares)} | shares


def _drop_overlaps(ordered: Sequence[Detection], max_overlap: float) -> list[Detection]:
    kept: list[Detection] = []
    for one in ordered:
        if max_overlap == 1 or all(_overlap(one.box, better.box) < max_overlap for better in kept):
            kept.append(one)
    return kept


def _overlap(first: Sequence[float], second: Sequence[float]) -> np.float32:
    one, two = _as_box(first), _as_box(second)
    common = _area(np.concatenate([np.maximum(one[:2], two[:2]), np.minimum(one[2:], two[2:])]))
    return np.float32(common / (_area(one) + _area(two) - common))


def _as_box(ends: Sequence[float]) -> Box:
    return np.array(ends, np.float32)


def _area(box: Box) -> np.float32:
    # Both ends are part of the box, so a single pixel has area 1.
    return np.float32(np.maximum(box[2:] - box[:2] + 1, 0).prod())


def _count_fault(item: Mapping[str, Any], best: Sequence[Detection]) -> str | None:
    is_enough = len(best) >= item["count"]
    return None if is_enough else f"expected {item['class']}>={item['count']}, found {len(best)}"


def _colour_fault(item: Mapping[str, Any], best: Sequence[Detection]) -> str | None:
    if "color" not in item:
        return None
    labels, asked = [one.colour for one in best], item["color"]
    if labels.count(asked) >= item["count"]:
        return None
    others = ", ".join(f"{labels.count(colour)} {colour}" for colour in COLOURS if colour in labels)
    return f"expected {asked} {item['class']}>={item['count']}, found {labels.count(asked)} {asked}; and {others}"


def _position_fault(
    item: Mapping[str, Any], best: Sequence[Detection], matched: Sequence[Sequence[Detection] | None], rules: Rules
) -> str | None:
    if "position" not in item:
        return None
    relation, place = item["position"]
    targets = matched[place]
    if targets is None:
        return f"no target for {item['class']} to be {relation}"
    for one in best:
        for target in targets:
            held = relations(_as_box(one.box), _as_box(target.box), rules.position_threshold)
            if relation not in held:
                return f"expected {item['class']} {relation} target, found {' and '.join(held)} target"
    return None


class JudgedImage(NamedTuple):
    """One line of `results.jsonl`: the verdict on one image."""

    filename: str
    is_correct: bool
    reason: str
    metadata: dict[str, Any]
    kept: dict[str, list[list[float]]]
    """The boxes that counted, by class: left, top, right, bottom and score."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read `evaluation_metadata.jsonl`; a prompt's number is that of its line, from 0.

    Raises:
        DataError: A line lacks a field.
    """
    prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, prompt in enumerate(prompts):
        if missing := {"tag", "prompt", "include"} - prompt.keys():
            raise DataError(
                f"{path}, line {number + 1} lacks {', '.join(sorted(missing))}. Give GenEval's evaluation_metadata.jsonl."
            )
    return prompts


def write_images(folder: Path, number: int, metadata: dict[str, Any], image_NHW3: Sequence[NDArray[np.uint8]]) -> None:
    """Write one prompt's images and metadata as the official evaluator reads them: all of them or none.

    Args:
        folder: Folder of all prompts.
        number: The prompt's line number, from 0.
        metadata: The prompt's line.
        image_NHW3: Its images; GenEval publishes scores over four.
    """
    place = folder / f"{number:05d}"
    shutil.rmtree(place, ignore_errors=True)
    with atomic_folder(place) as partial:
        (partial / "samples").mkdir()
        (partial / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
        for sample, image in enumerate(image_NHW3):
            Image.fromarray(image).save(partial / "samples" / f"{sample:05d}.png")


def has_images(folder: Path, number: int, n_images: int) -> bool:
    """Return whether a prompt has all its images."""
    return len(list((folder / f"{number:05d}" / "samples").glob("*.png"))) == n_images


def refuse_other_prompts(folder: Path, prompts: Sequence[dict[str, Any]]) -> None:
    """Refuse a folder that holds images of other prompts, whose verdicts would count as those of these prompts.

    Raises:
        ConfigError: The metadata of a folder is not the line of its number.
    """
    for listing in sorted(folder.glob("*/metadata.jsonl")):
        name = listing.parent.name
        if name.isdigit() and (
            int(name) >= len(prompts) or json.loads(listing.read_text(encoding="utf-8")) != prompts[int(name)]
        ):
            raise ConfigError(
                f"{listing.parent} holds images of another prompt than line {int(name) + 1} of --prompts. Give another --out, or "
                "delete these images."
            )


def find_images(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each image's path with its prompt's metadata, in the order of their names; other folders and files are skipped.

    Raises:
        DataError: A prompt's folder has no metadata.
    """
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()):
        listing = place / "metadata.jsonl"
        if not listing.is_file():
            raise DataError(f"{listing} is missing. It must hold the prompt's line of evaluation_metadata.jsonl.")
        metadata = json.loads(listing.read_text(encoding="utf-8"))
        for path in sorted((place / "samples").glob("*.png")):
            if path.stem.isdigit():
                yield path, metadata


def write_results(path: Path, results: Sequence[JudgedImage]) -> None:
    """Write verdicts as the official evaluator does: one line per image, metadata and details as JSON in a string."""
    lines = [
        json.dumps({
            "filename": one.filename, "tag": one.metadata["tag"], "prompt": one.metadata["prompt"],
            "correct": one.is_correct, "reason": one.reason, "metadata": json.dumps(one.metadata),
            "details": json.dumps(one.kept),
        })
        for one in results
    ]  # fmt: skip
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class Found(NamedTuple):
    """One object that a network found."""

    label: int
    """Index of its class in the detector's list."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in pixels."""
    score: float
    mask_HW: Bool[np.ndarray, "H W"]


class Detector(Protocol):
    """Finds objects in an image."""

    @property
    def n_classes(self) -> int:
        """Number of classes that it finds."""
        ...

    def detect(self, image_HW3: ImageHW3) -> list[Found]:
        """Return the objects of an image, unsorted and unfiltered."""
        ...


class Namer(Protocol):
    """Names the colour of an object."""

    def name(self, image_HW3: ImageHW3, found: Found, class_name: str) -> str:
        """Return one of the ten colours."""
        ...


class Judges(NamedTuple):
    """The networks that judge images: a detector, the names of its classes in order, and a namer of colours."""

    detector: Detector
    namer: Namer
    names: Sequence[str]


def load_judges(detector: Path, clip: Path, names: Path) -> Judges:
    """Load Mask2Former, which finds objects, and CLIP, which names their colours.

    Args:
        detector: Folder of Mask2Former for transformers.
        clip: Folder of CLIP for transformers.
        names: File of the classes' names, one per line, in the detector's order.

    Raises:
        ConfigError: A folder does not hold that network.
    """
    from alchemist_core.metrics.detectors import ColourNamer, Mask2Former  # noqa: PLC0415  torch only when there is work
    from alchemist_core.models.features import Clip  # noqa: PLC0415
    from alchemist_core.training.launching import own_device  # noqa: PLC0415

    device, lines = str(own_device()), names.read_text(encoding="utf-8").split("\n")
    found = [name.strip() for name in lines if name.strip()]
    return Judges(Mask2Former(detector, device), ColourNamer(Clip(clip, device)), found)


def judge_images(
    folder: Path, judges: Judges, *, on_progress: OnProgress, rules: Rules = PUBLISHED
) -> list[JudgedImage]:
    """Judge every image under a folder.

    Args:
        folder: Holds `NUMBER/samples/*.png` beside `NUMBER/metadata.jsonl`.
        judges: The networks.
        on_progress: Called with the images done, the images planned, and a note.
        rules: Thresholds.

    Raises:
        ConfigError: Names and classes differ in number, or the folder holds no image.
    """
    detector, namer, names = judges
    if len(names) != detector.n_classes:
        raise ConfigError(
            f"{len(names)} names for {detector.n_classes} classes of the detector: give the list of names of that detector."
        )
    images = list(find_images(folder))
    if not images:
        raise ConfigError(
            f"{folder} holds no images in GenEval's layout: NUMBER/samples/*.png beside NUMBER/metadata.jsonl."
        )
    results = []
    for done, (path, metadata) in enumerate(images, 1):
        image_HW3 = np.array(Image.open(path).convert("RGB"))
        objects = _describe(image_HW3, metadata, names, detector.detect(image_HW3), namer, rules)
        kept = keep_detections(objects, metadata["tag"], rules)
        verdict = judge(metadata, kept, rules)
        boxes = {name: [[*map(float, one.box), one.score] for one in ones] for name, ones in kept.items()}
        results.append(JudgedImage(str(path), verdict.is_correct, verdict.reason, metadata, boxes))
        on_progress(done, len(images), f"{metadata['tag']}")
    return results


def summarize_results(results: Sequence[JudgedImage]) -> dict[str, float]:
    """Return each task's share of correct images, and as `overall` their mean."""
    verdicts: dict[str, list[bool]] = {}
    for one in results:
        verdicts.setdefault(one.metadata["tag"], []).append(one.is_correct)
    return summarize(verdicts)


def _describe(
    image_HW3: ImageHW3,
    metadata: Mapping[str, Any],
    names: Sequence[str],
    found: Sequence[Found],
    namer: Namer,
    rules: Rules,
) -> dict[str, list[Detection]]:
    """Group objects by class; colours are named only if the prompt asks for them and the box may count."""
    coloured = {item["class"] for item in metadata["include"] if "color" in item}
    objects: dict[str, list[Detection]] = {}
    for one in found:
        name = names[one.label]
        is_asked = name in coloured and one.score > rules.threshold
        colour = namer.name(image_HW3, one, name) if is_asked else None
        objects.setdefault(name, []).append(Detection(one.box, one.score, colour))
    return objects


_GENERATED = "drawn.json"


def note_generation(folder: Path, about: dict[str, Any]) -> None:
    """Write beside the images how they are generated, once.

    Raises:
        ConfigError: The folder holds images that were generated in another way; the message names the differences.
    """
    path = folder / _GENERATED
    if path.exists():
        former, given = _options_of(json.loads(path.read_text(encoding="utf-8"))), _options_of(about)
        if names := find_differences(former, given):
            differences = "; ".join(f"--{name} {former.get(name)}, not {given.get(name)}" for name in names)
            raise ConfigError(
                f"--out {folder} holds images that were generated with {differences}. Give another --out, or delete this folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())


def _options_of(about: dict[str, Any]) -> dict[str, Any]:
    """Return how images are generated under the names of the options of `alchemist geneval draw`."""
    flat = {"images_per_prompt": about["n_images"], **about, **current_names(SamplingConfig, about["sampling"])}
    return {name.replace("_", "-"): value for name, value in flat.items() if name not in ("n_images", "sampling")}


class GenerationNote(NamedTuple):
    """What `alchemist geneval draw` wrote beside the images."""

    model: str
    """Identity of the model."""
    n_images: int
    """Images per prompt."""
    first_seed: int
    sampling: dict[str, Any]


def read_generation(folder: Path) -> GenerationNote:
    """Read how the images of a folder were generated.

    Raises:
        DataError: The folder was not written by `alchemist geneval draw`.
    """
    path = folder / _GENERATED
    if not path.is_file():
        raise DataError(
            f"{path} is missing, so the model of these images is unknown. Generate them with alchemist geneval draw, "
            "or judge them without --protocol."
        )
    return GenerationNote(**json.loads(path.read_text(encoding="utf-8")))


class Geneval:
    """GenEval of images that `alchemist geneval draw` generated from one trained model.

    Source: Ghosh et al. 2023.

    Raises:
        ConfigError: The protocol is of another metric.
        DataError: The images were not generated by `alchemist geneval draw`.
    """

    uses_device = True

    def __init__(
        self, file: ProtocolFile, folder: Path, judges: Judges, weights: tuple[Path, Path], on_progress: OnProgress
    ) -> None:
        if file.metric != "geneval":
            raise ConfigError(
                f"Evaluation protocol {file.name} is of metric {file.metric}: use alchemist evaluate --protocol {file.name}."
            )
        self.protocol_name, self.protocol = file.name, file.check(ImageProtocol)
        file.check(SamplingConfig, table="sampling")
        self.generation = read_generation(folder)
        self._folder, self._judges, self._weights, self._on_progress = folder, judges, weights, on_progress

    @property
    def title(self) -> str:
        """The metric's name in every table."""
        return self.protocol.title

    @property
    def sampler(self) -> str:
        """The family of the model."""
        return self.protocol.sampler

    def pin(self) -> dict[str, Any]:
        """Return the protocol with the values of this folder and of these networks filled in.

        Raises:
            ConfigError: The protocol's file gives a value, and the one found differs.
            DataError: The images have another size.
        """
        detector, clip = self._weights
        sampling = SamplingConfig.from_stored(self.protocol.sampling).hashed_json()
        found = {
            "extractor": "mask2former", **_describe_images(self._folder, self.protocol.resolution),
            "weights_sha256": weights_sha256(detector), "namer_sha256": weights_sha256(clip),
            "classes_sha256": texts_sha256(self._judges.names), "images_per_prompt": self.generation.n_images,
            "first_seed": self.generation.first_seed, "sampling": self.generation.sampling,
        }  # fmt: skip
        self.protocol = self.protocol.model_copy(update={"sampling": sampling}).pinned(**found)
        return self.protocol.as_json()

    @cached_property
    def results(self) -> list[JudgedImage]:
        """The verdict on every image, by the protocol's thresholds."""
        rules = Rules(**(self.protocol.thresholds or {}))  # type: ignore[arg-type]  # counts are whole in the file
        return judge_images(self._folder, self._judges, on_progress=self._on_progress, rules=rules)

    def measure(self, _model: ModelRow) -> Measured:
        """Return the mean over the tasks, and each task's share."""
        scores = summarize_results(self.results)
        values = {self.title if tag == "overall" else f"{self.title}_{tag}": value for tag, value in scores.items()}
        return Measured(values, self.protocol.n_images)


def _describe_images(folder: Path, side: int) -> dict[str, Any]:
    """Return the number of images and the hash of their prompts; refuse images of another side."""
    asked, n_images = {}, 0
    for path, metadata in find_images(folder):
        asked[path.parent.parent.name] = json.dumps(metadata, sort_keys=True)
        n_images += 1
        with Image.open(path) as image:
            if image.size != (side, side):
                raise DataError(
                    f"Images in {folder} have {image.size[0]} x {image.size[1]} px ({path.name}), but the protocol has resolution "
                    f"{side}: generate them again, or correct a copy of the protocol."
                )
    return {"n_images": n_images, "prompts_sha256": texts_sha256([asked[name] for name in sorted(asked)])}
