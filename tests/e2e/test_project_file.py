"""The project file through Airflow's scheduler: a change of it alone shows in the next night, training, subset and evaluation."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.local import stack
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine
from alchemist_core.store.postgres import start_postgres

from .published_client import TIMEOUT_S, Airflow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(2400)]

NIGHTS = ("2026-01-01", "2026-01-02")
PROJECT = """
[datasets.scenes]
root = "{corpus}/train"
[datasets.goal]
role = "validation"
root = "{corpus}/validation"
[datasets.test]
role = "evaluation"
root = "{corpus}/test"
[rater]
preset = "tiny"
recipe = "{recipe}"
dataset = "scenes"
validation = "goal"
tokenizer = "{tokenizer}"
text_encoder = "{encoder}"
codebook_size = {codes}
proxy_warmup_steps = 10
max_train_steps = {steps}
[selection]
dataset = ["scenes"]
retention = {retention}
dedup = "{dedup}"
[downstream]
preset = "tiny"
width = {width}
num_train_epochs = 1
seeds = [{seed}]
[evaluation]
dataset = "test"
protocols = [{protocols}]
[checks]
max_quarantined_ratio = {quarantined}
[report]
dataset = "scenes"
"""
FIRST = {
    "recipe": "ours", "tokenizer": "patches", "encoder": "words", "codes": 32, "steps": 10, "retention": 0.5, "dedup": "exact",
    "width": 16, "seed": 0, "protocols": '"heldout_loss"', "quarantined": 0.5,
}  # fmt: skip
SECOND = {
    "recipe": "paper", "tokenizer": "vqvae", "encoder": "minilm", "codes": 64, "steps": 12, "retention": 0.25, "dedup": "off",
    "width": 32, "seed": 3, "protocols": '"heldout_loss", "mine.toml"', "quarantined": 0.25,
}  # fmt: skip


@dataclass
class Walks:
    """What was seen after each walk through the DAGs."""

    configs: list[dict[str, Any]] = field(default_factory=list)
    protocols: list[set[str]] = field(default_factory=list)
    limits: list[set[float]] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)


class Walker:
    """Changes the project file, and walks through the DAGs with empty forms."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.corpus = folder, folder / "home", folder / "scenes"
        self.walks = Walks()

    def declare(self, values: dict[str, Any]) -> None:
        (self.folder / "alchemist.toml").write_text(PROJECT.format(corpus=self.corpus, **values))
        load_project.cache_clear()
        assert main(["stack", "up"]) == 0

    def walk(self, night: str) -> None:
        airflow = Airflow(self.home)
        assert airflow.run("nightly_rescore", {}, partition_key=night) == "success"
        # So few steps give no good rater: its checks fail, and a person promotes it with a reason.
        assert airflow.run("train_rater", {}) == "failed"
        assert main(["rater", "promote", "--without-acceptance", "a few steps, for a test"]) == 0
        assert main(["score"]) == 0
        assert main(["check", "--suite", "scores", "--dataset", "scenes"]) == 0
        assert main(["night", "publish", "--dataset", "scenes"]) == 0
        assert airflow.run("build_subset", {}) == "success"
        self._wait_for_evaluation(airflow)
        self.walks.forms.append(json.dumps(airflow.client.DAGApi(airflow.api).get_dag_details("build_subset").params))
        self._look()

    def _wait_for_evaluation(self, airflow: Airflow) -> None:
        deadline, n_wanted = time.monotonic() + TIMEOUT_S, len(self.walks.configs) + 1
        while time.monotonic() < deadline:
            states = [run.state.value for run in airflow.runs.get_dag_runs("evaluate_subset").dag_runs]
            if len(states) >= n_wanted and set(states) <= {"success", "failed"}:
                assert set(states) == {"success"}
                return
            time.sleep(2)
        raise AssertionError("no evaluation ended")

    def _look(self) -> None:
        engine = make_engine(start_postgres(self.home).url())
        with engine.connect() as connection:
            newest = "SELECT DISTINCT ON (stage) stage, config FROM alchemist.runs ORDER BY stage, run_id DESC"
            self.walks.configs.append({row.stage: row.config for row in connection.execute(text(newest))})
            used = "SELECT DISTINCT config ->> 'protocol' FROM alchemist.runs WHERE stage = 'evaluate'"
            self.walks.protocols.append(set(connection.execute(text(used)).scalars()))
            applied = "SELECT DISTINCT observed -> 'limits' ->> 'max_quarantined_ratio' FROM alchemist.check_results"
            self.walks.limits.append({float(value) for value in connection.execute(text(applied)).scalars() if value})
        engine.dispose()


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walks]:
    folder = tmp_path_factory.mktemp("project")
    folder.chmod(0o755)
    (folder / "mine.toml").write_text('metric = "heldout_loss"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALCHEMIST_HOME", str(folder / "home"))
        load_settings.cache_clear()
        walker = Walker(folder)
        draw_scenes(walker.corpus, n_train=240, n_validation=200, n_test=64, shard_size=40, side=32)
        try:
            walker.declare(FIRST)
            for name in ("goal", "test"):
                assert main(["ingest", "--dataset", name]) == 0
            walker.walk(NIGHTS[0])
            walker.declare(SECOND)
            walker.walk(NIGHTS[1])
            yield walker.walks
        finally:
            stack.down(walker.home)
    load_settings.cache_clear()
    load_project.cache_clear()


def test_each_stage_ran_with_the_values_of_the_file_at_its_time(walks: Walks) -> None:
    for found, given in zip(walks.configs, (FIRST, SECOND), strict=True):
        training, policy, model = (
            found["train_rater"]["training"],
            found["select"]["policy"],
            found["train_downstream"]["model"],
        )
        names = ("tokenizer", "text_encoder", "codebook_size", "max_train_steps")
        assert [training[name] for name in names] == [given[key] for key in ("tokenizer", "encoder", "codes", "steps")]
        assert training["rule"] == ("loss" if given["recipe"] == "paper" else "alignment")
        assert (policy["retention"], policy["dedup"]) == (given["retention"], given["dedup"])
        assert (model["width"], found["train_downstream"]["seeds"]) == (given["width"], [given["seed"]])
        assert (found["evaluate"]["evaluation"], found["report"]["dataset"]) == ("test", "scenes")
    assert [found["ingest"]["crawl_date"] for found in walks.configs] == list(NIGHTS)


def test_protocols_thresholds_and_forms_follow_the_file(walks: Walks) -> None:
    first, second = walks.protocols
    assert first == {"heldout_loss"}
    assert {Path(name).name for name in second} == {"heldout_loss", "mine.toml"}
    assert walks.limits == [{0.5}, {0.25, 0.5}]
    for said, given in zip(walks.forms, (FIRST, SECOND), strict=True):
        assert f"empty: as alchemist.toml says ({given['retention']})" in said
