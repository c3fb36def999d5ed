"""The demo's project file declares what its runs use; the demo itself is run by `make demo` and tests/e2e."""

from pathlib import Path

import pytest

from alchemist_core.cli.effective import check_project
from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.local import stack
from alchemist_core.local.demo import Demo
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.project import load_project
from tests.cli.test_effective import read


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


def test_without_airflow_nothing_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "PROGRAMS", tmp_path)
    demo, done = Demo(tmp_path / "home", ScenesConfig(), seeds="0"), list[object]()
    with pytest.raises(MissingDependencyError, match="Airflow is not installed"):
        demo.prepare(done.append, done.append)
    assert done == []
    assert not (tmp_path / "home").exists()
