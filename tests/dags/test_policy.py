"""Rules for every DAG file: small, fast to import, documented, and built only of command lines that our own parser accepts."""

import ast
import contextlib
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.forms import LAYOUT, RENDERED, SWITCH, build_forms
from alchemist_core.errors import FINAL_EXIT_CODES, ConfigError

from .conftest import DAGS, NAMES

RUNBOOK = DAGS.parents[1] / "infra" / "RUNBOOK.md"
SUPPORT = ("__init__", "assets", "commands", "forms", "jobs", "people", "pods", "schedules")
PACKAGE = "alchemist_dags"
DEVICE_TASKS = {"score", "train_rater", "certify", "train_downstream", "evaluate"}
WITHOUT_COMMAND = {"approve", "arrived", "start_nights"}
ALLOWED_IMPORTS = {"json", "logging", "os", "airflow.sdk", *(f"{PACKAGE}.{name}" for name in SUPPORT)}
ANSWER = {
    "chosen_options": ["Approve"], "params_input": {"comment": "fine; $(id)\0"}, "responded_by_user": {"id": "7", "name": "ann"},
}  # fmt: skip
NIGHT = {"dataset": "crawl", "crawl_date": "2026-01-02"}
VERSION = {"subset": "best", "version": 3}
RESULTS = {
    "plan_night": [NIGHT],
    "find_rater": {"rater": "crawl-loss-0a1b2c3d", "dataset": "crawl"},
    "plan_promote": {"rater": "crawl-loss-0a1b2c3d", "question": "?", "is_approval_needed": True},
    "select": {"name": "best", "version": 3},
    "plan_publish": {"subset": "best", "version": 3, "question": "?"},
    "approve": ANSWER,
}
PLANNED = SimpleNamespace(
    xcom_pull=lambda task_ids: RESULTS[task_ids], dag_id="nightly_rescore", run_id="r", map_index=3,
    get_task_states=lambda *_, **__: {},
)  # fmt: skip
# What a shell, a template, an option parser, a terminal or a reader of Unicode would take for more than a value.
HOSTILE = [
    "x'; touch /tmp/owned; echo \"$HOME",
    '{{ "\\x27; touch OWNED; echo \\x27" }}',
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "--role=evaluation",
    "-h",
    "a\nb",
    "\x1b]0;title\x07",
    "$(id)`id`",
    "ｗｅｂ\u202egnp.exe",
    "x" * 10_000,
]

FILLED = {
    "nightly_rescore": {"dataset": "crawl", "root": "/data/crawl", "crawl_date": "2026-01-02"},
    "train_rater": {
        "preset": "tiny", "recipe": "paper", "dataset": "crawl", "validation": "wanted", "rule": "loss", "seed": 3,
        "max_train_steps": 100,
    },
    "build_subset": {
        "dataset": "crawl", "name": "best", "retention": 0.25, "strategy": "shift_gsample", "drop_top_ratio": 0,
        "mean_rank": 0.6, "std_rank": 0.1, "start_rank": None, "seed": 0, "rater": "newest", "dedup": "near", "rescale": "yes",
        "stratify": "no", "where": "width > 5", "accept": "auto", "min_score": -0.5, "fill": "repeat",
        "weight_by": "rank", "weight_clip": 3, "variety": 0.5, "materialize": True, "dry_run": False, "approve": True,
    },
    "evaluate_subset": {
        "preset": "tiny", "arms": "subset,random,planted", "seeds": "0,1,2", "truth": "/data/truth.parquet", "evaluation": "heldout",
        "protocol": "heldout_loss,kid_offline", "dataset": "crawl",
    },
    "maintenance": {},
    "crawl_arrived": {},
}  # fmt: skip
REQUIRED = {
    "train_rater": {"preset": "tiny", "dataset": "crawl", "validation": "wanted"},
    "build_subset": {"dataset": "crawl"},
    "evaluate_subset": {"preset": "tiny"},
}


def ours(name):
    """A module of the package: Airflow must have read its environment before, which the fixture `dags` sees to."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def path_of(dag):
    return DAGS / f"{dag.dag_id}.py"


def form(dag, given):
    """Return what Airflow gives the tasks when a user submits these values."""
    return {**{name: dag.params.get_param(name).value for name in dag.params}, **given}


def attribute(operator, name):
    return operator.partial_kwargs.get(name) if operator.is_mapped else getattr(operator, name)


def run_of(dag, params, *, item=VERSION, **about):
    """Return what a task's command line is made of."""
    about = {"partition_key": None, "run_type": "manual", "conf": params, **about}
    about = {"run_after": datetime(2026, 1, 3, tzinfo=UTC), **about}
    context = {"params": params, "dag_run": SimpleNamespace(**about), "dag": dag, "ti": PLANNED}
    return ours("jobs").Run.of(context, item)


def command(operator, params, **about):
    """Return the argument list that a task would run."""
    item = 1 if operator.task_id == "score" else VERSION
    if operator.dag.dag_id == "nightly_rescore":
        item = {
            **NIGHT,
            "dataset": params["dataset"] or "crawl",
            **({"slot": 1} if operator.task_id == "score" else {}),
        }
    return attribute(operator, "line")(run_of(operator.dag, params, item=item, **about))


def command_tasks(dag):
    """The tasks that run a command: all but questions to people and those of crawl_arrived."""
    return [task for task in dag.tasks if task.task_id not in WITHOUT_COMMAND]


def pictured_edges(text):
    """Return the arrows of a docstring's diagram as pairs of task ids."""
    chains = [re.split(r"\s*→\s*", line.strip()) for line in text.splitlines() if line.startswith("    ")]
    return {pair for chain in chains for pair in itertools.pairwise(chain)}


def test_every_file_of_the_folder_is_a_dag_of_its_name_or_ignored():
    ignored = (DAGS / ".airflowignore").read_text().split()
    assert set(ignored) == {f"{name}.py" for name in SUPPORT}
    assert {path.name for path in DAGS.glob("*.py")} == {f"{name}.py" for name in NAMES} | set(ignored)


def test_a_dag_file_has_at_most_80_lines(dag):
    assert len(path_of(dag).read_text().splitlines()) <= 80


def test_a_dag_file_imports_the_sdk_and_the_standard_library_only(dag):
    nodes = list(ast.walk(ast.parse(path_of(dag).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names <= ALLOWED_IMPORTS


def test_a_dag_is_documented_and_links_its_runbook(dag):
    assert dag.doc_md == ast.get_docstring(ast.parse(path_of(dag).read_text()), clean=False)
    assert "Safe to re-run: " in dag.doc_md
    headings = re.findall(r"^#+ (.+)$", RUNBOOK.read_text(), flags=re.MULTILINE)
    anchor = re.search(r"infra/RUNBOOK\.md#(\w+)", dag.doc_md)[1]
    assert anchor == dag.dag_id
    assert anchor in [heading.strip("`") for heading in headings]


def test_the_diagram_in_the_docs_is_the_graph(dag):
    edges = {(task.task_id, below) for task in dag.tasks for below in task.downstream_task_ids}
    # A mapped task also depends on the task that it is mapped over, which the diagram may omit.
    mapped = {edge for edge in edges if edge[0] in ("plan", "plan_night") and dag.get_task(edge[1]).is_mapped}
    assert pictured_edges(dag.doc_md) <= edges
    assert edges - pictured_edges(dag.doc_md) <= mapped


def test_a_dag_sets_its_limits_and_tags(dag):
    source = path_of(dag).read_text()
    assert dag.catchup is False
    assert "max_active_runs=" in source
    assert "alchemist" in dag.tags


def test_work_for_a_device_waits_in_the_gpu_pool(dag):
    pools = {task.task_id: attribute(task, "pool") for task in dag.tasks}
    assert {name for name, pool in pools.items() if pool == "gpu"} == pools.keys() & DEVICE_TASKS


def test_a_task_that_uses_a_device_has_a_queue_of_its_own(dag):
    queues = {task.task_id: attribute(task, "queue") for task in dag.tasks}
    assert {name: queue for name, queue in queues.items() if queue != "light"} == dict.fromkeys(
        queues.keys() & DEVICE_TASKS, "device"
    )


def test_only_listing_tasks_return_a_value(dag):
    returning = {task.task_id for task in command_tasks(dag) if attribute(task, "do_xcom_push") is not False}
    assert returning == {task.task_id for task in dag.tasks} & {
        "plan",
        "plan_night",
        "plan_promote",
        "plan_publish",
        "select",
        "find_rater",
        "announce",
        "announce_nights",
    }


def test_a_task_is_retried_with_backoff_times_out_and_reports_why_it_failed(dag):
    for operator in command_tasks(dag):
        assert attribute(operator, "retry_exponential_backoff") == 2.0
        assert attribute(operator, "execution_timeout")
        assert attribute(operator, "on_failure_callback")


def test_a_question_sends_a_notification_and_times_out(dag):
    questions = [task for task in dag.tasks if hasattr(task, "notifiers")]
    assert {task.task_id for task in questions} == (
        {"approve"} if dag.dag_id in ("train_rater", "build_subset") else set()
    )
    for question in questions:
        assert question.notifiers
        assert question.response_timeout


def test_no_value_is_rendered_as_a_template(dag):
    for operator in dag.tasks:
        kind = operator.operator_class if operator.is_mapped else type(operator)
        assert kind.__module__ in ALLOWED_IMPORTS, f"{operator.task_id} is no operator of ours"
        assert tuple(kind.template_fields) == ()
        assert tuple(operator.template_fields) == ()
        for notifier in getattr(operator, "notifiers", ()):
            assert tuple(notifier.template_fields) == ()


@pytest.mark.slow
def test_a_command_in_a_pod_is_not_rendered_either(dags):
    pods = ours("pods")
    assert pods.PodTask.template_fields == ()
    line = dags["nightly_rescore"].get_task("score").partial_kwargs["line"]
    one = pods.PodTask(task_id="score", line=line, item={**NIGHT, "dataset": "{{ 7 * 7 }}", "slot": 0})
    context = {"params": {"dataset": "", "root": "", "crawl_date": ""}, "ti": PLANNED, "dag": dags["nightly_rescore"]}
    context["dag_run"] = SimpleNamespace(conf={}, partition_key=None, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    assert "--dataset={{ 7 * 7 }}" in one.read_line(context)


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed", ["$(ALCHEMIST_DATABASE_URL)", "$$(ALCHEMIST_DATABASE_URL)", "$$$(X)", "a$b", "$$", "$", "$(X", "$é", "x"]
)
def test_no_variable_of_a_pod_is_put_into_a_value_or_a_name(dags, monkeypatch, typed):
    pods, variables = ours("pods"), {"ALCHEMIST_DATABASE_URL": "secret", "X": "secret"}
    expanded = importlib.import_module("tests.infra.pod_server").expanded
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", typed)
    line = dags["nightly_rescore"].get_task("score").partial_kwargs["line"]
    one = pods.PodTask(task_id="score", line=line, item={**NIGHT, "dataset": typed, "slot": 0})
    context = {"params": {"dataset": "", "root": "", "crawl_date": ""}, "ti": PLANNED, "dag": dags["nightly_rescore"]}
    context["dag_run"] = SimpleNamespace(conf={}, partition_key=None, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    one.fill(context)
    assert [expanded(word, variables) for word in one.cmds] == one.read_line(context)
    assert f"--dataset={typed}" in one.read_line(context)
    assert expanded(one.env_vars["AIRFLOW_CTX_DAG_RUN_ID"], variables) == typed
    assert one.env_vars["AIRFLOW_CTX_MAP_INDEX"] == "3"


def test_a_nights_dataset_is_checked_and_published_only_if_its_own_earlier_tasks_succeeded(dags):
    dag = dags["nightly_rescore"]
    assert set(attribute(dag.get_task("drift"), "needs")) == {"check_scores"}
    assert set(attribute(dag.get_task("publish"), "needs")) == {"drift"}
    behind = {
        "check_shards",
        "check_samples",
        "plan",
        "score",
        "check_scores",
        "drift",
        "publish",
        "announce",
        "find_duplicates",
        "summary",
    }
    assert {task.task_id for task in dag.tasks if attribute(task, "trigger_rule") == "all_done"} == behind
    assert attribute(dag.get_task("summary"), "closes")


@pytest.mark.parametrize(("nights", "is_planned"), [(None, False), ([], True), ([NIGHT], True)])
def test_without_a_plan_of_nights_no_scoring_is_planned(dags, nights, is_planned):
    jobs, plan = ours("jobs"), dags["nightly_rescore"].get_task("plan")
    run = jobs.Run({}, None, "2026-01-02", SimpleNamespace(xcom_pull=lambda task_ids: {"plan_night": nights}[task_ids]))
    assert attribute(plan, "when")(run) is is_planned


def test_a_night_waits_for_a_device_before_a_training_and_that_before_an_evaluation(dags):
    tasks = [dags[name].get_task(task) for name, task in (
        ("nightly_rescore", "score"), ("train_rater", "train_rater"), ("evaluate_subset", "train_downstream"),
    )]  # fmt: skip
    weights = [attribute(task, "priority_weight") or 1 for task in tasks]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 3


def test_a_key_that_the_form_does_not_have_is_refused_with_the_allowed_ones(dag):
    jobs = ours("jobs")
    with pytest.raises(jobs.CommandFailed) as refused:
        run_of(dag, form(dag, REQUIRED.get(dag.dag_id, {})), conf={"{{ 7 * 7 }}": 1})
    assert refused.value.exit_code == 2
    assert "'{{ 7 * 7 }}'" in str(refused.value)
    assert all(name in str(refused.value) for name in dag.params) if dag.params else "no form" in str(refused.value)


@pytest.mark.parametrize(
    ("dag_id", "task_id", "result"),
    [
        ("nightly_rescore", "ingest", {**NIGHT, "move_root": True}),
        ("nightly_rescore", "publish", {**NIGHT, "rater": "another"}),
        ("train_rater", "plan", {**RESULTS["find_rater"], "without_lease": "yes"}),
        ("train_rater", "plan", ["crawl-loss-0a1b2c3d"]),
    ],
)
def test_an_edited_result_of_a_task_adds_no_option_to_a_command(dags, monkeypatch, dag_id, task_id, result):
    jobs, dag = ours("jobs"), dags[dag_id]
    monkeypatch.setitem(RESULTS, "find_rater", result)
    line = attribute(dag.get_task(task_id), "line")
    item = result if dag_id == "nightly_rescore" else None
    with pytest.raises(
        jobs.CommandFailed, match=r"^Unknown key in the result of an earlier task: .*Allowed: "
    ) as refused:
        line(run_of(dag, form(dag, FILLED[dag_id]), item=item))
    assert refused.value.exit_code == 2


def test_a_former_key_of_a_form_is_refused_with_the_present_one(dags):
    jobs, given = ours("jobs"), {"dataset": "web", "validation": "goal"}
    with pytest.raises(jobs.CommandFailed, match="n_steps is now max_train_steps") as refused:
        run_of(dags["train_rater"], form(dags["train_rater"], given), conf={**given, "n_steps": 3})
    assert refused.value.exit_code == 2


def test_a_root_without_a_dataset_is_refused_before_a_night_is_planned(dags):
    jobs, dag = ours("jobs"), dags["nightly_rescore"]
    with pytest.raises(jobs.CommandFailed, match="Root requires Dataset") as refused:
        command(dag.get_task("plan_night"), form(dag, {"root": "/x"}))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("value", ["a\0b", "x" * 200_000], ids=["NUL", "longer than an argument can be"])
def test_a_value_that_cannot_be_an_argument_is_refused_by_its_field(dags, value):
    jobs = ours("jobs")
    with pytest.raises(jobs.CommandFailed, match="dataset") as refused:
        run_of(dags["nightly_rescore"], {"dataset": value, "root": "", "crawl_date": ""})
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("is_filled", [False, True], ids=["defaults", "filled"])
def test_every_command_is_accepted_by_the_command_line(dag, is_filled):
    params = form(dag, FILLED[dag.dag_id] if is_filled else REQUIRED.get(dag.dag_id, {}))
    for operator in command_tasks(dag):
        program, *words = command(operator, params)
        options = vars(build_parser(words).parse_args(words))
        read_config(options["command"].config, options)
        assert program == "alchemist"


def value_for(field):
    """A value for a field of a form: its last choice, a day, a number or a text."""
    if "enum" in field:
        return field["enum"][-1]
    if field.get("format") == "date":
        return NIGHT["crawl_date"]
    return 1 if "else" in field else "typed"


@pytest.mark.parametrize("dag_id", LAYOUT)
def test_every_field_of_a_form_reaches_the_command_of_its_stage(dags, dag_id):
    dag, fields = dags[dag_id], build_forms()[dag_id]
    params = form(
        dag, FILLED[dag_id] | {name: value_for(fields[name]) for part in LAYOUT[dag_id] for name in part.names}
    )
    lines = [command(operator, params) for operator in command_tasks(dag)]
    for part in LAYOUT[dag_id]:
        words = {word for line in lines if line[1] == part.stage for word in line}
        for name in part.names:
            option = name.replace("_", "-")
            assert words & {f"--{option}={params[name]}", f"--no-{option}"}, f"{part.stage} gets no {name}"


@pytest.mark.parametrize(
    ("dag_id", "task_id"), [("train_rater", "train_rater"), ("evaluate_subset", "train_downstream")]
)
def test_a_training_without_a_preset_passes_none_and_is_refused_with_the_list(dags, dag_id, task_id):
    dag = dags[dag_id]
    _, *words = command(dag.get_task(task_id), form(dag, {**REQUIRED[dag_id], "preset": None}))
    options = vars(build_parser(words).parse_args(words))
    with pytest.raises(ConfigError, match=r"requires --preset.*\n  tiny .*\n  gpu24 "):
        read_config(options["command"].config, options)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[repr(value[:12]) for value in HOSTILE])
def test_a_value_from_the_form_is_one_argument_as_it_was_typed(dag, hostile):
    fields = build_forms().get(dag.dag_id, {})
    typed = [
        name for name, field in fields.items() if "string" in field.get("type", ()) and field.get("enum") != SWITCH
    ]
    params = form(dag, FILLED[dag.dag_id] | dict.fromkeys(typed, hostile))
    lines = [command(operator, params) for operator in command_tasks(dag)]
    assert {f"--{name.replace('_', '-')}={hostile}" for name in typed} <= {word for line in lines for word in line}
    # After an equals sign, or after the `--` that ends the flags.
    for line in lines:
        for at, word in enumerate(line):
            assert hostile not in word or (word.startswith("--") and "=" in word) or line[at - 1] == "--"


@pytest.mark.parametrize("words", [("select",), ("subset", "publish"), ("note", "failure")])
def test_a_command_sees_neither_airflows_database_nor_its_keys(dags, words, monkeypatch):
    secrets = (
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "PGPASSWORD",
    )
    for name in (*secrets, "ALCHEMIST_AIRFLOW_DATABASE_URL", "ALCHEMIST_DATABASE_URL"):
        monkeypatch.setenv(name, "secret")
    seen = ours("commands").environment_of(["alchemist", *words])
    assert not seen.keys() & {*secrets, "ALCHEMIST_AIRFLOW_DATABASE_URL"}
    assert {"PATH", "ALCHEMIST_DATABASE_URL"} <= seen.keys()


def test_only_the_command_that_cleans_airflows_database_has_its_address(dags, monkeypatch):
    monkeypatch.setenv("ALCHEMIST_AIRFLOW_DATABASE_URL", "secret")
    commands = ours("commands")
    lines = [
        command(operator, form(dag, FILLED[name])) for name, dag in dags.items() for operator in command_tasks(dag)
    ]
    reached = [line for line in lines if "ALCHEMIST_AIRFLOW_DATABASE_URL" in commands.environment_of(line)]
    assert reached == [["alchemist", "maintain", "airflow"]]


def test_a_value_of_zero_reaches_the_command_line(dags):
    dag = dags["build_subset"]
    words = command(dag.get_task("select"), form(dag, FILLED["build_subset"]))
    assert {"--drop-top-ratio=0", "--seed=0"} <= set(words)


@pytest.mark.parametrize(
    ("partition_key", "crawl_date", "night"),
    [("2026-01-01", "2026-01-02", "2026-01-01"), (None, "2026-01-02", "2026-01-02"), (None, "", "2026-01-03")],
    ids=["partition key", "form", "day of the run"],
)
def test_the_night_is_the_partition_key_else_the_forms_else_the_day_of_the_run(dags, partition_key, crawl_date, night):
    params = {"dataset": "", "root": "", "crawl_date": crawl_date}
    line = command(dags["nightly_rescore"].get_task("plan_night"), params, partition_key=partition_key)
    assert f"--crawl-date={night}" in line


def test_the_day_of_a_run_is_that_of_the_time_zone_of_the_schedule(dags, monkeypatch):
    monkeypatch.setattr(ours("jobs"), "TIMEZONE", "Asia/Tokyo")
    late = datetime(2026, 1, 3, 17, tzinfo=UTC)
    line = command(
        dags["nightly_rescore"].get_task("plan_night"), {"dataset": "", "root": "", "crawl_date": ""}, run_after=late
    )
    assert "--crawl-date=2026-01-04" in line


def test_the_rater_that_a_person_was_asked_about_is_promoted_and_no_newer_one(dags):
    dag = dags["train_rater"]
    words = command(dag.get_task("promote"), form(dag, FILLED["train_rater"]))
    said = ["--approval=train_rater.approve", "--", "crawl-loss-0a1b2c3d"]
    assert words == ["alchemist", "rater", "promote", *said]


def test_the_version_that_a_person_was_asked_about_is_published_and_no_newer_one(dags):
    dag = dags["build_subset"]
    words = command(dag.get_task("publish"), form(dag, FILLED["build_subset"]))
    said = ["--version=3", "--approval=build_subset.approve"]
    assert words == ["alchemist", "subset", "publish", *said, "--", "best"]


@pytest.mark.parametrize("given", [None, {}, ANSWER], ids=["skipped or marked as successful", "nothing", "answered"])
def test_the_command_looks_for_an_answer_whatever_the_result_of_the_question_says(dags, monkeypatch, given):
    monkeypatch.setitem(RESULTS, "approve", given)
    for dag_id, task_id in (("train_rater", "promote"), ("build_subset", "publish")):
        words = command(dags[dag_id].get_task(task_id), form(dags[dag_id], FILLED[dag_id]))
        assert f"--approval={dag_id}.approve" in words


def test_a_subset_that_nobody_is_asked_about_is_published_without_an_approval(dags):
    dag = dags["build_subset"]
    words = command(dag.get_task("publish"), form(dag, {**FILLED["build_subset"], "approve": False}))
    assert not [word for word in words if word.startswith("--appro")]


def test_a_question_without_an_answer_is_not_asked_again(dags):
    event = {"error": "The timeout was reached.", "error_type": "timeout"}
    with pytest.raises(ours("jobs").CommandFailed, match=r"No answer within 7 days\. Clear this task") as failed:
        dags["train_rater"].get_task("approve").execute_complete({}, event)
    decision = ours("jobs").GiveUpOnFinalErrors().evaluate(failed.value, 1, 2)
    assert decision.action.value == "fail"


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """What `alchemist` was called with, read by the command line's own parser: its words and its config."""
    program = tmp_path / "alchemist"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open({str(tmp_path / 'noted')!r}, 'w'))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def read():
        words = json.loads((tmp_path / "noted").read_text())
        options = vars(build_parser(words).parse_args(words))
        return words[:2], read_config(options["command"].config, options)

    return read


@pytest.mark.parametrize("exception", [None, "", ValueError("why"), ValueError()], ids=repr)
def test_a_failure_is_noted_also_where_airflow_names_no_reason(dags, noted, exception):
    one = SimpleNamespace(dag_id="d", task_id="t", run_id="r 1", try_number=2, map_index=-1)
    ours("people").note_failure({"task_instance": one, "exception": exception})
    words, config = noted()
    assert words == ["note", "failure"]
    assert config.reason == "why" or config.reason.startswith("Airflow gives no reason")


@pytest.mark.parametrize("said", ["a\0b", "x" * 200_000], ids=["NUL", "longer than an argument can be"])
def test_a_failure_is_noted_whatever_a_command_printed(dags, noted, said):
    one = SimpleNamespace(dag_id="d", task_id="t", run_id="r 1", try_number=2, map_index=-1)
    ours("people").note_failure({"task_instance": one, "exception": ValueError(f"{said} at last")})
    _, config = noted()
    assert config.reason.endswith(" at last")


def test_a_task_that_was_not_run_since_another_failed_is_sent_to_no_receiver_again(dags, tmp_path, noted):
    jobs = ours("jobs")
    task = dags["nightly_rescore"].get_task("publish")
    one = SimpleNamespace(dag_id="d", task_id="publish", run_id="r 1", try_number=1, map_index=0)
    one.get_task_states = lambda *_, **__: {"r 1": {"drift_0": "failed"}}
    about = {"conf": {}, "partition_key": None, "run_after": datetime(2026, 1, 3, tzinfo=UTC)}
    context = {"params": form(task.dag, {}), "ti": one, "dag": task.dag, "dag_run": SimpleNamespace(**about)}
    options = {name: attribute(task, name) for name in ("line", "needs")}
    with pytest.raises(jobs.NotRun, match="drift_0") as refused:
        jobs.CommandTask(task_id="publish", item=NIGHT, **options).read_line(context)
    ours("people").note_failure({"task_instance": one, "exception": refused.value})
    assert not (tmp_path / "noted").exists()


def asking(dag):
    """Return the context in which a run of a DAG asks its question."""
    about = {"dag_id": dag.dag_id, "task_id": "approve", "run_id": "r 1", "try_number": 1, "map_index": -1}
    one = SimpleNamespace(**about, id="i", xcom_pull=PLANNED.xcom_pull, xcom_push=lambda **_: None)
    run = SimpleNamespace(partition_key=None, conf={}, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    params = form(dag, FILLED[dag.dag_id])
    return {
        "task_instance": one, "ti": one, "params": params, "dag_run": run, "dag": dag, "task": dag.get_task("approve"),
    }  # fmt: skip


@pytest.mark.parametrize(("dag_id", "of"), [("build_subset", "best v3"), ("train_rater", "crawl-loss-0a1b2c3d")])
def test_a_question_is_noted_with_what_it_is_about_when_it_is_asked(dags, monkeypatch, noted, dag_id, of):
    """Not when it is answered: a user may edit the results of earlier tasks while it waits."""
    airflow = importlib.import_module("airflow.providers.standard.operators.hitl")
    shown = {}
    monkeypatch.setattr(airflow, "upsert_hitl_detail", lambda **detail: shown.update(detail))
    with pytest.raises(importlib.import_module("airflow.sdk.exceptions").TaskAwaitingInput):
        dags[dag_id].get_task("approve").execute(asking(dags[dag_id]))
    words, config = noted()
    assert words == ["note", "approval"]
    assert (config.of, config.subject, config.run, config.try_number) == (of, f"{dag_id}.approve", "r 1", 1)
    assert of in shown["subject"]
    assert config.reason.startswith(shown["subject"])


@pytest.mark.parametrize("option", ["Approve", "Reject"])
def test_an_answer_is_noted_with_its_person_and_comment_also_a_rejection(dags, option, noted):
    dag = dags["build_subset"]
    event = {**ANSWER, "chosen_options": [option], "responded_at": datetime(2026, 1, 3, tzinfo=UTC)}
    with contextlib.ExitStack() as skipping:
        if option == "Reject":
            skipped = importlib.import_module("airflow.sdk.exceptions").DownstreamTasksSkipped
            skipping.enter_context(pytest.raises(skipped))
        dag.get_task("approve").execute_complete(asking(dag), event)
    words, config = noted()
    assert words == ["note", "answer"]
    assert (config.subject, config.run, config.answer) == ("build_subset.approve", "r 1", option)
    assert (config.approved_by, config.comment, config.try_number) == ("ann", "fine; $(id)", 1)


def test_a_command_gets_the_run_that_it_belongs_to(dags, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "r1")
    assert ours("commands").environment_of(["alchemist", "night", "check-drift"])["AIRFLOW_CTX_DAG_RUN_ID"] == "r1"


def test_what_is_checked_copied_and_published_is_the_version_that_was_selected(dags):
    dag = dags["build_subset"]
    params = form(dag, FILLED["build_subset"])
    for task_id in ("check_subset", "materialize", "plan_publish", "publish"):
        assert "--version=3" in command(dag.get_task(task_id), params)


def test_an_option_that_is_switched_on_off_or_left_to_the_project_file_is_passed_as_such(dags):
    dag = dags["build_subset"]
    for typed, word in (("yes", "--rescale"), ("no", "--no-rescale"), (None, None), ("", None)):
        words = command(dag.get_task("select"), form(dag, {**FILLED["build_subset"], "rescale": typed}))
        assert [each for each in words if each.endswith("rescale")] == ([word] if word else [])


@pytest.mark.parametrize(
    ("typed", "meant"), [("0.2", 0.2), (".5", 0.5), ("20%", 0.2), (" 12.5 % ", 0.125), ("1", 1.0), (0.3, 0.3)]
)
def test_a_typed_retention_is_the_number_that_is_used(dags, typed, meant):
    dag = dags["build_subset"]
    dag.params.get_param("retention").resolve(typed)
    words = command(dag.get_task("select"), form(dag, {**FILLED["build_subset"], "retention": typed}))
    assert f"--retention={meant}" in words


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        *(("retention", value) for value in ("35", "1.5", "0", "-1", "0%", "101%", "a", "1e-3", "٣", 35, 1.5, 0, -1)),
        *(("seed", value) for value in ("-3", "1.5", "x", -3, 1.5)),
        ("drop_top_ratio", "100%"), ("mean_rank", "-0.1"), ("std_rank", "-1"), ("start_rank", 1),
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused_with_what_is_allowed(dags, name, typed):
    from airflow.sdk.exceptions import ParamValidationError  # noqa: TID251  tests of DAGs run Airflow

    with pytest.raises(ParamValidationError) as refused:
        dags["build_subset"].params.get_param(name).resolve(typed)
    words = ("at most", "below") if isinstance(typed, str) else ("minimum", "maximum", "is not of type")
    assert any(word in str(refused.value) for word in words)


def test_the_codes_that_are_not_tried_again_are_those_of_the_error_classes(dags):
    assert ours("jobs").FINAL_EXIT_CODES == FINAL_EXIT_CODES


def test_the_runbooks_backfill_makes_the_nights_that_it_names(dags):
    serialization = importlib.import_module("airflow.serialization.serialized_objects")
    make_infos = importlib.import_module("airflow.models.backfill")._get_info_list
    page = RUNBOOK.read_text()
    named = re.search(r"For the three nights ([^:]*):$", page, flags=re.MULTILINE)[1]
    first, end = re.search(r"--from-date (\S+) --to-date (\S+) --max-active-runs", page).groups()
    dag = serialization.DagSerialization.from_dict(serialization.DagSerialization.to_dict(dags["nightly_rescore"]))
    first, end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, end))
    infos = make_infos(dag=dag, from_date=first, to_date=end, reverse=False)
    assert [info.partition_key for info in infos] == re.findall(r"\d{4}-\d\d-\d\d", named)
    assert len(infos) == 3


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_what_can_only_fail_again_is_not_tried_again(dags, code):
    jobs = ours("jobs")
    decision = jobs.GiveUpOnFinalErrors().evaluate(jobs.CommandFailed("error: …", code), 1, 2)
    assert decision.action.value == ("fail" if code in jobs.FINAL_EXIT_CODES else "default")


def test_forms_and_schedules_are_those_of_the_config_models_without_a_project_file():
    for name, render in RENDERED.items():
        assert (DAGS / name).read_text() == render()


@pytest.mark.slow
def test_dag_files_are_parsed_in_a_fifth_of_a_second():
    script = (
        "import sys, time, runpy; sys.path.insert(0, sys.argv[1]); import airflow.sdk, alchemist_dags.people\n"
        "for path in sys.argv[2:]:\n    start = time.process_time(); runpy.run_path(path); print(time.process_time() - start)"
    )
    paths = [str(DAGS / f"{name}.py") for name in NAMES]
    done = subprocess.run(
        [sys.executable, "-c", script, str(DAGS.parent), *paths], capture_output=True, text=True, check=True
    )
    seconds = [float(line) for line in done.stdout.split()]
    assert max(seconds[-len(NAMES) :]) < 0.2
