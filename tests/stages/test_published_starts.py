"""The stages start from published weights, and know a rater or model again by the content of the weights that it started from."""

from pathlib import Path

import pytest
import torch
from sqlalchemy import text

from alchemist_core.models.config import StarConfig
from alchemist_core.models.published.star import export_star
from alchemist_core.models.text import WordVectors
from alchemist_core.stages import train_downstream as downstream_stage
from alchemist_core.stages import train_rater as rater_stage
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.train_downstream import TrainDownstreamConfig, TrainDownstreamResult
from alchemist_core.stages.train_rater import TrainRaterConfig, TrainRaterResult
from alchemist_core.store.engine import open_store
from alchemist_core.training.config import RaterTrainingConfig
from tests.models.given_models import lively_star
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]
# As published: 64 features and one head for each block, here of two.
RATER = {
    "proxy_depth": 2, "proxy_width": 128, "rater_depth": 2, "rater_width": 128, "n_heads": None, "proxy_warmup_steps": 1,
    "max_train_steps": 1, "batch_size": 32,
}  # fmt: skip
MODEL = {"depth": 2, "width": 128, "n_heads": 2, "max_train_steps": 1, "batch_size": 32, "method": "finetune"}


def write_star(path: Path, seed: int = 0) -> Path:
    training = RaterTrainingConfig.model_validate(RATER)
    size: StarConfig = training.proxy(training.tokenizer_config, WordVectors.dim)
    path.parent.mkdir(exist_ok=True)
    torch.save({"trainer": {"var_wo_ddp": export_star(lively_star(size, seed))}}, path)
    return path


def train_rater(path: Path) -> TrainRaterResult:
    training = RATER | {"proxy_weights": path}
    return rater_stage.run(
        TrainRaterConfig.model_validate({"dataset": "scenes", "validation": "v", "training": training})
    )


def train_model(path: Path) -> TrainDownstreamResult:
    given = {"subset": "s", "arms": "subset", "model": MODEL | {"base_model": path}}
    return downstream_stage.run(TrainDownstreamConfig.model_validate(given))


@pytest.mark.slow
def test_a_rater_starts_from_published_star_scores_and_is_known_again_by_its_content(
    trained_store: TrainedStore, tmp_path: Path
) -> None:
    trained = train_rater(write_star(tmp_path / "star.pth"))
    assert trained.is_new
    assert score(ScoreConfig(dataset="scenes", rater=trained.rater)).n_scored == 240
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "star.pth").rename(tmp_path / "elsewhere" / "star.pth")
    for place in (moved, moved.parent):
        again = train_rater(place)
        assert (again.rater, again.is_new) == (trained.rater, False)
    assert train_rater(write_star(moved, seed=1)).is_new
    with open_store().connect() as connection:
        stored = connection.execute(
            text("SELECT config -> 'training' -> 'weights_sha256' FROM alchemist.raters WHERE name = :name"),
            {"name": trained.rater},
        ).scalar_one()
    assert list(stored) == ["proxy_weights"]


@pytest.fixture
def selected(scored_store: TrainedStore) -> None:
    select_subset()


@pytest.mark.usefixtures("selected")
def test_a_model_starts_from_published_star_is_measured_and_known_again_by_its_content(tmp_path: Path) -> None:
    trained = train_model(write_star(tmp_path / "star.pth"))
    assert trained.n_trained == 1
    assert evaluate(EvaluateConfig(subset="s")).n_measured == 1
    moved = (tmp_path / "star.pth").rename(tmp_path / "moved.pth")
    again = train_model(moved)
    assert (again.n_reused, again.identities) == (1, trained.identities)
    assert train_model(write_star(moved, seed=1)).n_trained == 1


@pytest.mark.slow
@pytest.mark.usefixtures("selected")
def test_a_rater_and_a_model_from_before_weights_were_hashed_are_found_by_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_star(tmp_path / "star.pth")
    with monkeypatch.context() as before:
        for stage in (rater_stage, downstream_stage):
            before.setattr(stage, "pin", lambda config: config)
        rater, model = train_rater(path), train_model(path)
    assert (rater.is_new, model.n_trained) == (True, 1)
    assert (train_rater(path).rater, train_rater(path).is_new) == (rater.rater, False)
    assert (train_model(path).identities, train_model(path).n_reused) == (model.identities, 1)
