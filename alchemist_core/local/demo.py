"""The demo: writes a project file and runs the whole platform with it on this machine, through Airflow's scheduler and REST API.

Every step is idempotent: results of an earlier demo are reused, and the demo prints that.
"""

import json
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write
from alchemist_core.local.airflow_client import AirflowClient
from alchemist_core.local.scenes import ScenesConfig, draw_scenes
from alchemist_core.local.stack import StackStatus, bring_store, client, require_airflow, up
from alchemist_core.settings import PROJECT_FILE
from alchemist_core.statistics import gap_closed
from alchemist_core.telemetry import say

DATASET = "scenes"
VALIDATION, EVALUATION = f"{DATASET}-validation", f"{DATASET}-test"
RETENTIONS = (0.2, 0.5)
# The stored name of the arm `oracle`.
ORACLE = "planted"
# Long: on a machine that is busy with other work a step takes many times as long as on an idle one.
TIMEOUT_S = 7200.0
MARK = "# Project file of the demo"
PROJECT = """\
{mark}; every alchemist demo writes it again. For your own data: alchemist init.

[datasets.{dataset}]  # a synthetic corpus in which the value of each sample is known
root = {train}

[datasets.{validation}]  # examples of what models should become good at
role = "validation"
root = {validation_root}

[datasets.{evaluation}]  # what models are measured on
role = "evaluation"
root = {evaluation_root}

[rater]
preset = "tiny"  # a miniature: images of 16 px, two minutes on two cores
dataset = "{dataset}"
validation = "{validation}"
seed = {seed}

[selection]
dataset = ["{dataset}"]

[downstream]
preset = "tiny"
arms = ["subset", "random", "oracle", "full"]  # oracle: samples that are known to be good
seeds = [{seeds}]
truth = {truth}  # the kind of each sample, for arm oracle

[evaluation]
dataset = "{evaluation}"

[report]
dataset = "{dataset}"
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One trained model of the comparison, as `.alchemist/demo.json` lists it."""

    arm: str
    retention: float
    seed: int
    n_samples: int
    steps: int
    heldout_loss: float


class Demo:
    """The demo's steps on one home."""

    def __init__(self, home: Path, scenes: ScenesConfig, *, seeds: str) -> None:
        self.home, self.scenes, self.seeds = home, scenes, seeds
        self.corpus = home / "corpora" / DATASET
        self.began = time.monotonic()

    def write_project(self) -> Path:
        """Write the demo's project file into its home, and show it.

        Raises:
            ConfigError: The home already holds a project file that is not the demo's.
        """
        path, text = self.home / PROJECT_FILE, self._project_text()
        if path.exists() and not path.read_text(encoding="utf-8").startswith(MARK):
            raise ConfigError(
                f"{path} is not the demo's project file. Run the demo in another home: set ALCHEMIST_HOME to a new folder."
            )
        self.home.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
        self.say(f"project file: {path}\n\n{textwrap.indent(text, '    ')}")
        return path

    def _project_text(self) -> str:
        # JSON's text is TOML's.
        paths = {"train": "train", "validation_root": "validation", "evaluation_root": "test", "truth": "truth.parquet"}
        located = {name: json.dumps(str(self.corpus / path)) for name, path in paths.items()}
        names = {"dataset": DATASET, "validation": VALIDATION, "evaluation": EVALUATION}
        return PROJECT.format(mark=MARK, **names, **located, seed=self.scenes.seed, seeds=self.seeds.replace(",", ", "))

    def prepare(self, ingest: Callable[[str], None], install: Callable[[Path], None]) -> StackStatus:
        """Generate the corpus, register the validation and evaluation datasets, install the DAGs, and start the stack.

        Raises:
            MissingDependencyError: Airflow is not installed beside this command; nothing was generated.
        """
        require_airflow()
        drawn = draw_scenes(self.corpus, **self.scenes.model_dump())
        self.say(
            f"corpus: {drawn.n_train:,} training scenes {'reused' if drawn.is_reused else 'generated'} in {self.corpus}"
        )
        bring_store(self.home)
        ingest(VALIDATION)
        ingest(EVALUATION)
        install(self.home)
        status = up(self.home)
        self.say(f"stack: Airflow at {status.url} {'was already running' if status.is_reused else 'started'}")
        return status

    def drive(self) -> None:
        """Run the DAGs: two nights, the training of a rater, two subsets, and their comparison. The project file says the rest."""
        airflow = client(self.home)
        for night in self.nights():
            self.run_dag(airflow, "nightly_rescore", {"dataset": DATASET}, partition_key=night)
        self.run_dag(airflow, "train_rater", {})
        for retention in RETENTIONS:
            chosen = {"retention": retention, "materialize": retention == RETENTIONS[0]}
            self.run_dag(airflow, "build_subset", chosen)
        self.run_dag(airflow, "evaluate_subset", {})

    def nights(self) -> list[str]:
        """Return the crawl dates of the synthetic corpus: the names of its folders."""
        return sorted(folder.name for folder in (self.corpus / "train").iterdir() if folder.is_dir())

    def run_dag(
        self, airflow: AirflowClient, dag_id: str, conf: dict[str, Any], *, partition_key: str | None = None
    ) -> None:
        """Start a DAG run and wait until it succeeds."""
        title = f"{dag_id} {partition_key or conf.get('retention', '')}".strip()
        self.say(f"{title}: started")
        began = time.monotonic()
        run_id = airflow.trigger(dag_id, conf, partition_key=partition_key)
        airflow.wait(dag_id, run_id, timeout_s=TIMEOUT_S, on_progress=lambda line: say(f"         {line}"))
        self.say(f"{title}: done in {time.monotonic() - began:.0f} s")

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        say(f"[{time.monotonic() - self.began:5.0f} s] {text}")

    def write(self, arms: Sequence[Arm]) -> Path:
        """Write `demo.json`: the arms, each with the generator's seed."""
        path = self.home / "demo.json"
        rows = [asdict(arm) | {"generator_seed": self.scenes.seed} for arm in arms]
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        return path


def comparison_table(arms: Sequence[Arm]) -> str:
    """Return a table of the arms, with the gap closed by the subset (`statistics.gap_closed`).

    >>> rows = [Arm("random", 0.2, 0, 9, 9, 3.0), Arm("planted", 0.2, 0, 9, 9, 2.0), Arm("subset", 0.2, 0, 9, 9, 2.1)]
    >>> "90%" in comparison_table(rows)
    True
    """
    lines = [f"{'kept':>6}  {'arm':<8} {'samples':>8} {'steps':>7} {'held-out loss':>14}  gap closed"]
    for retention in sorted({arm.retention for arm in arms}):
        losses = _losses([arm for arm in arms if arm.retention == retention])
        for name in (name for name in ("random", "subset", ORACLE, "full") if name in losses):
            first = next(arm for arm in arms if (arm.retention, arm.arm) == (retention, name))
            mean = fmean(losses[name].values())
            line = f"{retention:>6.0%}  {'oracle' if name == ORACLE else name:<8} {first.n_samples:>8,} {first.steps:>7,} {mean:>14.4f}"
            lines.append(f"{line}  {_gap(losses)}" if name == "subset" else line)
    return "\n".join(lines)


def _losses(arms: Sequence[Arm]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for arm in arms:
        found.setdefault(arm.arm, {})[arm.seed] = arm.heldout_loss
    return found


def _gap(losses: dict[str, dict[int, float]]) -> str:
    closed = gap_closed(losses["subset"], losses.get("random", {}), losses.get(ORACLE, {}))
    return "" if closed is None else f"{closed.mean:.0%}"
