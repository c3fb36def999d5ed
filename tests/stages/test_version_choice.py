"""The version that a stage uses by default: the published one, else the newest; the choice is printed with its reason."""

from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.subset import CompareConfig, PublishSubsetConfig, compare, publish
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import read_manifest
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.dataset import SubsetDataset
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]


@pytest.fixture
def two_versions(scored_store: TrainedStore) -> None:
    for seed in (0, 1):
        policy = {"retention": 0.3, "seed": seed, "strategy": "random"}
        select(SelectConfig.model_validate({"dataset": "scenes", "name": "s", "policy": policy}))


@pytest.mark.usefixtures("two_versions")
def test_a_stage_takes_the_published_version_though_a_newer_one_waits(capsys: pytest.CaptureFixture[str]) -> None:
    publish(PublishSubsetConfig(name="s", version=1))
    assert materialize(MaterializeConfig(subset="s")).subset == "s v1"
    assert "Using s v1, the published version; the newest is v2 (--version 2)." in said(capsys)
    model = {"num_train_epochs": 1, "batch_size": 32, "width": 16, "depth": 1}
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
    assert "Using s v2, the newest version; none is published." in said(capsys)
    publish(PublishSubsetConfig(name="s", version=1))
    # What is about to be published is copied first.
    assert materialize(MaterializeConfig(subset="s", newest=True)).subset == "s v2"
    assert "Using s v2, the newest version; published is v1." in said(capsys)
    assert materialize(MaterializeConfig(subset="s", version=2)).subset == "s v2"
    assert "Using" not in said(capsys)
    publish(PublishSubsetConfig(name="s", version=2))
    assert materialize(MaterializeConfig(subset="s")).subset == "s v2"
    assert "Using s v2, the published version." in said(capsys)


@pytest.mark.usefixtures("two_versions")
@pytest.mark.slow
def test_every_command_means_the_same_version_where_none_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`check`, `explain` and `subset show` once took the newest; readers saw the published one."""
    publish(PublishSubsetConfig(name="s", version=1))
    row = find_subset(open_store(), "s", version=1)
    pair = min(read_manifest(artifact_path(row.manifest_uri), sha256=row.manifest_sha256).pair_hashes())
    commands = (
        ["subset", "show", "s"],
        ["sample", "explain", pair.hex(), "--subset", "s"],
        ["check", "--suite", "subset", "--subset", "s"],
        ["export", "subset", "s", "--out", str(tmp_path / "m.csv")],
    )
    for command in commands:
        capsys.readouterr()
        assert main(command) == 0
        assert "Using s v1, the published version; the newest is v2 (--version 2)." in said(capsys), command
    SubsetDataset("s")
    assert "Using s v1, the published version; the newest is v2 (--version 2)." in said(capsys)
    # What a DAG checks, copies and publishes is the version that it has just selected.
    for command in (
        ["check", "--suite", "subset", "--subset", "s", "--newest"],
        ["materialize", "s", "--newest"],
        ["subset", "publish", "s"],
    ):
        capsys.readouterr()
        assert main(command) == 0
        assert "Using s v2, the newest version; published is v1." in said(capsys), command


@pytest.mark.parametrize("command", ["check --suite subset --subset s", "materialize s"])
def test_a_command_that_names_a_version_and_the_newest_is_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--version", "1", "--newest"]) == 2
    assert "--version 1 and --newest contradict each other" in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return found.out + found.err
