"""Scores of scenes show what a model has learnt only after the score of chance is subtracted."""

import random

import numpy as np
import pytest

from alchemist_core.local.scenes import BACKGROUND, COLOURS, draw_informative
from tests.metrics.drawn_shapes import Shape, find_shapes
from tests.metrics.scene_questions import SceneRequest, read_request, score_scenes

N = 120


def drawn(seed: int) -> tuple[list[SceneRequest], list[list[Shape]]]:
    rng = random.Random(seed)
    scenes = [draw_informative(rng, 32) for _ in range(N)]
    shapes = [find_shapes(np.asarray(scene.image), COLOURS, BACKGROUND) for scene in scenes]
    return [read_request(scene.caption) for scene in scenes], shapes


def test_images_of_the_requested_scenes_score_far_above_chance() -> None:
    values = score_scenes(*drawn(0))
    assert values["overall"] > 0.98
    assert 0.6 < values["above_chance"] < 0.9


@pytest.mark.slow
def test_right_images_of_other_requests_score_at_chance() -> None:
    (requests, _), (_, shapes) = drawn(0), drawn(1)
    values = score_scenes(requests, shapes)
    assert values["overall"] > 0.1
    assert values["above_chance"] == pytest.approx(0, abs=0.04)


def test_a_patchwork_of_every_shape_scores_and_has_learnt_nothing() -> None:
    requests, _ = drawn(0)
    everything = [
        Shape(name, colour, 0.5, 0.5, 0.1, 1.0) for name in ("circle", "ring", "cross", "square") for colour in COLOURS
    ]
    values = score_scenes(requests, [everything] * N)
    assert values["overall"] > 0.2
    assert values["above_chance"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_order_of_the_images_moves_chance_by_little() -> None:
    requests, shapes = drawn(0)
    order = np.random.default_rng(0).permutation(N)
    moved = score_scenes([requests[at] for at in order], [shapes[at] for at in order])
    assert moved["above_chance"] == pytest.approx(score_scenes(requests, shapes)["above_chance"], abs=0.03)
