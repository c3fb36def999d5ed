"""Images of every arm are generated once and measured under a protocol that refuses changes."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.demo import read_arms
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.metrics.catalogue import METRICS
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import EvaluateConfig, EvaluateResult
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.report import ReportConfig
from alchemist_core.stages.report import run as report
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import open_store
from tests.metrics.scene_metric import SceneScore
from tests.models.test_features import clip_folder
from tests.trained_store import TrainedStore

__all__ = ["clip_folder"]

pytestmark = [pytest.mark.db, pytest.mark.e2e]

SCENES = """
metric = "geneval_scenes"
extractor = "drawn_shapes"
resolution = 16
n_images = 24
sampling = { guidance = 1.0, batch_size = 8 }
"""
KID = (
    SCENES.replace("geneval_scenes", "kid").replace("drawn_shapes", "efficientnet_lite0").replace("= 16", "= 32")
    + "n_subsets = 2\nsubset_size = 20\n"
)
CLIP = """
metric = "clip_score"
extractor = "clip"
resolution = 32
n_images = 8
sampling = { guidance = 1.0, batch_size = 8 }
"""


@pytest.fixture
def trained(modelled_store: TrainedStore, monkeypatch: pytest.MonkeyPatch) -> TrainedStore:
    monkeypatch.setitem(METRICS, "geneval_scenes", SceneScore)
    return modelled_store


@pytest.fixture
def engine(trained: TrainedStore) -> Engine:
    return open_store()


def measure(folder: Path, protocol: str, name: str = "mine", weights: Path | None = None) -> EvaluateResult:
    path = folder / f"{name}.toml"
    path.write_text(protocol)
    return evaluate(EvaluateConfig(subset="s", protocol=str(path), weights=weights))


def values_in(engine: Engine) -> dict[tuple[int, str], float]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT model_id, metric, value FROM alchemist.evaluations")).all()
    return {(row.model_id, row.metric): row.value for row in rows}


@pytest.mark.slow
def test_arms_are_drawn_and_measured_once(trained: TrainedStore, tmp_path: Path) -> None:
    measured = measure(tmp_path, SCENES)
    assert (measured.metric, measured.n_measured) == ("geneval_scenes", 2)
    assert measured.means.keys() == {"subset", "random"}
    before = checksum(trained.url)
    assert measure(tmp_path, SCENES).n_reused == 2
    assert checksum(trained.url) == before


def test_the_name_of_an_offline_metric_contains_its_network(
    trained: TrainedStore, tmp_path: Path, engine: Engine
) -> None:
    assert measure(tmp_path, KID).metric == "kid_efficientnet_lite0"
    assert {metric for _, metric in values_in(engine)} == {"kid_efficientnet_lite0"}


@pytest.mark.slow
def test_a_metric_is_measured_again_from_stored_images_without_the_models(
    trained: TrainedStore, tmp_path: Path, engine: Engine
) -> None:
    for protocol, name in ((SCENES, "scenes"), (KID, "kid")):
        measure(tmp_path, protocol, name)
    first = values_in(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.evaluations"))
    shutil.rmtree(load_settings().artifacts / "models")
    for protocol, name in ((SCENES, "scenes"), (KID, "kid")):
        assert measure(tmp_path, protocol, name).n_measured == 2
    assert values_in(engine) == first


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "field"), [
    ("n_images = 24", "n_images = 23", "n_images"),
    ("resolution = 16", "resolution = 32", "resolution"),
    ("guidance = 1.0", "guidance = 2.0", "sampling.guidance"),
    ("n_images = 24", "n_images = 24\nfirst_seed = 1", "first_seed"),
])  # fmt: skip
def test_a_protocol_with_one_changed_field_is_refused_by_its_name(
    trained: TrainedStore, tmp_path: Path, before: str, after: str, field: str
) -> None:
    measure(tmp_path, SCENES)
    with pytest.raises(ConfigError, match=rf"{field} is .* but protocol mine, as first used, has"):
        measure(tmp_path, SCENES.replace(before, after))
    assert measure(tmp_path, SCENES.replace(before, after), "another").n_measured == 2


def test_weights_that_a_protocol_does_not_name_are_refused(
    trained: TrainedStore, tmp_path: Path, engine: Engine
) -> None:
    other = f'weights_sha256 = "{"0" * 64}"\n'
    with pytest.raises(ConfigError, match="weights_sha256 is '5793"):
        measure(tmp_path, other + KID)
    assert values_in(engine) == {}


def test_weights_of_another_network_do_not_become_those_of_a_protocol(
    trained: TrainedStore, tmp_path: Path, clip_folder: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not hold a CLIP model"):
        measure(tmp_path, CLIP, weights=wrong)
    assert measure(tmp_path, CLIP, weights=clip_folder).n_measured == 2


def test_a_dataset_that_is_too_small_is_refused(trained: TrainedStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has n_images 65, but the evaluation dataset has 64 samples"):
        measure(tmp_path, SCENES.replace("n_images = 24", "n_images = 65"))


@pytest.mark.slow
def test_a_later_image_metric_leaves_the_table_of_losses_as_it_is(trained: TrainedStore, tmp_path: Path) -> None:
    evaluate(EvaluateConfig(subset="s"))
    arms = read_arms({0})
    measure(tmp_path, SCENES)
    assert read_arms({0}) == arms
    first = report(ReportConfig(dataset="scenes"))
    assert first.is_new
    page = Path(first.path).read_text(encoding="utf-8")
    assert "Metrics of generated images" in page
    assert "geneval_scenes_counting ↑" in page
