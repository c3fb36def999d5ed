"""The demo's project file declares what its runs use; the demo itself is run by `make demo` and tests/e2e."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from alchemist_core.cli.demo import refuse_other_subsets
from alchemist_core.cli.effective import check_project
from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.local import stack
from alchemist_core.local.demo import Demo
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.project import load_project
from tests.cli.test_effective import read
from tests.given import insert_rows


@pytest.mark.parametrize("name", ["home", 'a "b"\\c'])
def test_the_demo_writes_and_shows_a_project_file_that_its_commands_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    demo = Demo(tmp_path / name, ScenesConfig(seed=5), seeds="0,3")
    path = demo.write_project()
    assert path == tmp_path / name / "alchemist.toml"
    assert 'preset = "tiny"  # a miniature' in capsys.readouterr().err
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(path))
    load_project.cache_clear()
    check_project(load_project())
    rater, model, evaluation, crawl = (
        read(line).config.as_json()
        for line in ("train-rater", "train-downstream s", "evaluate s", "ingest --dataset scenes")
    )
    assert (rater["dataset"], rater["validation"], rater["training"]["seed"]) == ("scenes", "scenes-validation", 5)
    assert (model["arms"], model["seeds"]) == (["subset", "random", "planted", "full"], [0, 3])
    assert model["truth"] == str(demo.corpus / "truth.parquet")
    assert evaluation["evaluation"] == "scenes-test"
    assert crawl["root"] == str(demo.corpus / "train")


def test_the_demo_writes_its_own_file_again_and_never_replaces_another(tmp_path: Path) -> None:
    Demo(tmp_path, ScenesConfig(seed=5), seeds="0").write_project()
    assert "seed = 6" in Demo(tmp_path, ScenesConfig(seed=6), seeds="0").write_project().read_text()
    (tmp_path / "alchemist.toml").write_text('[rater]\npreset = "gpu24"\n')
    with pytest.raises(ConfigError, match="is not the demo's project file"):
        Demo(tmp_path, ScenesConfig(seed=6), seeds="0").write_project()
    assert (tmp_path / "alchemist.toml").read_text() == '[rater]\npreset = "gpu24"\n'


@pytest.mark.db
def test_a_store_with_a_published_subset_of_other_data_is_refused(engine: Engine) -> None:
    """It would be trained with the demo's arms, whose truth has none of its samples."""
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r", "state": "production"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [
                {"snapshot_id": n, "rank_scale_id": 1, "dataset_names": [name]} for n, name in ((1, "scenes"), (2, "web"))
            ],
            "subsets": [{"subset_id": 1, "name": "scenes-auto-r20", "snapshot_id": 1, "state": "published"}],
        })  # fmt: skip
    refuse_other_subsets()
    with engine.begin() as connection:
        insert_rows(
            connection, {"subsets": [{"subset_id": 2, "name": "good-half", "snapshot_id": 2, "state": "published"}]}
        )
    with pytest.raises(ConfigError, match=r"good-half v1 of dataset web is published.*set ALCHEMIST_HOME"):
        refuse_other_subsets()


def test_without_airflow_nothing_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "PROGRAMS", tmp_path)
    demo, done = Demo(tmp_path / "home", ScenesConfig(), seeds="0"), list[object]()
    with pytest.raises(MissingDependencyError, match="Airflow is not installed"):
        demo.prepare(done.append, done.append)
    assert done == []
    assert not (tmp_path / "home").exists()
