"""FLUX at tiny size through the stages: trained on a subset and its control, measured, and never averaged with STAR."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from sqlalchemy import text

from alchemist_core.cli.scorer import RegisterConfig, register_scorer
from alchemist_core.errors import ConfigError
from alchemist_core.metrics.catalogue import METRICS
from alchemist_core.models.published.flux import export_flux
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig, TrainDownstreamResult
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.engine import open_store
from tests.metrics.scene_metric import SceneScore
from tests.models.given_flux import TINY, new_transformer, write_flux_parts
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]

SCENES = """
metric = "geneval_scenes"
extractor = "drawn_shapes"
resolution = 16
n_images = 6
sampler = "flow"
sampling = { n_steps = 2, batch_size = 3 }
"""


@pytest.fixture
def selected(scored_store: TrainedStore) -> None:
    select_subset()


def train(folder: Path, subset: str = "s", arms: str = "subset,random") -> TrainDownstreamResult:
    base = folder / "flux-tiny.safetensors"
    if not base.exists():
        save_file(export_flux(new_transformer().state_dict(), TINY), base)
        write_flux_parts(folder / "parts")
    model = {
        "flux": TINY, "method": "lora", "base_model": base, "flux_components": folder / "parts", "lora_rank": 4, "max_train_steps": 4,
        "batch_size": 8,
    }  # fmt: skip
    return train_downstream(TrainDownstreamConfig.model_validate({"subset": subset, "arms": arms, "model": model}))


@pytest.mark.slow
@pytest.mark.usefixtures("selected")
def test_flux_is_trained_measured_and_compared_apart_from_star(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "geneval_scenes", SceneScore)
    with pytest.raises(ConfigError, match="No FLUX-mini was trained"):
        evaluate(EvaluateConfig(subset="s", protocol="heldout_flow_loss"))
    train_downstream(
        TrainDownstreamConfig.model_validate({"subset": "s", "arms": "subset", "model": {"max_train_steps": 2}})
    )
    assert train(tmp_path).n_trained == 2
    assert train(tmp_path).n_reused == 2
    flow = evaluate(EvaluateConfig(subset="s", protocol="heldout_flow_loss"))
    assert (flow.n_measured, flow.means.keys()) == (2, {"subset", "random"})
    assert all(0.3 < value < 3 for value in flow.means.values())
    assert evaluate(EvaluateConfig(subset="s", protocol="heldout_flow_loss")).n_reused == 2
    star = evaluate(EvaluateConfig(subset="s"))
    assert star.means.keys() == {"subset"}
    contract = tmp_path / "flux_scenes.toml"
    contract.write_text(SCENES)
    drawn = evaluate(EvaluateConfig(subset="s", protocol=str(contract)))
    assert (drawn.n_measured, drawn.metric) == (2, "geneval_scenes")
    with open_store().connect() as connection:
        rows = connection.execute(text("SELECT DISTINCT metric FROM alchemist.evaluations")).scalars()
    assert set(rows) > {"heldout_loss", "heldout_flow_loss", "geneval_scenes"}


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_flux_is_trained_and_measured_on_a_version_that_a_scorer_ranked(tmp_path: Path) -> None:
    """It reads no tokenizer of a rater."""
    register_scorer(RegisterConfig(name="pixels"))
    score(ScoreConfig(scorer="pixels"))
    publish_night(PublishNightConfig(dataset="scenes", rater="pixels_clarity"))
    given = {"dataset": "scenes", "name": "clear", "rater": "pixels_clarity", "policy": {"retention": 0.5}}
    select(SelectConfig.model_validate(given))
    assert train(tmp_path, "clear").n_trained == 2
    assert evaluate(EvaluateConfig(subset="clear", protocol="heldout_flow_loss")).n_measured == 2
    for arm in ("minus_loss", "validation"):
        with pytest.raises(ConfigError, match=f"--arms {arm}: rater pixels_clarity was trained without a validation"):
            train(tmp_path, "clear", arm)
