"""Heuristics against slow oracles, and images that each heuristic must tell apart."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from alchemist_core.heuristics.clarity import clarity
from alchemist_core.heuristics.edges import edge_density, otsu_threshold
from alchemist_core.heuristics.frequency import CUT_RATIO, frequency
from alchemist_core.heuristics.measures import LUMA_SIDE, MEASURES, measure
from alchemist_core.scorers.aesthetic import aesthetic
from alchemist_core.shards.images import decode_views
from tests.oracles import oracle_heuristics as oracle

# Few levels, so that flat images, ties and steps occur; unequal sides, so that swapping rows and columns is noticed.
PICTURES = st.one_of(
    arrays.arrays(np.uint8, st.tuples(st.just(2), st.integers(3, 9), st.integers(3, 9)), elements=st.integers(0, 255)),
    arrays.arrays(np.uint8, (2, 8, 6), elements=st.sampled_from([0, 1, 255])),
)


@settings(max_examples=40, deadline=None)
@given(luma_BHW=PICTURES)
def test_clarity_is_the_variance_of_the_laplacian(luma_BHW: np.ndarray) -> None:
    expected = [oracle.laplacian_variance(luma.tolist()) for luma in luma_BHW]
    np.testing.assert_allclose(clarity(luma_BHW), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(luma_BHW=PICTURES)
def test_frequency_is_the_share_of_energy_outside_the_radius(luma_BHW: np.ndarray) -> None:
    expected = [oracle.high_frequency_share(luma.tolist(), CUT_RATIO) for luma in luma_BHW]
    np.testing.assert_allclose(frequency(luma_BHW), expected, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(luma_BHW=PICTURES)
def test_edge_density_is_the_share_of_sobel_magnitudes_above_otsu_s_threshold(luma_BHW: np.ndarray) -> None:
    # Integer magnitudes at a level's border may fall on either side of it in float32; such a pixel is not a failure.
    expected = [oracle.edge_share(luma.tolist()) for luma in luma_BHW]
    n_pixels = (luma_BHW.shape[1] - 2) * (luma_BHW.shape[2] - 2)
    np.testing.assert_allclose(edge_density(luma_BHW), expected, atol=1.01 / n_pixels)


def test_aesthetic_is_the_head_on_the_unit_embedding() -> None:
    rng = np.random.default_rng(0)
    embedding_BD, weight_D = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    expected = [oracle.aesthetic_value(row.tolist(), weight_D.tolist(), 0.5) for row in embedding_BD]
    np.testing.assert_allclose(aesthetic(embedding_BD, weight_D, 0.5), expected, rtol=1e-5)


def draw(seed: int, side: int = LUMA_SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8))


def values_of(*images: Image.Image) -> dict[str, np.ndarray]:
    value_BM = measure(np.stack([np.asarray(image, np.uint8) for image in images]))
    return dict(zip(MEASURES, value_BM.T, strict=True))


def test_blur_lowers_clarity_and_frequency() -> None:
    sharp = draw(0)
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    values = values_of(sharp, blurred)
    assert values["clarity"][0] > 10 * values["clarity"][1]
    assert values["frequency"][0] > 2 * values["frequency"][1]


def test_a_flat_image_has_none_of_anything() -> None:
    assert (measure(np.full((1, LUMA_SIDE, LUMA_SIDE), 128, np.uint8)) == 0).all()


def test_a_few_lines_are_a_lower_edge_density_than_many() -> None:
    few, many = np.zeros((2, LUMA_SIDE, LUMA_SIDE), np.uint8)
    few[:, 64:] = 255
    many[:, ::16] = 255
    values = values_of(Image.fromarray(few), Image.fromarray(many))
    assert 0 < values["edge_density"][0] < values["edge_density"][1] < 1


def test_an_image_s_values_do_not_depend_on_the_batch_composition_by_one_bit() -> None:
    pictures = np.stack([np.asarray(draw(seed)) for seed in range(20)])
    together = measure(pictures)
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(measure(pictures[order]), together[order])
    for at in range(20):
        np.testing.assert_array_equal(measure(pictures[at : at + 1]), together[at : at + 1])


@pytest.mark.parametrize(("kind", "size"), [("JPEG", (700, 500)), ("JPEG", (90, 60)), ("PNG", (300, 400))])
def test_luma_does_not_depend_on_the_rater_s_side(kind: str, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    draw(1).resize(size).convert("RGB").save(buffer, kind)
    lumas = [decode_views(buffer.getvalue(), side, luma_side=LUMA_SIDE)[1] for side in (16, 128, 256, 300)]
    assert all(np.array_equal(luma, lumas[0]) for luma in lumas)


def test_a_rater_s_pixels_do_not_depend_on_whether_the_image_is_measured() -> None:
    buffer = io.BytesIO()
    draw(2).resize((640, 480)).convert("RGB").save(buffer, "JPEG")
    for side in (16, 256):
        plain, luma = decode_views(buffer.getvalue(), side)
        assert luma is None
        assert np.array_equal(plain, decode_views(buffer.getvalue(), side, luma_side=LUMA_SIDE)[0])


def test_the_measures_and_their_order_are_those_that_a_store_holds() -> None:
    assert (list(MEASURES), LUMA_SIDE, CUT_RATIO) == (["clarity", "frequency", "edge_density"], 128, 0.125)


def test_clarity_of_one_spot_by_hand() -> None:
    # In the middle of 4 by 4: the interior has the Laplacians −4·10, 10, 10 and 0, with mean −5 and mean square 450.
    luma = np.zeros((1, 4, 4), np.uint8)
    luma[0, 1, 1] = 10
    assert clarity(luma).tolist() == [425.0]


def test_a_wave_at_the_cut_is_not_fine_detail_and_a_faster_one_is() -> None:
    place = np.arange(64)
    for n_waves, is_fine in ((7, 0.0), (8, 0.0), (9, 1.0), (31, 1.0)):
        wave = np.round(128 + 100 * np.cos(2 * np.pi * n_waves * place / 64)).astype(np.uint8)
        for luma in (np.tile(wave, (64, 1)), np.tile(wave[:, None], (1, 64))):
            assert frequency(luma[None])[0] == pytest.approx(is_fine, abs=1e-3)


def test_edge_density_of_one_step_by_hand() -> None:
    # Of 6 × 6 interior pixels the two columns beside the step have a gradient.
    luma = np.zeros((2, 8, 8), np.uint8)
    luma[0, :, 4:] = 200
    luma[1, 4:, :] = 1
    assert edge_density(luma).tolist() == pytest.approx([1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("counts", "threshold"),
    [
        ([5, 0, 0, 5], 0),
        ([0, 5, 0, 5], 1),
        ([1, 8, 1, 0, 9], 2),
        ([10, 0, 0, 0], 3),
        ([0, 0, 0, 10], 3),
        ([0, 3, 3, 0], 1),
    ],
)
def test_otsus_threshold_is_the_top_of_the_lower_class(counts: list[int], threshold: int) -> None:
    assert otsu_threshold(np.array([counts])).tolist() == [threshold]


def test_an_embedding_of_zeros_scores_the_bias() -> None:
    assert aesthetic(np.zeros((1, 4), np.float32), np.ones(4, np.float32), 5.5).tolist() == [5.5]
