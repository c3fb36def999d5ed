"""The chain from tars to the report, by the commands that a user types; the output of each is shown as it comes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.local.stack import client
from tests.benchmarks.rows import Row, write_rows
from tests.rehearsal.corpus import NIGHT, write_parts
from tests.rehearsal.watch import GIB, Watch

LIMIT_S, LIMIT_GIB, TOLERANCE = 90 * 60, 20, 0.25
N_IMAGES = 4
SHORT = {"batch_size": 4, "max_train_steps": 2, "checkpointing_steps": 2}
"""Lengths that two cores can walk."""
FEW_IMAGES = f"""\
# FID of a handful of images: it shows that the way works, not how good the images are.
metric = "fid"
extractor = "inception_v3"
resolution = 256
n_images = {N_IMAGES}
sampler = "{{sampler}}"

[sampling]
{{sampling}}
batch_size = {N_IMAGES}
"""
REASON = "rehearsal: two steps train no rater that could pass"


class Rehearsal(ABC):
    """The commands of one rehearsal, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.project = folder, folder / "home", folder / "alchemist.toml"
        self.weights = folder / "weights"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")},
            "ALCHEMIST_HOME": str(self.home),
            # At this width the steps are faster with all cores; the default of one thread suits miniatures.
            "OMP_NUM_THREADS": str(os.cpu_count()),
        }
        self.seconds: dict[str, float] = {}
        self.planned_bytes: dict[str, int] = {}

    def type(self, *words: str, expect: int = 0) -> str:
        """Run a command of alchemist in the folder, show it with its output, and return its output."""
        print(f"\n$ alchemist {shlex.join(words)}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "alchemist_core", *words],
            check=False,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(done.stdout, end="", flush=True)
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
        if done.returncode != expect:
            raise SystemExit(f"alchemist {shlex.join(words)} ended with {done.returncode}, expected was {expect}.")
        return done.stdout

    def run_dag(self, dag_id: str, conf: dict[str, Any] | None = None, *, refused: str | None = None) -> None:
        """Start a DAG as a user does on the command line, and follow it; `refused`: what its last words must say if it has to fail."""
        words = ["stack", "airflow", "dags", "trigger", dag_id, *(["--conf", json.dumps(conf)] if conf else [])]
        self.type(*words)
        airflow = client(self.home)
        run_id = _newest_run(airflow, dag_id)
        self.follow(airflow, dag_id, run_id, refused=refused)

    def follow(self, airflow: AirflowClient, dag_id: str, run_id: str, *, refused: str | None = None) -> None:
        """Wait for a run; its tasks' times go into the table."""
        try:
            airflow.wait(dag_id, run_id, timeout_s=LIMIT_S, on_progress=lambda line: print(f"  {line}", flush=True))
        except AirflowError as error:
            if refused is None or refused not in str(error):
                raise
            print(f"  {dag_id} was refused, as it must be:\n{error}", flush=True)
        else:
            if refused is not None:
                raise SystemExit(f"{dag_id} succeeded; it must be refused: {refused}.")
        for task in airflow.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100")[
            "task_instances"
        ]:
            if task["duration"]:
                name = f"{dag_id}.{task['task_id']}"
                self.seconds[name] = self.seconds.get(name, 0.0) + float(task["duration"])

    @abstractmethod
    def write_project(self) -> None:
        """Write weights and project file."""

    def init(self, preset: str, *words: str) -> None:
        """Let `init` write the project file for the tars."""
        tars = self.folder / "tars"
        self.type(
            "init", "--data", str(tars / "train"), "--validation-data", str(tars / "validation"), "--evaluation-data", str(tars / "test"),
            "--dataset", "web", "--preset", preset, *words, "--force",
        )  # fmt: skip

    def change(self, section: str, values: dict[str, Any]) -> None:
        """Set keys of a section as an editor would; a key of value None is removed."""
        lines, current = list[str](), ""
        for line in self.project.read_text().splitlines():
            if line.startswith("["):
                current = line[1:].partition("]")[0]
            if current != section or line.partition(" =")[0] not in values:
                lines.append(line)
            if line.startswith(f"[{section}]"):
                lines += [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
        self.project.write_text("\n".join(lines) + "\n")

    def append(self, text: str) -> None:
        """Add sections at the end of the project file."""
        self.project.write_text(f"{self.project.read_text()}\n{text}\n")

    def walk(self) -> None:
        """From the tars to the report, as `init` and the README say."""
        self.type("config", "check")
        self.type("weights", "list")
        self.type("weights", "check")
        for stage in ("train-rater", "train-downstream"):
            self.type("plan", stage, "--gpu", "cpu")
            self.planned_bytes[stage] = json.loads(self.type("plan", stage, "--gpu", "cpu", "--json"))["peak_bytes"]
        for dataset in ("web-validation", "web-test"):
            self.type("ingest", "--dataset", dataset)
        self.type("stack", "up")
        self.run_dag("nightly_rescore", {"crawl_date": NIGHT})
        self.run_dag("train_rater", refused="has not passed its acceptance checks")
        self.type("rater", "promote", "newest", "--without-acceptance", REASON)
        self.run_dag("nightly_rescore", {"crawl_date": NIGHT})
        self.run_dag("build_subset")
        airflow = client(self.home)
        self.follow(airflow, "evaluate_subset", _newest_run(airflow, "evaluate_subset"))
        self.type("subset", "list")
        self.type("subset", "compare", self._subset())
        self.type("report")

    def _subset(self) -> str:
        found = json.loads(self.type("subset", "list", "--json"))
        return str(found["subsets"][0]["name"])


def _newest_run(airflow: AirflowClient, dag_id: str, *, within_s: float = 60.0) -> str:
    deadline = time.monotonic() + within_s
    while True:
        runs = airflow.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=1&order_by=-run_after")["dag_runs"]
        if runs:
            return str(runs[0]["dag_run_id"])
        if time.monotonic() > deadline:
            raise SystemExit(f"No run of {dag_id} began within {within_s:.0f} s.")
        time.sleep(1)


def rehearse(bench: str, rehearsal: Rehearsal, corpus: Path | None) -> None:
    """Walk the chain, print the tables and write `.alchemist/bench/NAME.json`."""
    began = time.monotonic()
    rehearsal.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(rehearsal.home, ignore_errors=True)
    print(f"tars: {write_parts(rehearsal.folder / 'tars', corpus)}", flush=True)
    rehearsal.write_project()
    print(f"\n{rehearsal.project} with short lengths:\n\n{rehearsal.project.read_text()}", flush=True)
    with Watch(rehearsal.home) as watch:
        try:
            rehearsal.walk()
        finally:
            rehearsal.type("stack", "down")
    tell(bench, rehearsal, watch.peak_bytes, time.monotonic() - began)


def tell(bench: str, rehearsal: Rehearsal, peak_bytes: dict[str, int], total_s: float) -> None:
    """Print time and memory of each task and command, beside what `plan` said, and keep them."""
    times = Table("task of Airflow", "seconds")
    for name, seconds in rehearsal.seconds.items():
        times.add_row(name, f"{seconds:.0f}")
    memory = Table("command", "peak memory, GiB", "plan", "plan / measured")
    rows = []
    for name, n_bytes in sorted(peak_bytes.items(), key=lambda pair: -pair[1]):
        planned = rehearsal.planned_bytes.get(name)
        said = ("", "") if planned is None else (f"{planned / GIB:.2f}", f"{planned / n_bytes:.2f}")
        memory.add_row(name, f"{n_bytes / GIB:.2f}", *said)
        if planned is not None:
            share = planned / n_bytes
            rows.append(
                Row(f"plan / measured of {name}", round(share, 3), "", "0.75 to 1.25", abs(share - 1) <= TOLERANCE)
            )
    Console(width=110).print(times, memory)
    everything = peak_bytes["everything"] / GIB
    rows += [
        Row("whole rehearsal", round(total_s), "s", f"< {LIMIT_S}", total_s < LIMIT_S, f"{os.cpu_count()} cores"),
        Row("peak memory of everything", round(everything, 2), "GiB", f"< {LIMIT_GIB}", everything < LIMIT_GIB),
        *(Row(f"time of {name}", round(each, 1), "s", None, None) for name, each in rehearsal.seconds.items()),
        *(Row(f"peak memory of {name}", round(each / GIB, 2), "GiB", None, None) for name, each in peak_bytes.items()),
    ]
    write_rows(bench.replace("-", "_"), rows)
