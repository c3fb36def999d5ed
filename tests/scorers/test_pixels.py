"""The heuristics as a scorer: those of the luma of the pixels, and close to the stored ones of the same file."""

import io

import numpy as np
from PIL import Image

from alchemist_core.config import Config
from alchemist_core.heuristics.measures import LUMA_SIDE, measure
from alchemist_core.scorers.pixels import PixelHeuristics, luma
from alchemist_core.scorers.scorer import Batch
from alchemist_core.shards.images import decode_views


def test_the_luma_is_pillow_s() -> None:
    image_BHWC = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in image_BHWC])
    assert np.array_equal(luma(image_BHWC), expected)


def test_the_scores_are_the_measures_of_the_luma_in_their_order() -> None:
    scorer = PixelHeuristics(Config())
    image_BHWC = np.random.default_rng(1).integers(0, 256, (3, LUMA_SIDE, LUMA_SIDE, 3), np.uint8)
    assert (scorer.image_side, scorer.outputs) == (LUMA_SIDE, ("clarity", "frequency", "edge_density"))
    assert np.array_equal(scorer.score(Batch(image_BHWC, [""] * 3)), measure(luma(image_BHWC)))
    alone = np.concatenate([scorer.score(Batch(image_BHWC[at : at + 1], [""])) for at in range(3)])
    assert np.array_equal(alone, scorer.score(Batch(image_BHWC, [""] * 3)))


def test_the_scores_are_close_to_the_stored_heuristics_of_the_same_file() -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        # Coloured areas with soft and hard borders, and some grain.
        areas = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        areas.paste((250, 20, 20), (100, 100, 300, 260))
        grain = rng.integers(-6, 7, (480, 640, 3))
        file = io.BytesIO()
        Image.fromarray((np.asarray(areas).astype(int) + grain).clip(0, 255).astype(np.uint8)).save(
            file, "JPEG", quality=90
        )
        pixels, stored_luma = decode_views(file.getvalue(), LUMA_SIDE, luma_side=LUMA_SIDE)
        assert stored_luma is not None
        score = PixelHeuristics(Config()).score(Batch(pixels[None], [""]))
        np.testing.assert_allclose(score, measure(stored_luma[None]), rtol=0.05, atol=0.02)
