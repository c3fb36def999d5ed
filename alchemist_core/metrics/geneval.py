"""GenEval's rules: from the boxes that a detector found to a verdict and its reason, word for word.

Who detects and who names colours is not known here. Arithmetic is in float32, as in GenEval itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_NEAR = 1e-3

Box = Float32[np.ndarray, "4"]


class Detection(NamedTuple):
    """One box, its left, top, right and bottom end in pixels; the colour that a classifier gave it, where one was asked."""

    box: Sequence[float]
    score: float
    colour: str | None = None


class Rules(NamedTuple):
    """GenEval's thresholds, from 0 to 1 but for the number of objects a class."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


PUBLISHED = Rules()


class Verdict(NamedTuple):
    """Whether an image shows what was asked, and why not: a line for each fault."""

    is_correct: bool
    reason: str


Objects = Mapping[str, Sequence[Detection]]


def keep_detections(found: Objects, tag: str, rules: Rules = PUBLISHED) -> dict[str, list[Detection]]:
    """Keep the boxes that count, best first; classes without one are left out.

    The cut to the most objects comes before overlapping boxes are dropped, and overlaps are those of one class.

    Args:
        found: Everything that was detected, by class.
        tag: The task: counting has a threshold of its own.
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
    """Compare the kept boxes of an image with what its prompt's metadata asks for.

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
    """Say how a box lies to another one: none, one or two of left of, right of, above, below.

    >>> relations(np.float32([0, 0, 10, 10]), np.float32([50, 0, 60, 10]))
    ['left of']
    """
    (low, high), (target_low, target_high) = box.reshape(2, 2), target.reshape(2, 2)
    offset = (low + high) / 2 - (target_low + target_high) / 2
    sizes = np.abs(high - low) + np.abs(target_high - target_low)
    reduced = np.maximum(np.abs(offset) - np.float32(margin) * sizes, 0) * np.sign(offset)
    if (np.abs(reduced) < _NEAR).all():
        return []
    # By the length of what was not reduced: so a shift along one axis must exceed twice the margin.
    x, y = reduced / np.linalg.norm(offset)
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return [name for name, is_so in holds.items() if is_so]


def summarize(verdicts: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Give each task's share of correct images, and overall the mean over the tasks, each counted alike.

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
    # Ends belong to the box: one pixel has area 1.
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
