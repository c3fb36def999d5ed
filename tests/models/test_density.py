"""A density ratio is a linear function of an embedding: its file gives the same scores, and damage is told from validation samples."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from alchemist_core.errors import ConfigError
from alchemist_core.models.density import Density, DensityRecord, fit_density, load_density, pack_density
from alchemist_core.statistics import area_under_curve

RECORD = DensityRecord(
    validation="v", dataset="c", n_validation=200, n_corpus=1000, heldout_auc=0.7, n_dims=8, penalty=1.0, resolution=224,
    encoder_sha256s=("a", "b"),
)  # fmt: skip


def test_a_file_gives_the_same_scores_and_record_and_equal_ratios_give_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corpus_ND, validation_MD = rng.normal(size=(300, 12)), rng.normal(0.3, 1, size=(60, 12))
    density = fit_density(corpus_ND, validation_MD)
    data = pack_density(density, RECORD)
    assert data == pack_density(fit_density(corpus_ND, validation_MD), RECORD)
    (tmp_path / "d.safetensors").write_bytes(data)
    loaded, record = load_density(tmp_path / "d.safetensors")
    assert record == RECORD
    assert (loaded.score(corpus_ND) == density.score(corpus_ND)).all()


def test_samples_of_another_kind_than_the_validation_dataset_score_lower_held_out_ones_too() -> None:
    rng = np.random.default_rng(1)

    def good(n: int) -> np.ndarray:
        return rng.normal(size=(n, 10))

    def damaged(n: int) -> np.ndarray:
        return rng.normal(size=(n, 10)) + np.eye(10)[0] * 3

    density = fit_density(np.concatenate([good(500), damaged(500)]), good(100))
    assert area_under_curve(density.score(good(400)), density.score(damaged(400))) > 0.95
    assert abs(density.score(good(400)).mean() - np.log(2)) < 0.5, "twice as frequent as in the corpus"


@pytest.mark.parametrize("offset", [np.array(1.0), np.empty(0)])
def test_a_file_without_one_offset_holds_no_density_ratio(tmp_path: Path, offset: np.ndarray) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes(pack_density(Density(np.ones(4), 0.5), RECORD))
    with safe_open(path, framework="np") as file:
        record = file.metadata()
    path.write_bytes(save({"direction": np.ones(4), "offset": offset}, record))
    with pytest.raises(ConfigError, match="does not hold a density ratio"):
        load_density(path)


@pytest.mark.parametrize("data", [b"", b"no file of tensors at all", None])
def test_another_file_is_refused_with_the_command_that_makes_one(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "d.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"does not hold a density ratio.*scorer train NAME --kind density"):
        load_density(path)
