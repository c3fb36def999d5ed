"""GenEval's six questions about synthetic scenes: a caption names the shapes, their number, colours and positions.

Exact where GenEval estimates: the caption of a synthetic scene is parsed, and the detector makes no mistakes on a clean
image. Unlike in GenEval's own rules, two items of one shape need two shapes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alchemist_core.errors import DataError
from alchemist_core.metrics.geneval import relations, summarize
from tests.metrics.drawn_shapes import Shape

_ITEM = r"an? (\w+) (\w+)"
_SINGLE = re.compile(
    r"a (?:small|large) (\w+) (\w+) (at the (?:top|bottom)(?: left| right)?|on the (?:left|right)|in the middle)"
)
_COUPLE = re.compile(rf"{_ITEM} (left of|right of|above|below) {_ITEM}")
_N_OTHERS = 8
"""Number of other requests for each image: the mean of their answers is the score of chance."""


class Item(NamedTuple):
    """One requested shape."""

    colour: str
    name: str


class SceneRequest(NamedTuple):
    """The request of a caption: one shape at a position, or two in a relation."""

    items: tuple[Item, ...]
    where: str


def read_request(caption: str) -> SceneRequest:
    """Read the caption of a clean drawn scene.

    Raises:
        DataError: It is none.

    >>> read_request("a red ring above an orange cross")
    SceneRequest(items=(Item(colour='red', name='ring'), Item(colour='orange', name='cross')), where='above')
    """
    if single := _SINGLE.fullmatch(caption):
        return SceneRequest((Item(single[1], single[2]),), single[3])
    if couple := _COUPLE.fullmatch(caption):
        return SceneRequest((Item(couple[1], couple[2]), Item(couple[4], couple[5])), couple[3])
    raise DataError(f"{caption!r} is no caption of a clean drawn scene: use another protocol for this dataset")


def answer(request: SceneRequest, shapes: Sequence[Shape]) -> dict[str, bool]:
    """Answer each question that a request raises, by GenEval's names for them."""
    items = Counter(request.items)
    found = Counter(Item(shape.colour, shape.name) for shape in shapes)
    names, found_names = (Counter(item.name for item in items.elements()) for items in (items, found))
    is_single = len(request.items) == 1
    holds = _is_in_place if is_single else _is_in_relation
    return {
        "single_object" if is_single else "two_object": names <= found_names,
        "counting": len(shapes) == len(request.items),
        "colors" if is_single else "color_attr": items <= found,
        "position": holds(request, shapes),
    }


def score_scenes(requests: Sequence[SceneRequest], shapes: Sequence[Sequence[Shape]]) -> dict[str, float]:
    """Return each question's share of right answers, their mean, and the difference of the mean from the score of chance.

    A patchwork shows some asked shape in every third picture, so a model that has learnt nothing is not at 0. By chance is
    answered what the same pictures answer of each other's requests.

    Args:
        requests: One a picture.
        shapes: What was found in each.
    """
    own = _summarize(requests, shapes)
    others = [
        _summarize([*requests[turn:], *requests[:turn]], shapes)["overall"]
        for turn in range(1, min(_N_OTHERS + 1, len(requests)))
    ]
    return own | {"above_chance": own["overall"] - float(np.mean(others))}


def _summarize(requests: Sequence[SceneRequest], shapes: Sequence[Sequence[Shape]]) -> dict[str, float]:
    return summarize(collect([answer(*pair) for pair in zip(requests, shapes, strict=True)]))


def _is_in_place(request: SceneRequest, shapes: Sequence[Shape]) -> bool:
    matching = [shape for shape in shapes if (shape.colour, shape.name) == request.items[0]]
    return any(_place(shape) == request.where for shape in matching)


def _place(shape: Shape) -> str:
    """Return the ninth of the image that contains a shape's centre; the borders are half way between the positions."""
    row, column = (("low", "middle", "high")[int(at > 0.385) + int(at > 0.615)] for at in (shape.y, shape.x))
    if row == "middle":
        return {"low": "on the left", "middle": "in the middle", "high": "on the right"}[column]
    side = {"low": " left", "middle": "", "high": " right"}[column]
    return f"at the {'top' if row == 'low' else 'bottom'}{side}"


def _is_in_relation(request: SceneRequest, shapes: Sequence[Shape]) -> bool:
    first, second = request.items
    return any(
        request.where in relations(_box(one), _box(other))
        for one in shapes
        for other in shapes
        if one is not other and (one.colour, one.name) == first and (other.colour, other.name) == second
    )


def _box(shape: Shape) -> np.ndarray:
    x, y, radius = shape.x, shape.y, shape.radius
    return np.array([x - radius, y - radius, x + radius, y + radius], np.float32)


def collect(answers: Sequence[Mapping[str, bool]]) -> dict[str, list[bool]]:
    """Gather the answers of many images by question.

    >>> collect([{"colors": True}, {"colors": False}])
    {'colors': [True, False]}
    """
    gathered: dict[str, list[bool]] = {}
    for one in answers:
        for tag, is_right in one.items():
            gathered.setdefault(tag, []).append(is_right)
    return gathered
