"""FID and KID from images to number equal those of torch-fidelity, and clean FID that of clean-fid.

No package contains the weights of FID's InceptionV3, so both get one file of weights of our own. From features to number, torchmetrics and
clean-fid are compared too, in tests/metrics/test_distances.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch.utils.data import Dataset

from alchemist_core.metrics.distances import fit_gaussian, frechet_distance
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.models.features import CleanInceptionV3, InceptionV3
from alchemist_core.protocols.protocol import ImageProtocol
from tests.metrics.given_metric import metric_of
from tests.rehearsal.weights import write_inception

N_IMAGES = 8
SUBSETS = {"n_subsets": 4, "subset_size": 6}


class Pictures(Dataset[torch.Tensor]):
    """Images as the reference implementations take them: bytes, channels first."""

    def __init__(self, image_NHWC: np.ndarray) -> None:
        self._images = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2).contiguous()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> torch.Tensor:
        return self._images[place]


def some_images(seed: int, contrast: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, contrast, (N_IMAGES, 5, 5, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 13, 13, 1), np.uint8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InceptionV3 of random weights, with statistics that keep its features apart."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    write_inception(path)
    return path


def ours(
    weights: Path, metric: str, images: np.ndarray, references: np.ndarray, extractor: str = "inception_v3"
) -> float:
    fields: dict[str, Any] = {"metric": metric, "extractor": extractor, "resolution": 65, "n_images": N_IMAGES}
    protocol = ImageProtocol.model_validate(fields | (SUBSETS if metric == "kid" else {}))
    drawn = ImageSet(images, [""] * N_IMAGES, [0] * N_IMAGES)
    return metric_of(protocol, weights, [references]).measure_images([drawn])[protocol.title]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The `disp` argument:DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)
@threadpool_limits.wrap(limits=1)  # two threads that wait for each other take minutes on a busy machine
def test_fid_and_kid_of_images_are_torch_fidelity_s(weights: Path) -> None:
    from torch_fidelity import calculate_metrics

    images, references = some_images(0, 256), some_images(1, 160)
    theirs = calculate_metrics(
        input1=Pictures(images), input2=Pictures(references), cuda=False, fid=True, kid=True, verbose=False,
        kid_subsets=SUBSETS["n_subsets"], kid_subset_size=SUBSETS["subset_size"], cache=False,
        feature_extractor_weights_path=str(weights), batch_size=8,
    )  # fmt: skip
    fid, kid = (ours(weights, metric, images, references) for metric in ("fid", "kid"))
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


@pytest.mark.slow
@threadpool_limits.wrap(limits=1)
def test_clean_fid_of_images_is_clean_fid_s(weights: Path, tmp_path: Path) -> None:
    """It reads folders of PNG and resizes them its own way; from there on tests/metrics/test_distances.py compares."""
    from cleanfid.fid import get_folder_features

    sides, theirs = {"images": some_images(0, 256), "references": some_images(1, 160)}, []
    for name, side in sides.items():
        (tmp_path / name).mkdir()
        for place, image in enumerate(side):
            Image.fromarray(image).save(tmp_path / name / f"{place:02d}.png")
        read = get_folder_features(
            str(tmp_path / name), model=CleanInceptionV3(weights)._pooled, num_workers=0, mode="clean", verbose=False,
            device=torch.device("cpu"),
        )  # fmt: skip
        theirs.append(fit_gaussian(read))
    clean = ours(weights, "fid", *sides.values(), extractor="inception_v3_clean")
    assert clean == pytest.approx(frechet_distance(*theirs), rel=1e-4)
    # The other convention gives another number: they must not share a name.
    assert abs(ours(weights, "fid", *sides.values()) / clean - 1) > 0.01


@pytest.mark.slow
def test_both_conventions_are_one_network_where_nothing_is_resized(weights: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), np.uint8)
    np.testing.assert_allclose(
        CleanInceptionV3(weights).features(images), InceptionV3(weights).features(images), rtol=1e-4, atol=1e-5
    )
