"""What every DAG file must be: small, import-light, documented, and nothing but command lines that our own parser accepts."""

import ast
import inspect
import itertools
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from alchemist_core.command_line import build_parser, read_config
from alchemist_core.forms import render_forms

from .conftest import DAGS, NAMES

RUNBOOK = DAGS.parent / "infra" / "RUNBOOK.md"
SUPPORT = ("commands", "forms", "jobs", "people")
DEVICE_TASKS = {"score", "train_rater", "train_downstream", "evaluate"}
ALLOWED_IMPORTS = {
    "functools", "json", "os", "shlex", "subprocess", "datetime", "airflow.sdk", "airflow.sdk.exceptions",
    "airflow.providers.standard.operators.hitl", *SUPPORT,
}  # fmt: skip
PLANNED = SimpleNamespace(xcom_pull=lambda task_ids: {"plan_promote": {"rater": "crawl-loss-0a1b2c3d"}}[task_ids])
HOSTILE = "x'; touch /tmp/owned; echo \"$HOME"

FILLED = {
    "nightly_rescore": {"dataset": "crawl", "root": "/data/crawl", "crawl_date": "2026-01-02"},
    "train_rater": {"dataset": "crawl", "validation": "wanted", "preset": "paper", "rule": "loss", "seed": 3, "n_steps": 100},
    "build_subset": {
        "dataset": "crawl", "name": "best", "retention": 0.25, "strategy": "shift_gsample", "drop_top_ratio": 0,
        "mean_rank": 0.6, "std_rank": 0.1, "start_rank": None, "seed": 0, "rater": "newest", "materialize": True, "dry_run": False,
        "approve": True,
    },
    "evaluate_subset": {
        "arms": "subset,random,planted", "seeds": "0,1,2", "truth": "/data/truth.parquet", "evaluation": "heldout",
        "dataset": "crawl",
    },
    "maintenance": {},
}  # fmt: skip
REQUIRED = {"train_rater": {"dataset": "crawl", "validation": "wanted"}, "build_subset": {"dataset": "crawl"}}


def path_of(dag):
    return DAGS / f"{dag.dag_id}.py"


def form(dag, given):
    """Return what Airflow gives the tasks when a user submits these values."""
    return {**{name: dag.params.get_param(name).value for name in dag.params}, **given}


def function_of(operator):
    return operator.python_callable  # a mapped operator of a decorator has it too


def attribute(operator, name):
    return operator.partial_kwargs.get(name) if operator.is_mapped else getattr(operator, name)


def command(operator, params):
    """Return the command line that a task would run."""
    function = function_of(operator)
    run = SimpleNamespace(partition_key=None, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    context = {"params": params, "dag_run": run, "slot": 1, "subset": "best", "ti": PLANNED}
    line = function(*(context[name] for name in inspect.signature(function).parameters))
    return line if isinstance(line, str) else shlex.join(line)


def command_tasks(dag):
    """The tasks that run a command: all but questions to people."""
    return [task for task in dag.tasks if hasattr(task, "python_callable")]


def pictured_edges(text):
    """Return the arrows of a docstring's indented picture as pairs of task ids."""
    chains = [re.split(r"\s*→\s*", line.strip()) for line in text.splitlines() if line.startswith("    ")]
    return {pair for chain in chains for pair in itertools.pairwise(chain)}


def test_every_file_of_the_folder_is_a_dag_of_its_name_or_ignored():
    ignored = (DAGS / ".airflowignore").read_text().split()
    assert set(ignored) == {f"{name}.py" for name in SUPPORT}
    assert {path.name for path in DAGS.glob("*.py")} == {f"{name}.py" for name in NAMES} | set(ignored)


def test_a_dag_file_has_at_most_60_lines(dag):
    assert len(path_of(dag).read_text().splitlines()) <= 60


def test_a_dag_file_imports_the_sdk_and_the_standard_library_only(dag):
    nodes = list(ast.walk(ast.parse(path_of(dag).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= ALLOWED_IMPORTS


def test_a_dag_says_what_it_does_and_links_its_runbook(dag):
    assert dag.doc_md == ast.get_docstring(ast.parse(path_of(dag).read_text()), clean=False)
    assert "Safe to re-run: " in dag.doc_md
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    anchor = re.search(r"infra/RUNBOOK\.md#(\w+)", dag.doc_md)[1]
    assert anchor == dag.dag_id
    assert anchor in [heading.strip("`") for heading in headings]


def test_the_picture_in_the_docs_is_the_graph(dag):
    edges = {(task.task_id, below) for task in dag.tasks for below in task.downstream_task_ids}
    assert pictured_edges(dag.doc_md) == edges


def test_a_dag_sets_its_limits_and_tags(dag):
    source = path_of(dag).read_text()
    assert dag.catchup is False
    assert "max_active_runs=" in source
    assert "alchemist" in dag.tags


def test_work_for_a_device_waits_in_the_gpu_pool(dag):
    pools = {task.task_id: attribute(task, "pool") for task in dag.tasks}
    assert {name for name, pool in pools.items() if pool == "gpu"} == pools.keys() & DEVICE_TASKS


def test_only_listing_tasks_return_a_value(dag):
    returning = {task.task_id for task in command_tasks(dag) if attribute(task, "do_xcom_push") is not False}
    assert returning == {task.task_id for task in dag.tasks} & {"plan", "plan_promote"}


def test_a_task_is_tried_again_later_and_later_ends_in_time_and_says_why_it_failed(dag):
    for operator in command_tasks(dag):
        assert attribute(operator, "retry_exponential_backoff") == 2.0
        assert attribute(operator, "execution_timeout")
        assert attribute(operator, "on_failure_callback")


def test_a_question_to_a_person_is_told_to_somebody_and_ends_in_time(dag):
    questions = [task for task in dag.tasks if task not in command_tasks(dag)]
    assert {task.task_id for task in questions} == (
        {"approve"} if dag.dag_id in ("train_rater", "build_subset") else set()
    )
    for question in questions:
        assert question.notifiers
        assert question.response_timeout


@pytest.mark.parametrize("is_filled", [False, True], ids=["defaults", "filled"])
def test_every_command_is_accepted_by_the_command_line(dag, is_filled):
    params = form(dag, FILLED[dag.dag_id] if is_filled else REQUIRED.get(dag.dag_id, {}))
    for operator in command_tasks(dag):
        program, *words = shlex.split(command(operator, params))
        options = vars(build_parser(words).parse_args(words))
        read_config(options["command"].config, options)
        assert program == "alchemist"


def test_a_value_from_the_form_stays_one_word(dag):
    params = {
        name: HOSTILE if isinstance(value, str) else value for name, value in form(dag, FILLED[dag.dag_id]).items()
    }
    lines = [shlex.split(command(operator, params)) for operator in command_tasks(dag)]
    assert any(HOSTILE in word for line in lines for word in line) or not FILLED[dag.dag_id]
    assert not {"touch", "echo"} & {word for line in lines for word in line}


def test_a_value_of_zero_reaches_the_command_line(dags):
    dag = dags["build_subset"]
    words = shlex.split(command(dag.get_task("select"), form(dag, FILLED["build_subset"])))
    assert words[words.index("--drop-top-ratio") + 1] == "0"
    assert words[words.index("--seed") + 1] == "0"


@pytest.mark.parametrize(
    ("partition_key", "crawl_date", "night"),
    [("2026-01-01", "2026-01-02", "2026-01-01"), (None, "2026-01-02", "2026-01-02"), (None, "", "2026-01-03")],
    ids=["partition key", "form", "day of the run"],
)
def test_the_night_is_the_partition_key_else_the_forms_else_the_day_of_the_run(dags, partition_key, crawl_date, night):
    run = SimpleNamespace(partition_key=partition_key, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    score = function_of(dags["nightly_rescore"].get_task("score"))
    assert score(0, {"dataset": "", "crawl_date": crawl_date}, run).endswith(f"--crawl-date {night} ")


def test_the_rater_that_a_person_was_asked_about_is_promoted_and_no_newer_one(dags):
    dag = dags["train_rater"]
    words = shlex.split(command(dag.get_task("promote"), form(dag, FILLED["train_rater"])))
    assert words == ["alchemist", "promote", "--rater", "crawl-loss-0a1b2c3d"]


def test_the_default_name_of_a_subset_is_one_that_select_takes(dags):
    dag = dags["build_subset"]
    line = command(dag.get_task("select"), form(dag, {**FILLED["build_subset"], "dataset": "web, books", "name": None}))
    words = shlex.split(line)[1:]
    options = vars(build_parser(words).parse_args(words))
    assert read_config(options["command"].config, options).as_json()["name"] == "web+books-shift_gsample-r25"


def test_a_name_that_ends_like_a_script_is_not_taken_for_a_template_file(dags):
    publish = dags["build_subset"].get_task("publish")
    assert not command(publish, form(dags["build_subset"], {**FILLED["build_subset"], "name": "best.sh"})).endswith(
        ".sh"
    )


def test_the_forms_are_those_of_the_config_models():
    assert (DAGS / "forms.py").read_text() == render_forms()


def test_template_marks_in_a_form_are_refused(dags):
    from airflow.sdk.exceptions import ParamValidationError  # noqa: TID251  tests of DAGs run Airflow

    for name in ("dataset", "name"):
        with pytest.raises(ParamValidationError):
            dags["build_subset"].params.get_param(name).resolve("{{ conf }}")


def test_dag_files_are_parsed_in_a_fifth_of_a_second():
    script = (
        "import sys, time, runpy; sys.path.insert(0, sys.argv[1]); import airflow.sdk, airflow.providers.standard.decorators.bash\n"
        "for path in sys.argv[2:]:\n    start = time.process_time(); runpy.run_path(path); print(time.process_time() - start)"
    )
    paths = [str(DAGS / f"{name}.py") for name in NAMES]
    done = subprocess.run([sys.executable, "-c", script, str(DAGS), *paths], capture_output=True, text=True, check=True)
    seconds = [float(line) for line in done.stdout.split()]
    assert max(seconds[-len(NAMES) :]) < 0.2
