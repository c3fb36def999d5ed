"""The behaviour of each DAG's runs: parallelism, schedule, priorities, and the command line of each task."""

import importlib
import importlib.util
import logging
import re
import shlex
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from alchemist_core.cli.command_line import build_parser, read_config

from .conftest import DAGS
from .test_policy import FILLED, NIGHT, attribute, command, command_tasks, form, ours, run_of

# By hand, for the forms of test_policy.FILLED. `nightly` is the production rater and its shadows.
LINES = {
    "nightly_rescore": """
        plan_night plan night --json --dataset=crawl --crawl-date=2026-01-02
        ingest ingest --dataset=crawl --crawl-date=2026-01-02 --root=/data/crawl --undated
        check_shards check --suite=shards --dataset=crawl --crawl-date=2026-01-02
        check_samples check --suite=samples --dataset=crawl --crawl-date=2026-01-02
        plan plan score --json --rater=nightly --nights=crawl:2026-01-02 --crawl-date=2026-01-02
        score score --rater=nightly --dataset=crawl --crawl-date=2026-01-02 --slot=1
        check_scores check --suite=scores --dataset=crawl --crawl-date=2026-01-02
        drift night check-drift --dataset=crawl --crawl-date=2026-01-02
        publish night publish --dataset=crawl --crawl-date=2026-01-02
        announce night announce --json
        summary night list --nights=crawl:2026-01-02 --require-scored
        find_duplicates duplicates find
    """,
    "train_rater": """
        train_rater train-rater --preset=tiny --recipe=paper --dataset=crawl --validation=wanted --rule=loss --seed=3 --max-train-steps=100
        find_rater plan promote --json -- newest
        certify rater certify -- crawl-loss-0a1b2c3d
        plan plan score --json --dataset=crawl --rater=crawl-loss-0a1b2c3d
        score score --dataset=crawl --rater=crawl-loss-0a1b2c3d --slot=1
        plan_promote plan promote --json -- crawl-loss-0a1b2c3d
        promote rater promote --approval=train_rater.approve -- crawl-loss-0a1b2c3d
        check_scores check --suite=scores --dataset=crawl
        publish night publish --dataset=crawl
        announce night announce --json
    """,
    "crawl_arrived": "",
    "build_subset": """
        preview select --dry-run SPEC
        select select --json SPEC
        check_subset check --suite=subset --subset=best --version=3
        materialize materialize --version=3 -- best
        plan_publish plan publish --json --version=3 -- best
        publish subset publish --version=3 --approval=build_subset.approve -- best
    """,
    "evaluate_subset": """
        plan plan evaluate --json --evaluation=heldout --protocol=heldout_loss,kid_offline --arms=subset,random,planted --seeds=0,1,2
        train_downstream train-downstream --preset=tiny --arms=subset,random,planted --seeds=0,1,2 --truth=/data/truth.parquet \
            --version=3 -- best
        evaluate evaluate --evaluation=heldout --protocol=heldout_loss,kid_offline --version=3 -- best
        check_evaluation check --suite=evaluation --subset=best --version=3
        report report --dataset=crawl
    """,
    "maintenance": """
        collect_subsets subset gc --no-dry-run
        complete_takedowns maintain takedowns
        remove_orphans maintain embeddings
        remove_leases maintain leases
        announce_nights night announce --json
        forget_old_checks maintain retention
        refresh_statistics maintain statistics
        recount_ledger check --suite=scores
        clean_airflow maintain airflow
        remove_logs maintain logs
    """,
}
SPEC = """--dataset=crawl --name=best --retention=0.25 --strategy=shift_gsample --drop-top-ratio=0 --mean-rank=0.6 --std-rank=0.1
    --seed=0 --rater=newest --dedup=near --rescale --no-stratify '--where=width > 5' --accept=auto --min-score=-0.5 --fill=repeat
    --weight-by=rank --weight-clip=3 --variety=0.5"""
RULES = {
    "nightly_rescore": {"all_success": {"plan_night", "ingest"}, "*": "all_done"},
    "train_rater": {"none_failed": {"promote"}, "*": "all_success"},
    "build_subset": {"none_failed_min_one_success": {"plan_publish", "publish"}, "*": "all_success"},
    "evaluate_subset": {"all_done": {"evaluate", "check_evaluation", "report"}, "*": "all_success"},
    "maintenance": {"*": "all_success"},
    "crawl_arrived": {"*": "all_success"},
}
MAPPED = {
    "crawl_arrived": {"start_nights"},
    "nightly_rescore": {"ingest", "check_shards", "check_samples", "score", "check_scores", "drift", "publish"},
    "train_rater": {"score"},
    "evaluate_subset": {"train_downstream", "evaluate", "check_evaluation"},
}


def load(name, monkeypatch, **environment):
    """Load a file of the folder again, as a process with these variables would."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    spec = importlib.util.spec_from_file_location(f"alchemist_dags.again_{name}", DAGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def context_of(dag, **instance):
    run = SimpleNamespace(conf={}, partition_key=None, run_after=datetime(2026, 1, 3, tzinfo=UTC))
    instance = SimpleNamespace(**{"map_index": -1, **instance})
    return {"params": form(dag, {}), "dag_run": run, "dag": dag, "ti": instance}


def test_each_task_calls_its_own_command(dag):
    params = form(dag, FILLED[dag.dag_id])
    said = {task.task_id: command(task, params)[1:] for task in command_tasks(dag)}
    wanted = [
        shlex.split(line.replace("SPEC", " ".join(SPEC.split()))) for line in LINES[dag.dag_id].strip().splitlines()
    ]
    assert {name: sorted(line) for name, line in said.items()} == {name: sorted(line) for name, *line in wanted}
    # The words of the verb come first, in their order.
    for name, *line in wanted:
        verb = [word for word in line[:2] if not word.startswith("-")]
        assert said[name][: len(verb)] == verb


def test_only_the_ingest_of_the_runs_own_night_takes_shards_without_a_dated_folder(dags):
    """Ingests of several nights run side by side: the first to commit such a shard would decide its crawl date."""
    ingest, params = dags["nightly_rescore"].get_task("ingest"), form(dags["nightly_rescore"], {})
    nights = [{**NIGHT, "crawl_date": day} for day in ("2026-01-02", "2026-01-01")]
    about = {"run_type": "scheduled", "partition_key": "2026-01-02", "run_after": datetime(2026, 1, 3, 2, tzinfo=UTC)}
    lines = [attribute(ingest, "line")(run_of(ingest.dag, params, item=item, **about))[1:] for item in nights]
    options = [vars(build_parser(words).parse_args(words)) for words in lines]
    configs = [read_config(one["command"].config, one) for one in options]
    assert [(str(config.crawl_date), config.undated) for config in configs] == [
        ("2026-01-02", True),
        ("2026-01-01", False),
    ]


def test_a_task_waits_for_what_it_needs_and_no_longer(dag):
    rules = RULES[dag.dag_id]
    for task in command_tasks(dag):
        wanted = next((rule for rule, names in rules.items() if task.task_id in names), rules["*"])
        assert str(attribute(task, "trigger_rule") or "all_success").rpartition(".")[2].lower() == wanted, task.task_id


NEEDS = {
    "check_scores": {"check_shards", "check_samples"},
    "drift": {"check_scores"},
    "publish": {"drift"},
    "evaluate": {"train_downstream"},
    "check_evaluation": {"evaluate"},
}


def test_what_one_item_needs_must_have_succeeded_for_that_item(dag):
    needed = {task.task_id: set(attribute(task, "needs") or ()) for task in command_tasks(dag) if task.is_mapped}
    assert needed == {name: NEEDS.get(name, set()) for name in needed}


def test_a_cleared_task_waits_for_every_cleared_task_whose_failure_would_make_it_fail(dag):
    """Clear with "only failed" leaves the green tasks between two failed ones as they are, so they hold nothing back."""
    tasks = {task.task_id: task for task in dag.tasks}

    def causes(name):
        """The tasks whose failure certainly makes this one fail, and that it waits for."""
        task = tasks[name]
        is_strict = not str(attribute(task, "trigger_rule") or "all_success").lower().endswith("all_done")
        direct = {other for other in task.upstream_task_ids if is_strict or other in (attribute(task, "needs") or ())}
        return direct.union(*(causes(other) for other in direct & tasks.keys()))

    for task in command_tasks(dag):
        name = task.task_id
        assert set(attribute(task, "needs") or ()) <= task.upstream_task_ids, name
        if attribute(task, "closes"):
            direct = task.upstream_task_ids
            assert direct.union(*(causes(other) for other in direct)) == tasks.keys() - {name}


def test_the_end_of_a_green_night_requires_that_it_is_scored_and_that_of_a_red_one_names_its_failed_tasks(dags):
    dag = dags["nightly_rescore"]
    params = form(dag, FILLED[dag.dag_id])
    for states, is_required in (({}, True), ({"score": "failed"}, False)):
        run = ours("jobs").Run.of(
            context_of(
                dag,
                dag_id=dag.dag_id,
                run_id="r",
                xcom_pull=lambda **_: [NIGHT],
                get_task_states=lambda *_, states=states, **__: {"r": states},
            )
            | {"params": params}
        )
        assert ("--require-scored" in dag.get_task("summary").line(run)) == is_required


def test_what_there_are_several_of_is_one_task_each(dag):
    assert {task.task_id for task in dag.tasks if task.is_mapped} == MAPPED.get(dag.dag_id, set())


def test_one_run_at_a_time_but_of_subsets_which_may_be_built_side_by_side(dags):
    limits = {name: dag.max_active_runs for name, dag in dags.items()}
    assert limits == dict.fromkeys(dags, 1) | {"build_subset": 4, "crawl_arrived": 4}


def test_the_night_begins_at_two_and_is_of_the_day_before_and_upkeep_comes_after_it(dags):
    serialization = importlib.import_module("airflow.serialization.serialized_objects")
    restriction = importlib.import_module("airflow.timetables.base").TimeRestriction(None, None, False)
    for name, at in (("nightly_rescore", (2, 0)), ("maintenance", (5, 30))):
        dag = serialization.DagSerialization.from_dict(serialization.DagSerialization.to_dict(dags[name]))
        next_run = dag.timetable.next_dagrun_info_v2(last_dagrun_info=None, restriction=restriction)
        assert (next_run.run_after.hour, next_run.run_after.minute) == at
        if name == "nightly_rescore":
            assert next_run.partition_key == (next_run.run_after.date() - timedelta(days=1)).isoformat()


@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "0 3 * * *", "@daily", "59 23 * * *"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe"])
def test_a_year_of_scheduled_nights_takes_each_crawl_date_once(dags, monkeypatch, zone, cron):
    """Also where the clocks change at the hour of the start, which then exists never or twice."""
    jobs = ours("jobs")
    monkeypatch.setitem(jobs.CRON, "nightly_rescore", cron)
    monkeypatch.setattr(jobs, "TIMEZONE", zone)
    serialization = importlib.import_module("airflow.serialization.serialized_objects").DagSerialization
    restrict = importlib.import_module("airflow.timetables.base").TimeRestriction
    dag = load("nightly_rescore", monkeypatch).nightly_rescore()
    timetable = serialization.from_dict(serialization.to_dict(dag)).timetable
    first = importlib.import_module("pendulum").datetime(2026, 1, 1)
    params, crawl_dates, info = form(dag, {}), [], None
    while not crawl_dates or crawl_dates[-1] < "2026-12-31":
        info = timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restrict(first, None, True))
        about = {"run_type": "scheduled", "run_after": info.run_after, "partition_key": info.partition_key}
        (given,) = [
            word for word in command(dag.get_task("plan_night"), params, **about) if word.startswith("--crawl-date=")
        ]
        crawl_dates.append(given.partition("=")[2])
    walked = [(date(2027, 1, 1) - timedelta(days=n)).isoformat() for n in range(len(crawl_dates), 0, -1)]
    assert crawl_dates == walked
    assert len(walked) >= 365


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("train_rater", "ALCHEMIST_TRAIN_WEEKLY"),
        ("evaluate_subset", "ALCHEMIST_EVALUATE"),
        ("train_rater", "ALCHEMIST_LAUNCH"),
    ],
)
@pytest.mark.usefixtures("dags")
def test_a_variable_that_the_project_file_replaced_is_refused_with_its_section(monkeypatch, name, variable):
    with pytest.raises(ValueError, match=rf"^{variable} was removed\. Set \[\w+\] .* in alchemist\.toml\.$"):
        load(name, monkeypatch, **{variable: "{}"})


def test_subsets_are_built_on_demand_and_evaluated_when_build_subset_publishes_one(dags):
    assert dags["build_subset"].schedule is None
    announced = {asset.uri for task in dags["build_subset"].tasks for asset in task.outlets}
    assert [asset.uri for asset in dags["evaluate_subset"].schedule] == list(announced)
    assert [task.task_id for task in dags["build_subset"].tasks if task.outlets] == ["publish"]
    # A version that a command or the explorer publishes starts nothing, and the texts say so.
    assert all(announced.isdisjoint(asset.uri for asset in task.outlets)
               for name in dags.keys() - {"build_subset"} for task in dags[name].tasks)  # fmt: skip
    assert "Starts when build_subset publishes a version" in dags["evaluate_subset"].doc_md


def test_a_task_for_a_device_may_last_days_and_any_other_half_a_day(dag):
    for task in command_tasks(dag):
        is_for_device = attribute(task, "pool") == "gpu"
        assert attribute(task, "execution_timeout") == (timedelta(days=3) if is_for_device else timedelta(hours=12))
        if is_for_device:
            # Its priority is the given weight, whatever tasks are downstream.
            assert "absolute" in str(attribute(task, "weight_rule")).lower()


def test_only_the_last_task_of_a_run_of_parts_ends_it_red(dags):
    closing = {
        (name, task.task_id) for name, dag in dags.items() for task in command_tasks(dag) if attribute(task, "closes")
    }
    assert closing == {("nightly_rescore", "summary"), ("train_rater", "announce"), ("evaluate_subset", "report")}


def test_what_a_form_does_not_ask_for_is_skipped(dags):
    build, jobs = dags["build_subset"], ours("jobs")
    for name, field, does_run_if in (
        ("select", "dry_run", False),
        ("materialize", "materialize", True),
        ("plan_publish", "approve", True),
    ):
        for value in (True, False):
            run = jobs.Run(form(build, {field: value}), None, "2026-01-02", None)
            assert attribute(build.get_task(name), "when")(run) is (value is does_run_if)


def test_missing_values_are_omitted_and_zero_and_false_are_printed(dags):
    line = ours("commands").alchemist(
        "a", "b", operand=0, none=None, off_one=False, empty="", zero=0, flag_of_two=True, text="-x"
    )
    assert line == ["alchemist", "a", "b", "--no-off-one", "--zero=0", "--flag-of-two", "--text=-x", "--", "0"]


def test_a_command_sees_airflows_home_only_where_it_needs_it(dags, monkeypatch):
    for name in ("AIRFLOW_HOME", "LC_ALL", "CUDA_VISIBLE_DEVICES", "AIRFLOW_CTX_DAG_ID", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, "x")
    environment_of = ours("commands").environment_of
    assert "AIRFLOW_HOME" in environment_of(["alchemist", "note", "failure", "--reason=x"])
    assert "AIRFLOW_HOME" in environment_of(["alchemist", "maintain", "airflow"])
    seen = environment_of(["alchemist", "note", "answer"])
    assert {"LC_ALL", "CUDA_VISIBLE_DEVICES", "AIRFLOW_CTX_DAG_ID"} <= seen.keys()
    assert not {"AIRFLOW_HOME", "SOMETHING_ELSE"} & seen.keys()


@pytest.fixture
def task(dags):
    """task(SCRIPT, **options): a task that runs a shell script, and what it returns or raises."""
    jobs = ours("jobs")

    def make(script, **options):
        return jobs.CommandTask(task_id="t", line=lambda _run: ["sh", "-c", script], **options)

    return make


def test_a_tasks_result_is_the_key_of_the_last_line_that_it_returns(dags, task):
    context = context_of(dags["maintenance"])
    script = """echo warning >&2; echo '{"a": {"b": 1}, "c": 2}'; echo"""
    assert task(script, returns="a").execute(context) == {"b": 1}
    assert task(script, returns="").execute(context) == {"a": {"b": 1}, "c": 2}
    assert task(script, returns=("c",)).execute(context) == {"c": 2}
    assert task(script).execute(context) is None
    assert task(script).do_xcom_push is False
    assert task(script, returns="").do_xcom_push is True


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("echo before; echo 'error: no such dataset'; echo 'Remedy.'; exit 2", 2, "error: no such dataset\nRemedy."),
        ("echo 'error: first'; echo 'error: last'; exit 9", 9, "error: last"),
        ("echo a; echo b; exit 1", 1, "b"),
        ("exit 3", 3, "exit code 3"),
        ("kill -9 $$", -9, "exit code -9"),
    ],
)
def test_a_failed_command_fails_with_its_code_and_with_what_explains_it(dags, task, script, code, reason):
    jobs = ours("jobs")
    with pytest.raises(jobs.CommandFailed) as failed:
        task(script).execute(context_of(dags["maintenance"]))
    assert (failed.value.exit_code, str(failed.value)) == (code, reason)


def test_the_line_that_explains_a_failure_is_logged_as_an_error_and_no_other(dags, task, capsys):
    with pytest.raises(ours("jobs").CommandFailed) as failed:
        task("echo before; echo 'error: no such dataset'; exit 2").execute(context_of(dags["maintenance"]))
    logged = re.findall(r"\[(\w+) *\] (before|error: no such dataset) ", capsys.readouterr().out)
    assert logged == [("info", "before"), ("error", "error: no such dataset")]
    assert isinstance(failed.value, SystemExit), "Airflow logs a SystemExit by its text, without a traceback"


IN_JSON = f"""{sys.executable} -c '
from alchemist_core.telemetry import configure_logging, named_run, say
configure_logging("json")
with named_run("score", 5):
    say("before")
    say("error: no such dataset\\nRemedy.", 40)
'"""


def test_a_failed_command_that_logs_json_is_explained_by_its_message(dags, task, capsys):
    with pytest.raises(ours("jobs").CommandFailed) as failed:
        task(f"{IN_JSON}; exit 2").execute(context_of(dags["maintenance"]))
    assert str(failed.value) == "error: no such dataset\nRemedy."
    logged = re.findall(r'\[(\w+) *\] .*"message": "(before|error: no such dataset)', capsys.readouterr().out)
    assert logged == [("info", "before"), ("error", "error: no such dataset")]


@pytest.mark.slow
def test_a_failed_pod_that_logs_json_is_explained_by_its_message(dags):
    log = subprocess.run(["sh", "-c", f"{IN_JSON} 2>&1"], capture_output=True, text=True, check=True).stdout
    failed = ours("pods").failure_of((2, log), "otherwise")
    assert (failed.exit_code, str(failed)) == (2, "error: no such dataset\nRemedy.")
    assert str(ours("pods").failure_of((1, log.splitlines()[0]), "otherwise")) == "before"


def test_a_mapped_task_names_its_index_to_its_command_so_that_links_lead_to_it(dags, task, monkeypatch):
    for name in ("DAG_ID", "DAG_RUN_ID", "TASK_ID"):
        monkeypatch.setenv(f"AIRFLOW_CTX_{name}", "x")
    monkeypatch.setenv("ALCHEMIST_AIRFLOW_URL", "http://airflow")
    code = "import json; from alchemist_core.notifications import page_of_this_task; print(json.dumps({0: page_of_this_task(str())}))"
    for index, end in ((17, "/tasks/x/mapped/17"), (-1, "/tasks/x")):
        page = task(f"{sys.executable} -c '{code}'", returns="0").execute(
            context_of(dags["maintenance"], map_index=index)
        )
        assert page == f"http://airflow/dags/x/runs/x{end}"


def test_every_task_gives_up_where_the_same_command_would_fail_again(dag):
    assert dag.tasks
    assert {type(task.retry_policy) for task in dag.tasks} == {ours("jobs").GiveUpOnFinalErrors}


def test_the_form_of_a_subset_offers_what_the_preview_advises(dags):
    assert {"rescale", "dedup", "drop_top_ratio", "mean_rank", "std_rank"} <= dags["build_subset"].params.keys()


@pytest.mark.parametrize(
    ("n_lines", "reason"), [(29, "error: all\n" + "\n".join(map(str, range(1, 30)))), (100, "100")]
)
def test_an_explanation_is_printed_completely_up_to_thirty_lines(dags, task, n_lines, reason):
    with pytest.raises(ours("jobs").CommandFailed) as failed:
        task(f"echo 'error: all'; seq {n_lines}; exit 5").execute(context_of(dags["maintenance"]))
    assert str(failed.value) == reason


def test_a_command_that_is_not_there_is_named(dags):
    jobs = ours("jobs")
    missing = jobs.CommandTask(task_id="t", line=lambda _run: ["no-such-program"])
    with pytest.raises(jobs.CommandFailed, match="no-such-program cannot be started: No such file") as failed:
        missing.execute(context_of(dags["maintenance"]))
    assert failed.value.exit_code == 127


def test_a_command_runs_in_a_session_and_an_empty_folder_of_its_own(dags, task):
    script = 'test $(ps -o sid= -p $$) = $$ && test -z "$(ls -A)" && echo \'{"folder": "\'$PWD\'"}\''
    folder = task(script, returns="folder").execute(context_of(dags["maintenance"]))
    assert Path(folder) != Path.cwd()
    assert not Path(folder).exists()


def test_a_run_with_a_failed_task_ends_red_after_its_last_command(dags, task, tmp_path):
    states = {"a": "success", "c": "upstream_failed", "b": "failed", "d": "skipped", "e": None}
    asked = []

    def get_task_states(dag_id, **which):
        asked.append((dag_id, which))
        return {"r 1": states, "r 2": {"x": "failed"}}

    jobs = ours("jobs")
    context = context_of(dags["maintenance"], dag_id="maintenance", run_id="r 1", get_task_states=get_task_states)
    with pytest.raises(jobs.CommandFailed, match=r"These tasks of the run failed: b, c\.") as failed:
        task(f"touch {tmp_path}/ran", closes=True).execute(context)
    assert failed.value.exit_code == 5
    assert (tmp_path / "ran").exists()
    assert asked == [("maintenance", {"map_index": None, "task_ids": None, "run_ids": ["r 1"]})]
    states.update(b="success", c="skipped")
    assert task("true", closes=True).execute(context) is None


def test_a_task_looks_only_at_what_it_needs_of_its_own_item(dags, task):
    asked = []

    def get_task_states(_dag_id, **which):
        asked.append(which)
        return {"r 1": {"drift_1": "success"}}

    context = context_of(
        dags["maintenance"], dag_id="maintenance", run_id="r 1", map_index=1, get_task_states=get_task_states
    )
    task("true", needs=("drift",)).execute(context)
    assert asked == [{"map_index": 1, "task_ids": ["drift"], "run_ids": ["r 1"]}]


def test_a_stopped_task_stops_all_that_its_command_started(dags, task):
    job = task("true")
    job.on_kill()  # Nothing runs yet.
    with subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        child = int(process.stdout.readline())
        job.process = process
        job.on_kill()
        assert process.wait(20) == -15
        assert process.stdout.read() == b""  # The child that held it open has ended too.
    job.on_kill()  # Nothing runs any more.
    assert child > 0


@pytest.mark.parametrize("program", ["exit 3", None, "sleep 600"], ids=["fails", "is missing", "hangs"])
def test_a_note_that_fails_is_logged_and_fails_no_task(dags, tmp_path, monkeypatch, caplog, program):
    people = ours("people")
    if program is not None:
        (tmp_path / "alchemist").write_text(f"#!/bin/sh\nexec sh -c '{program}'\n")
        (tmp_path / "alchemist").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(people, "NOTE_TIMEOUT_S", 0.2 if program == "sleep 600" else 60)
    monkeypatch.setattr(logging.getLogger("airflow.task"), "propagate", True)
    one = SimpleNamespace(dag_id="d", task_id="t", run_id="r 1", try_number=2, map_index=-1)
    with caplog.at_level("WARNING"):
        people.note_failure({"task_instance": one, "exception": ValueError("why")})
    assert "Could not store the note: " in caplog.text


def test_a_failure_is_noted_by_its_task_run_try_and_place(dags, monkeypatch):
    people, lines = ours("people"), []
    monkeypatch.setattr(people.subprocess, "run", lambda line, **_options: lines.append(line))
    one = SimpleNamespace(dag_id="d", task_id="t", run_id="r 1", try_number=2, map_index=3)
    people.note_failure({"task_instance": one, "exception": ValueError("why")})
    assert lines == [[
        "alchemist", "note", "failure", "--subject=d.t", "--run=r 1", "--reason=why", "--try-number=2", "--map-index=3",
    ]]  # fmt: skip


def test_a_task_that_succeeds_at_another_try_is_noted_and_one_that_succeeds_at_once_is_not(dags, monkeypatch):
    people, lines = ours("people"), []
    monkeypatch.setattr(people.subprocess, "run", lambda line, **_options: lines.append(line))
    one = SimpleNamespace(dag_id="d", task_id="t", run_id="r 1", try_number=1, map_index=3)
    context = {"task_instance": one, "task": dags["nightly_rescore"].get_task("publish")}
    people.note_recovery(context)
    assert lines == []
    one.try_number = 2
    people.note_recovery(context)
    assert lines == [["alchemist", "note", "success", "--subject=d.t", "--run=r 1", "--map-index=3"]]
    assert people.COMMON["default_args"]["on_success_callback"] is people.note_recovery


def test_the_success_of_a_closing_task_is_noted_for_all_tasks_of_its_run(dags, monkeypatch):
    """After Clear a mapped task may have fewer items: nothing would end the failure of an item that is gone."""
    people, lines = ours("people"), []
    monkeypatch.setattr(people.subprocess, "run", lambda line, **_options: lines.append(line))
    closing = {"nightly_rescore": "summary", "train_rater": "announce", "evaluate_subset": "report"}
    for name, last in closing.items():
        one = SimpleNamespace(dag_id=name, task_id=last, run_id="r 1", try_number=1, map_index=-1)
        people.note_recovery({"task_instance": one, "task": dags[name].get_task(last)})
    assert lines == [["alchemist", "note", "success", f"--subject={name}", "--run=r 1"] for name in closing]


def test_a_note_waits_a_minute_for_the_store_and_a_question_a_week_for_a_person(dags):
    people = ours("people")
    assert people.NOTE_TIMEOUT_S == 60
    for name in ("train_rater", "build_subset"):
        question = dags[name].get_task("approve")
        assert question.response_timeout == timedelta(days=7)
        assert question.execution_timeout is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"responded_by_user": {"id": "7", "name": "ann"}}, {"approved_by": "ann", "comment": ""}),
        ({"responded_by_user": {"id": "7", "name": None}}, {"approved_by": "7", "comment": ""}),
        ({"chosen_options": ["Approve"]}, {"approved_by": "unknown", "comment": ""}),
        ({"params_input": {"comment": "a\0b"}}, {"approved_by": "unknown", "comment": "ab"}),
    ],
)
def test_who_answered_is_named_as_well_as_airflow_knows(dags, given, said):
    assert ours("people").answered(given) == said


@pytest.mark.parametrize("is_needed", [True, False])
def test_the_approval_is_skipped_if_none_is_needed(dags, is_needed):
    skipped = importlib.import_module("airflow.sdk.exceptions").AirflowSkipException
    question = dags["train_rater"].get_task("approve")
    plan = {"rater": "crawl-loss-1", "is_approval_needed": is_needed, "question": "Better?"}
    context = context_of(dags["train_rater"], xcom_pull=lambda task_ids: {"plan_promote": plan}[task_ids])
    run = ours("jobs").Run.of(context)
    assert question.when(run) is is_needed
    assert question.ask(run) == ("crawl-loss-1", "Promote rater crawl-loss-1?", "Better?")
    if not is_needed:
        with pytest.raises(skipped):
            question.execute(context)


def test_a_person_is_asked_about_the_version_that_the_plan_named(dags):
    results = {"plan_publish": {"subset": "web+books-auto-r12.5", "version": 2, "question": "2 % differ."}}
    dag = dags["build_subset"]
    run = ours("jobs").Run({}, None, "2026-01-02", SimpleNamespace(xcom_pull=lambda task_ids: results[task_ids]))
    assert dag.get_task("approve").ask(run) == (
        "web+books-auto-r12.5 v2",
        "Publish subset web+books-auto-r12.5 v2?",
        "2 % differ.",
    )


@pytest.mark.parametrize("name", ["nightly_rescore", "maintenance"])
@pytest.mark.parametrize("cron", ["30 1 * * *", None])
def test_a_dag_starts_when_the_schedule_that_was_written_beside_it_says(dags, monkeypatch, name, cron):
    jobs = ours("jobs")
    monkeypatch.setitem(jobs.CRON, name, cron)
    monkeypatch.setattr(jobs, "TIMEZONE", "Europe/Berlin")
    schedule = getattr(load(name, monkeypatch), name)().schedule
    told = None if schedule is None else (schedule.expression, str(schedule.timezone))
    assert told == (None if cron is None else (cron, "Europe/Berlin"))


def test_the_project_file_that_was_written_beside_the_dags_reaches_commands_unless_a_variable_names_another(
    dags, monkeypatch
):
    commands = ours("commands")
    assert "ALCHEMIST_PROJECT" not in commands.environment_of(["alchemist", "score"])
    monkeypatch.setattr(commands, "PROJECT", "/project/alchemist.toml")
    assert commands.environment_of(["alchemist", "score"])["ALCHEMIST_PROJECT"] == "/project/alchemist.toml"
    monkeypatch.setenv("ALCHEMIST_PROJECT", "/mounted/alchemist.toml")
    assert commands.environment_of(["alchemist", "score"])["ALCHEMIST_PROJECT"] == "/mounted/alchemist.toml"


def test_a_value_of_ten_thousand_characters_is_the_longest(dags):
    jobs = ours("jobs")
    field = {"type": "string"}
    assert jobs.read_value("dataset", "x" * 10_000, field) == "x" * 10_000
    with pytest.raises(jobs.CommandFailed, match="at most 10,000 characters") as refused:
        jobs.read_value("dataset", "x" * 10_001, field)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("name", "typed"), [("seed", "1.5"), ("retention", "many"), ("seed", "")])
def test_a_number_that_is_none_is_refused_with_what_is_allowed(dags, name, typed):
    jobs, forms = ours("jobs"), ours("forms")
    with pytest.raises(jobs.CommandFailed, match=f"{name} is '{typed}': it must be a number, ") as refused:
        jobs.read_value(name, typed, forms.FORMS["build_subset"][name])
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("typed", "value"), [("-1.5", -1.5), (" 0.25 ", 0.25), (-2, -2)])
def test_a_number_without_bounds_may_be_negative(dags, typed, value):
    jobs, forms = ours("jobs"), ours("forms")
    dags["build_subset"].params.get_param("min_score").resolve(typed)
    assert jobs.read_value("min_score", typed, forms.FORMS["build_subset"]["min_score"]) == value


@pytest.mark.parametrize(("typed", "value"), [("auto", "auto"), (" auto ", "auto"), ("20%", 0.2), (0.5, 0.5)])
def test_a_retention_may_be_the_word_auto(dags, typed, value):
    jobs, forms = ours("jobs"), ours("forms")
    field = forms.FORMS["build_subset"]["retention"]
    assert jobs.read_value("retention", typed, field) == value
    if isinstance(typed, str):
        assert re.search(field["then"]["pattern"], typed)
        assert not re.search(field["then"]["pattern"], f"{typed}s")
    with pytest.raises(jobs.CommandFailed, match=r"above 0, at most 1; such as 0\.2 or 20%; or auto"):
        jobs.read_value("retention", "automatic", field)


def test_another_runner_than_beside_airflow_or_in_a_pod_is_refused(dags, monkeypatch):
    jobs = load("jobs", monkeypatch, ALCHEMIST_JOB_RUNNER="kubernets")
    with pytest.raises(ValueError, match="'kubernets': it must be local or kubernetes"):
        jobs.device_step("score", lambda _run: [])
    assert load("jobs", monkeypatch, ALCHEMIST_JOB_RUNNER="local").device_step("score", lambda _run: []).pool == "gpu"


def test_the_path_of_a_template_is_refused_with_what_replaced_it(dags, monkeypatch):
    with pytest.raises(ValueError, match="It is now the name of a PodTemplate"):
        load("jobs", monkeypatch, ALCHEMIST_POD_TEMPLATE="/etc/alchemist/gpu-job.yaml").form("maintenance")


def test_on_kubernetes_only_a_training_of_several_nodes_is_a_job(dags, monkeypatch):
    jobs, pods = load("jobs", monkeypatch, ALCHEMIST_JOB_RUNNER="kubernetes"), ours("pods")
    for n_nodes, is_training, kind in ((1, True, pods.PodTask), (2, False, pods.PodTask), (2, True, pods.NodesTask)):
        monkeypatch.setattr(jobs, "NODES", n_nodes)
        assert type(jobs.device_step("t", lambda _run: [], is_training=is_training)) is kind


def test_a_pod_ends_as_a_command_does(dags, monkeypatch):
    pods, jobs = ours("pods"), ours("jobs")
    base = pods.KubernetesPodOperator
    one = pods.PodTask(task_id="check_it", line=lambda _run: ["alchemist", "night", "check-drift"], item=NIGHT)
    assert (one.name, one.durable, one.deferrable) == ("check-it", True, True)

    def end(code):
        ended = SimpleNamespace(terminated=SimpleNamespace(exit_code=code, message="before\nerror: No such night.\n"))
        containers = [
            SimpleNamespace(name="another", state=SimpleNamespace(terminated=SimpleNamespace(exit_code=1, message=""))),
            SimpleNamespace(name=one.base_container_name, state=ended),
        ]
        monkeypatch.setattr(base, "cleanup", lambda *_given, **_options: None)
        one.cleanup(None, SimpleNamespace(status=SimpleNamespace(container_statuses=containers)))

    def execute(_self, _context):
        raise pods.AirflowException("the pod failed")

    monkeypatch.setattr(base, "execute", execute)
    with pytest.raises(pods.AirflowException, match="the pod failed"):
        one.execute(context_of(dags["maintenance"]))  # It never started: no code is known.
    end(7)
    with pytest.raises(jobs.CommandFailed, match=r"^error: No such night\.$") as failed:
        one.execute(context_of(dags["maintenance"]))
    assert failed.value.exit_code == 7
    assert one.cmds == ["alchemist", "night", "check-drift"]
