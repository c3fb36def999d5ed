"""The detector of synthetic shapes is exact on the synthetic corpus, and every question about it has a right answer."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.local.scenes import _SHAPE_DRAWERS, BACKGROUND, COLOURS, Scene, draw_chaotic, draw_informative
from alchemist_core.metrics.geneval import TAGS, summarize
from tests.metrics.drawn_shapes import FORMS, Shape, find_shapes
from tests.metrics.scene_questions import answer, collect, read_request


def scenes(n: int, side: int = 64, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [draw_informative(rng, side) for _ in range(n)]


def shapes_of(image: Image.Image | np.ndarray) -> list[Shape]:
    return find_shapes(np.asarray(image), COLOURS, BACKGROUND)


def score(drawn: list[Scene], captions: list[str], side: int | None = None) -> dict[str, float]:
    images = [
        scene.image if side is None else scene.image.resize((side, side), Image.Resampling.BICUBIC) for scene in drawn
    ]
    pairs = zip(images, captions, strict=True)
    return summarize(collect([answer(read_request(caption), shapes_of(image)) for image, caption in pairs]))


def test_every_shape_that_is_drawn_is_known() -> None:
    assert FORMS.keys() == _SHAPE_DRAWERS.keys()


@pytest.mark.slow
def test_synthetic_scenes_answer_every_question_rightly() -> None:
    drawn = scenes(150)
    assert score(drawn, [scene.caption for scene in drawn]) == dict.fromkeys(("overall", *TAGS), 1.0)


def test_at_16_pixels_almost_every_question_is_answered_rightly() -> None:
    drawn = scenes(300, seed=1)
    assert min(score(drawn, [scene.caption for scene in drawn], side=16).values()) > 0.95


@pytest.mark.slow
def test_another_scene_s_caption_is_answered_by_chance() -> None:
    drawn = scenes(150)
    values = score(drawn, [scene.caption for scene in drawn[1:] + drawn[:1]])
    assert values["overall"] < 0.4
    assert values["color_attr"] < 0.05


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=10, deadline=None)
@given(
    x=st.floats(0.3, 0.7), y=st.floats(0.3, 0.7), radius=st.floats(0.11, 0.24), colour=st.sampled_from(sorted(COLOURS))
)
def test_place_size_and_colour_are_found_to_a_fraction_of_a_pixel(
    name: str, x: float, y: float, radius: float, colour: str
) -> None:
    from alchemist_core.local.scenes import _draw_shapes, _Shape

    (found,) = shapes_of(_draw_shapes([_Shape(name, COLOURS[colour], x, y, radius)], 64))
    assert (found.name, found.colour) == (name, colour)
    assert (found.x, found.y, found.radius) == pytest.approx((x, y, radius), abs=0.75 / 64)


def test_touching_shapes_of_one_colour_are_two() -> None:
    from alchemist_core.local.scenes import _draw_shapes, _Shape

    red = COLOURS["red"]
    picture = _draw_shapes([_Shape("circle", red, 0.3, 0.5, 0.21), _Shape("circle", red, 0.7, 0.5, 0.21)], 64)
    assert Counter(shape.name for shape in shapes_of(picture)) == {"circle": 2}


def test_an_empty_image_and_noise_show_no_shapes() -> None:
    assert shapes_of(np.full((64, 64, 3), BACKGROUND, np.uint8)) == []
    assert max(len(shapes_of(draw_chaotic(random.Random(k), 64).image)) for k in range(5)) < 10


@pytest.mark.parametrize(("caption", "expected"), [
    ("a red circle left of a red circle", {"two_object": True, "counting": True, "color_attr": False, "position": False}),
    ("a blue circle left of a red circle", {"two_object": True, "counting": True, "color_attr": True, "position": False}),
    ("a red circle left of a blue circle", {"two_object": True, "counting": True, "color_attr": True, "position": True}),
    ("a red circle above a blue ring", {"two_object": False, "counting": True, "color_attr": False, "position": False}),
    ("a small red circle on the left", {"single_object": True, "counting": False, "colors": True, "position": True}),
    ("a small red circle at the top left", {"single_object": True, "counting": False, "colors": True, "position": False}),
    ("a large blue ring on the right", {"single_object": False, "counting": False, "colors": False, "position": False}),
])  # fmt: skip
def test_questions_are_answered_one_by_one(caption: str, expected: dict[str, bool]) -> None:
    shapes = [Shape("circle", "red", 0.25, 0.5, 0.1, 1.0), Shape("circle", "blue", 0.75, 0.5, 0.1, 1.0)]
    assert answer(read_request(caption), shapes) == expected


@pytest.mark.parametrize("caption", ["many shapes", "a plain red picture", "a red circle", ""])
def test_what_asks_for_nothing_certain_is_refused(caption: str) -> None:
    with pytest.raises(DataError, match="no caption of a clean drawn scene"):
        read_request(caption)
