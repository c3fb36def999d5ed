"""Which version a stage takes where none is named: the published one, else the newest; and it says which, and why."""

import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.verbs.compare import CompareConfig
from alchemist_core.verbs.compare import run as compare
from alchemist_core.verbs.publish import PublishNightConfig, publish_night
from alchemist_core.verbs.subset_publish import PublishSubsetConfig, publish
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]


@pytest.fixture
def two_versions(trained_store: TrainedStore) -> None:
    score(ScoreConfig(dataset="scenes"))
    publish_night(PublishNightConfig(dataset="scenes"))
    for seed in (0, 1):
        policy = {"retention": 0.3, "seed": seed, "strategy": "random"}
        select(SelectConfig.model_validate({"dataset": "scenes", "name": "s", "policy": policy}))


@pytest.mark.usefixtures("two_versions")
def test_a_stage_takes_the_published_version_though_a_newer_one_waits(capsys: pytest.CaptureFixture[str]) -> None:
    publish(PublishSubsetConfig(name="s", version=1))
    assert materialize(MaterializeConfig(subset="s")).subset == "s v1"
    assert "s v1 is taken, the published version; the newest is v2 (--version 2)." in said(capsys)
    model = {"n_epochs": 1, "batch_size": 32, "width": 16, "depth": 1}
    trained = train_downstream(TrainDownstreamConfig.model_validate({"subset": "s", "arms": "subset", "model": model}))
    assert (trained.subset, evaluate(EvaluateConfig(subset="s")).subset) == ("s v1", "s v1")
    assert compare(CompareConfig(subset="s")).subset == "s v1"
    with pytest.raises(ConfigError, match="No model was trained on s v2"):
        evaluate(EvaluateConfig(subset="s", version=2))


@pytest.mark.usefixtures("two_versions")
def test_the_newest_is_taken_where_none_is_published_where_it_is_named_and_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert materialize(MaterializeConfig(subset="s")).subset == "s v2"
    assert "s v2 is taken, the newest version: none is published." in said(capsys)
    publish(PublishSubsetConfig(name="s", version=1))
    # What is about to be published is copied first.
    assert materialize(MaterializeConfig(subset="s", newest=True)).subset == "s v2"
    assert "s v2 is taken, the newest version; published is v1." in said(capsys)
    assert materialize(MaterializeConfig(subset="s", version=2)).subset == "s v2"
    assert "is taken" not in said(capsys)
    publish(PublishSubsetConfig(name="s", version=2))
    assert materialize(MaterializeConfig(subset="s")).subset == "s v2"
    assert "s v2 is taken, the published version." in said(capsys)


def test_a_version_and_the_newest_are_two_answers() -> None:
    with pytest.raises(ValueError, match="--version 1 and --newest"):
        MaterializeConfig(subset="s", version=1, newest=True)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return found.out + found.err
