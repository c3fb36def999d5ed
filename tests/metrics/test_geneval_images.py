"""GenEval from images to verdicts: boxes from masks, colours from crops, and the rules."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.detectors import ColourNamer, Mask2Former, _crop, _masks
from alchemist_core.metrics.geneval import (
    Found,
    Judges,
    find_images,
    judge_images,
    summarize_results,
    write_images,
    write_results,
)
from tests.random_detector import save_random_detector

NAMES = ["cup", "dog"]
SHADES = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 160, 60)}


class SquareDetector:
    """Finds flat squares of 16 px: a red or blue one is a cup, a green one a dog."""

    n_classes = 2

    def detect(self, image_HW3: np.ndarray) -> list[Found]:
        found = []
        for shade in SHADES.values():
            mask_HW = (image_HW3 == shade).all(-1)
            if mask_HW.any():
                rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
                box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
                found.append(Found(int(shade == SHADES["green"]), box, 0.95, mask_HW))
        return found


class MiddleNamer:
    """Names the shade nearest to the middle of the box."""

    def name(self, image_HW3: np.ndarray, found: Found, class_name: str) -> str:
        left, top, right, bottom = map(int, found.box)
        pixel = image_HW3[(top + bottom) // 2, (left + right) // 2].astype(int)
        return min(SHADES, key=lambda name: np.abs(pixel - SHADES[name]).sum())


def picture(**squares: tuple[int, int]) -> np.ndarray:
    image = np.full((64, 64, 3), 255, np.uint8)
    for name, (left, top) in squares.items():
        image[top : top + 16, left : left + 16] = SHADES[name]
    return image


def forget(*_args: object) -> None:
    """Ignore the progress."""


def test_images_in_the_official_layout_get_the_official_lines(tmp_path: Path) -> None:
    red_cup = {"tag": "colors", "prompt": "p", "include": [{"class": "cup", "count": 1, "color": "red"}]}
    right = {
        "tag": "position", "prompt": "q", "include": [
            {"class": "dog", "count": 1}, {"class": "cup", "count": 1, "position": ["right of", 0]},
        ],
    }  # fmt: skip
    write_images(tmp_path / "out", 0, red_cup, [picture(red=(8, 8)), picture(blue=(8, 8)), picture(green=(8, 8))])
    write_images(
        tmp_path / "out", 1, right, [picture(green=(0, 24), red=(48, 24)), picture(green=(48, 24), red=(0, 24))]
    )
    results = judge_images(tmp_path / "out", Judges(SquareDetector(), MiddleNamer(), NAMES), on_progress=forget)
    assert [one.is_correct for one in results] == [True, False, False, True, False]
    assert [one.reason for one in results[1:3]] == [
        "expected red cup>=1, found 0 red; and 1 blue", "expected cup>=1, found 0",
    ]  # fmt: skip
    assert results[4].reason == "expected cup right of target, found left of target"
    assert results[0].kept == {"cup": [[8.0, 8.0, 24.0, 24.0, 0.95]]}
    assert summarize_results(results) == {
        "overall": pytest.approx((1 / 3 + 1 / 2) / 2),
        "colors": 1 / 3,
        "position": 0.5,
    }
    write_results(tmp_path / "results.jsonl", results)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["filename"], line["correct"], line["reason"]) for line in lines] == [one[:3] for one in results]


def test_names_that_are_not_the_detector_s_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 names for 2 classes"):
        judge_images(tmp_path, Judges(SquareDetector(), MiddleNamer(), [*NAMES, "cat"]), on_progress=forget)


def test_a_prompt_s_images_are_written_whole_and_again(tmp_path: Path) -> None:
    metadata = {"tag": "colors", "prompt": "p", "include": []}
    write_images(tmp_path, 3, metadata, [picture(red=(0, 0))] * 4)
    write_images(tmp_path, 3, metadata, [picture(blue=(0, 0))] * 2)
    assert [path.name for path, _ in find_images(tmp_path)] == ["00000.png", "00001.png"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Mask2Former:
    return Mask2Former(save_random_detector(tmp_path_factory.mktemp("mask2former")))


def test_a_folder_without_mask2former_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "centernet.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"does not hold a Mask2Former: .*--detector must name .*no other detector is supported\.$"
    ):
        Mask2Former(tmp_path)


def test_a_network_s_boxes_are_the_ends_of_its_masks(detector: Mask2Former, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alchemist_core.metrics.detectors._SHORT_SIDE", 96)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    found = detector.detect(image)
    assert detector.n_classes == 2
    assert 0 < len(found) <= 12
    for one in found:
        rows, columns = np.flatnonzero(one.mask_HW.any(1)), np.flatnonzero(one.mask_HW.any(0))
        assert one.mask_HW.shape == (48, 64)
        assert one.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert 0 < one.score < 1
    assert {one.label for one in found} <= {0, 1}


@pytest.mark.parametrize(
    ("height", "width", "size", "padded"), [(50, 70, (96, 134), (96, 160)), (70, 50, (134, 96), (160, 96))]
)
def test_an_image_is_scaled_by_its_shorter_side_and_padded_behind(
    detector: Mask2Former,
    monkeypatch: pytest.MonkeyPatch,
    height: int,
    width: int,
    size: tuple[int, int],
    padded: tuple[int, int],
) -> None:
    monkeypatch.setattr("alchemist_core.metrics.detectors._SHORT_SIDE", 96)
    image = np.full((height, width, 3), (255, 0, 51), np.uint8)
    pixels_1CHW, found = detector._prepare(image)
    assert (found, tuple(pixels_1CHW.shape)) == (size, (1, 3, *padded))
    inside = pixels_1CHW[0, :, : size[0], : size[1]]
    # The mean and the spread of ImageNet, which the network was trained with.
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert inside.amin((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    assert inside.amax((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    assert pixels_1CHW.abs().sum().item() == pytest.approx(inside.abs().sum().item(), rel=1e-6)


def test_a_mask_is_cut_to_the_scaled_image_and_brought_to_the_image_s_own_size() -> None:
    # Two masks on a grid of 4 pixels, whose values are the place in the padded input of 64 by 96: downwards, and to the right.
    down, right = np.arange(16) * 4 + 2.0, np.arange(24) * 4 + 2.0
    logit_MHW = np.stack([np.repeat(down[:, None], 24, 1), np.repeat(right[None], 16, 0)])
    place_MHW = _masks(torch.from_numpy(logit_MHW), (64, 96), (48, 80), (24, 20)).numpy()
    assert place_MHW.shape == (2, 24, 20)
    # The scaled image has 48 by 80 pixels, so that a pixel of the image is 2 of them high and 4 wide.
    assert place_MHW[0, 2:-2, 5] == pytest.approx(np.arange(24)[2:-2] * 2 + 1)
    assert place_MHW[1, 5, 2:-2] == pytest.approx(np.arange(20)[2:-2] * 4 + 2)


def test_what_a_mask_leaves_out_is_grey_and_the_crop_is_the_middle_of_the_box() -> None:
    image = picture(red=(10, 20))
    mask_HW = (image == SHADES["red"]).all(-1)
    mask_HW[20:28] = False
    crop = _crop(image, Found(0, (10.0, 20.0, 26.0, 36.0), 0.9, mask_HW), 32)
    assert crop.shape == (32, 32, 3)
    assert (crop[2] == 0x99).all()
    assert (crop[-2] == SHADES["red"]).all()


def test_a_colour_is_that_of_the_nearest_words() -> None:
    class OneHotClip:
        """A fake CLIP: text features are one-hot colours, image features the colour of the centre pixel."""

        side = 16

        def text_features(self, prompts: list[str]) -> np.ndarray:
            words = ["red", "orange", "yellow", "green", "blue"]
            return np.stack(
                [np.eye(6)[next((k for k, word in enumerate(words) if word in text), 5)] for text in prompts]
            )

        def features(self, image_NHWC: np.ndarray) -> np.ndarray:
            middle = image_NHWC[:, 8, 8].astype(int)
            return np.stack([np.eye(6)[{"red": 0, "green": 3, "blue": 4}[nearest(pixel)]] for pixel in middle])

    def nearest(pixel: np.ndarray) -> str:
        return min(SHADES, key=lambda name: np.abs(pixel - SHADES[name]).sum())

    for name, shade in SHADES.items():
        image = picture(**{name: (8, 8)})
        found = Found(0, (8.0, 8.0, 24.0, 24.0), 0.9, (image == shade).all(-1))
        assert ColourNamer(OneHotClip()).name(image, found, "cup") == name
