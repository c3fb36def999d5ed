import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest
import yaml

from alchemist_core.__main__ import main
from alchemist_core.errors import ConfigError
from alchemist_core.local import supervisor
from alchemist_core.local.airflow_client import AirflowError
from alchemist_core.local.airflow_environment import (
    build_environment,
    load_secrets,
    passwords_path,
    stack_mark,
)
from alchemist_core.local.processes import (
    ChildState,
    Ending,
    Installation,
    Ports,
    ProcessIdentity,
    StackState,
    age_s,
    describe_other_installation,
    hold_command_lock,
    hold_lock,
    identify,
    is_supervised,
    read_command,
    read_state,
    supervisor_lock,
    this_installation,
    write_state,
)
from alchemist_core.local.stack import _migrate_airflow, airflow_command, client, describe_other_project, logs, status
from alchemist_core.local.supervisor import COMMANDS, Supervisor, prometheus_command
from alchemist_core.resources import resource
from alchemist_core.settings import load_settings
from alchemist_core.store.postgres import start_postgres, stop_postgres


def test_the_state_is_read_as_it_was_written(tmp_path):
    state = StackState(
        ports=Ports(8080, 9477), supervisor_pid=7, children={"scheduler": ChildState(8, 9, n_restarts=1)},
        programs=("scheduler", "metrics"), endings={"metrics": Ending("was killed by SIGKILL", "2026-01-01 10:00:00", 2)},
        installation=Installation("0.1.0", "/old/.venv"),
    )  # fmt: skip
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state


def test_a_program_that_was_installed_while_the_stack_runs_is_not_waited_for(tmp_path):
    me = identify(os.getpid())
    child = ChildState(me.pid, me.birth, n_restarts=0)
    older = tuple(name for name in COMMANDS if name not in ("prometheus", "api-server"))
    write_state(tmp_path, StackState(Ports(1, 2), me.pid, dict.fromkeys(older, child), older))
    with hold_lock(supervisor_lock(tmp_path), should_wait=True):
        found = status(tmp_path)
    assert set(found.processes) == set(older)
    assert all(found.processes.values())
    assert "api-server" in found.not_started
    said = found.describe()
    assert "restarting" not in said.replace("postgres: down, restarting", "")
    assert (
        "api-server: installed after the stack was started. To start it: alchemist stack down, then alchemist stack up"
        in said
    )


def test_a_stack_that_is_starting_lists_what_is_not_there_yet_and_what_it_waits_for(tmp_path):
    me = identify(os.getpid())
    with hold_command_lock(tmp_path, "up") as note:
        note("Postgres")
        said = status(tmp_path).describe().splitlines()
        assert said[0] == f"The stack of {tmp_path} is starting: alchemist stack up (pid {me.pid}) waits for Postgres."
        assert said[1:] == [
            *(f"  {name}: not started yet: waits for Postgres" for name in COMMANDS),
            "  postgres: down",
        ]
        # The supervisor has started every process; Airflow does not answer yet.
        programs = tuple(COMMANDS)
        # A process that has just begun: this one may be older than a start may take.
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as young:
            child = ChildState(young.pid, identify(young.pid).birth, n_restarts=0)
            write_state(tmp_path, StackState(Ports(1, 2), me.pid, dict.fromkeys(programs, child), programs))
            note("api-server")
            with hold_lock(supervisor_lock(tmp_path), should_wait=True):
                said = status(tmp_path).describe()
    assert "waits for api-server." in said
    assert f"  api-server: pid {young.pid}, starting: it does not answer yet\n" in said
    assert f"  scheduler: pid {young.pid}, starting: its heartbeat is known when api-server answers\n" in said
    assert f"  metrics: pid {young.pid}\n" in said
    assert read_command(tmp_path) is None, "the command has ended"
    assert "is down (Postgres is down)" in status(tmp_path).describe()


def test_a_stack_that_is_being_stopped_says_so(tmp_path):
    me = identify(os.getpid())
    child = ChildState(me.pid, me.birth, n_restarts=0)
    write_state(tmp_path, StackState(Ports(1, 2), me.pid, {"triggerer": child}, ("scheduler", "triggerer")))
    with hold_lock(supervisor_lock(tmp_path), should_wait=True), hold_command_lock(tmp_path, "down") as note:
        note("the processes to end")
        said = status(tmp_path).describe()
    assert "is being stopped: alchemist stack down" in said
    assert f"  scheduler: down\n  triggerer: pid {me.pid}\n  postgres: down" in said


def test_a_start_that_was_killed_is_not_called_one(tmp_path):
    killed = '{"verb": "up", "pid": 4194303, "birth": 1, "waits_for": "Postgres"}'
    (tmp_path / "stack.lock").write_text(killed)
    assert "is down (Postgres is down)" in status(tmp_path).describe()


def test_the_status_shows_how_often_each_process_was_restarted_and_why(tmp_path):
    me = identify(os.getpid())
    child = ChildState(me.pid, me.birth, n_restarts=2)
    endings = {
        "metrics": Ending("was killed by SIGKILL", "2026-01-01 10:00:00", 2),
        "scheduler": Ending("ended with exit code 1", "2026-01-02 11:00:00", 1),
    }
    write_state(
        tmp_path, StackState(Ports(1, 2), me.pid, {"metrics": child}, ("metrics", "scheduler"), endings=endings)
    )
    with hold_lock(supervisor_lock(tmp_path), should_wait=True):
        said = status(tmp_path).describe().splitlines()
    log = tmp_path / "logs"
    why = f"restarted 2 times, last because it was killed by SIGKILL at 2026-01-01 10:00:00 UTC; log: {log / 'metrics.log'}"
    assert f"  metrics: pid {me.pid}; {why}" in said
    why = f"restarted once, last because it ended with exit code 1 at 2026-01-02 11:00:00 UTC; log: {log / 'scheduler.log'}"
    assert f"  scheduler: down, restarting; {why}" in said


def test_a_process_is_as_old_as_its_start():
    assert 0 < age_s(identify(os.getpid())) < age_s(ProcessIdentity(1, 1))


def test_a_copy_of_a_home_has_no_process_of_the_originals_stack(tmp_path):
    original, state = tmp_path / "original", StackState(Ports(1, 2), 7, {"scheduler": ChildState(8, 9, n_restarts=0)})
    original.mkdir()
    load_secrets(original)
    write_state(original, state)
    copied = shutil.copytree(original, tmp_path / "copy")
    assert read_state(copied) == StackState()
    assert stack_mark(copied) != stack_mark(original)
    shutil.rmtree(copied)
    assert read_state(original.rename(tmp_path / "moved")) == state, "what was moved is still the same stack"


def test_the_state_of_older_code_is_read(tmp_path):
    (tmp_path / "stack.json").write_text('{"ports": null, "supervisor_pid": null, "children": {}}')
    assert read_state(tmp_path) == StackState()


@pytest.mark.parametrize("torn", ["", '{"home": "/', "[]", "{}", '{"ports": {"port": 1}, "children": {}}'])
def test_a_state_that_a_power_cut_tore_is_ignored_with_one_warning(tmp_path, monkeypatch, capsys, torn):
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    (tmp_path / "stack.json").write_text(torn)
    assert read_state(tmp_path) == StackState()
    assert main(["stack", "status"]) == 0
    assert capsys.readouterr().err.count("stack.json is unreadable") == 1
    write_state(tmp_path, StackState(ports=Ports(1, 2)))
    assert read_state(tmp_path).ports == Ports(1, 2)


@pytest.mark.slow
def test_airflows_command_line_gets_the_stacks_environment(tmp_path):
    server = start_postgres(tmp_path)
    try:
        write_state(tmp_path, StackState(ports=Ports(18080, 19477)))
        program, environment = airflow_command(tmp_path)
        assert program.name == "airflow"
        assert environment["AIRFLOW_HOME"] == str(tmp_path / "airflow")
        assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].endswith(f"127.0.0.1:{server.port}/airflow")
        assert "alchemist_writer" in environment["ALCHEMIST_DATABASE_URL"]
    finally:
        stop_postgres(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_airflows_command_line_works_on_the_stacks_own_database(tmp_path, monkeypatch):
    """Airflow without the stack's environment says: Database migration required."""
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    monkeypatch.delenv("ALCHEMIST_DATABASE_URL", raising=False)
    server, ports = start_postgres(tmp_path), Ports(18080, 19477)

    def airflow(*words):
        command = [sys.executable, "-m", "alchemist_core", "stack", "airflow", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        _migrate_airflow(tmp_path, server, ports.airflow)
        write_state(tmp_path, StackState(ports))
        airflow("pools", "set", "shelf", "3", "made by a test")
        (pool,) = (pool for pool in json.loads(airflow("pools", "list", "--output", "json")) if pool["pool"] == "shelf")
        assert pool["slots"] == "3"
        assert "graphviz" not in airflow("dags", "list", "--output", "json")
        with psycopg2.connect(server.url("airflow", "airflow")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT slots FROM slot_pool WHERE pool = 'shelf'")
            assert cursor.fetchall() == [(3,)]
    finally:
        stop_postgres(tmp_path)


def test_a_new_home_has_an_empty_state(tmp_path):
    assert read_state(tmp_path) == StackState()


def test_a_home_is_supervised_while_the_lock_is_held(tmp_path):
    with hold_lock(supervisor_lock(tmp_path), should_wait=True):
        assert is_supervised(tmp_path)
    assert not is_supervised(tmp_path)


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path):
    first = load_secrets(tmp_path)
    assert load_secrets(tmp_path) == first
    for path in (tmp_path / "airflow" / "secrets.json", passwords_path(tmp_path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_is_full_leaves_no_half_of_a_secret(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from alchemist_core.local.airflow_environment import load_secrets\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); load_secrets(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert load_secrets(tmp_path)["password"]


def test_the_commands_log_in_with_the_password_that_an_administrator_chose(tmp_path):
    load_secrets(tmp_path)
    write_state(tmp_path, StackState(ports=Ports(1, 2)))
    passwords = json.loads(passwords_path(tmp_path).read_text())
    assert client(tmp_path).password == passwords["admin"]
    passwords_path(tmp_path).write_text(json.dumps(passwords | {"admin": "chosen"}))
    assert client(tmp_path).password == "chosen"


def test_two_homes_share_no_secret(tmp_path):
    one, other = load_secrets(tmp_path / "one"), load_secrets(tmp_path / "other")
    assert not set(one.values()) & set(other.values())


def test_everything_listens_on_loopback_and_no_foreign_airflow_leaks_in(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_THEIRS", "postgres://elsewhere")
    found = build_environment(
        tmp_path, port=8081, metadata_url="postgresql://u:p@127.0.0.1/airflow", store_url="postgresql://s"
    )
    assert found["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert found["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://u:p@127.0.0.1/airflow"
    assert "AIRFLOW_CONN_THEIRS" not in found


def test_a_task_waits_for_an_api_server_that_restarts_as_long_as_on_a_server(tmp_path):
    """A busy laptop needs it too: by Airflow's defaults each task failed before its command started."""
    found = build_environment(tmp_path, port=8081, metadata_url="postgresql://m", store_url="postgresql://store")
    of_servers = resource("infra", "kubernetes", "airflow.properties").read_text().splitlines()
    waits = [line for line in of_servers if line.startswith("AIRFLOW__WORKERS__EXECUTION_API_")]
    assert len(waits) == 3
    assert [line for line in waits if line not in {f"{name}={value}" for name, value in found.items()}] == []


def test_no_task_counts_as_dead_before_the_supervisor_has_restarted_a_silent_api_server(tmp_path):
    """The scheduler ends the attempts of tasks without a heartbeat, and their commands are stopped."""
    found = build_environment(tmp_path, port=8081, metadata_url="postgresql://m", store_url="postgresql://store")
    until_killed_s = (
        supervisor.LOOK_EVERY_S + supervisor.HUNG_AFTER_S + int(found["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"])
    )
    restart_s = 120
    assert int(found["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"]) > until_killed_s + restart_s


def test_tasks_see_this_home_and_this_store(tmp_path):
    found = build_environment(tmp_path, port=8081, metadata_url="postgresql://m", store_url="postgresql://store")
    assert found["ALCHEMIST_HOME"] == str(tmp_path)
    assert found["ALCHEMIST_DATABASE_URL"] == "postgresql://store"


def test_an_unknown_log_names_those_that_exist(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "scheduler.log").write_text("one\ntwo\n")
    assert logs(tmp_path, "scheduler", n_lines=1) == "two"
    with pytest.raises(ConfigError, match="Logs: scheduler"):
        logs(tmp_path, "../secrets")
    # Elsewhere, but `alchemist stack status` names it too.
    (tmp_path / "postgres" / "server").mkdir(parents=True)
    (tmp_path / "postgres" / "server" / "log").write_text("ready\n")
    assert logs(tmp_path, "postgres") == "ready"
    with pytest.raises(ConfigError, match="Logs: postgres, scheduler"):
        logs(tmp_path, "../secrets")


def test_a_home_without_a_stack_names_the_command_that_starts_one(tmp_path):
    with pytest.raises(AirflowError, match="alchemist stack up"):
        client(tmp_path)


def test_the_local_prometheus_scrapes_this_installations_exporter_by_our_rules(tmp_path):
    command = prometheus_command(tmp_path, Ports(8080, 20_001, 20_002, 20_003))
    config = yaml.safe_load((tmp_path / "prometheus" / "prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:20001"]}]
    assert all(Path(path).is_file() for path in config["rule_files"])
    assert "--web.listen-address=127.0.0.1:20003" in command


def test_airflow_sends_its_metrics_to_the_exporter(tmp_path):
    pytest.importorskip("statsd")
    found = build_environment(
        tmp_path, port=8081, metadata_url="postgresql://m", store_url="postgresql://store", statsd_port=20_002
    )
    assert found["ALCHEMIST_STATSD_PORT"] == found["AIRFLOW__METRICS__STATSD_PORT"] == "20002"
    assert found["ALCHEMIST_AIRFLOW_DATABASE_URL"] == "postgresql+psycopg2://m"


def test_tasks_read_the_project_file_that_was_found_where_the_stack_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    urls = {"metadata_url": "postgresql://m", "store_url": "postgresql://store"}
    assert "ALCHEMIST_PROJECT" not in build_environment(tmp_path, port=8081, **urls)
    (tmp_path / "alchemist.toml").touch()
    assert build_environment(tmp_path, port=8081, **urls)["ALCHEMIST_PROJECT"] == str(tmp_path / "alchemist.toml")


def test_a_project_file_that_is_gone_does_not_keep_processes_from_starting(tmp_path, monkeypatch):
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(tmp_path / "gone.toml"))
    load_settings.cache_clear()
    found = build_environment(tmp_path, port=8081, metadata_url="postgresql://m", store_url="postgresql://store")
    assert found["ALCHEMIST_PROJECT"] == str(tmp_path / "gone.toml")


def test_the_supervisor_records_its_installation(tmp_path):
    Supervisor(tmp_path, Ports(1, 2))._write()
    assert read_state(tmp_path).installation == this_installation()
    assert read_state(tmp_path).programs


def test_a_stack_that_was_stopped_has_the_project_file_that_it_was_started_with(tmp_path, monkeypatch):
    monkeypatch.setenv("ALCHEMIST_PROJECT", "/data/alchemist.toml")
    started = Supervisor(tmp_path, Ports(1, 2))
    started._write()
    started.stop()
    assert read_state(tmp_path) == StackState(ports=Ports(1, 2), project="/data/alchemist.toml")


@pytest.mark.parametrize(
    ("started_by", "told"),
    [
        (this_installation(), None),
        (None, "by an earlier version,"),
        (Installation("0.1.0", "/old/.venv"), "by version 0.1.0 in /old/.venv,"),
    ],
)
def test_a_stack_that_another_installation_started_says_so(tmp_path, monkeypatch, capsys, started_by, told):
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    write_state(tmp_path, StackState(programs=("scheduler",), installation=started_by))
    assert describe_other_installation(tmp_path) is None  # no stack runs
    with hold_lock(supervisor_lock(tmp_path), should_wait=False):
        said = describe_other_installation(tmp_path)
        assert said is None if told is None else told in said and str(this_installation()) in said
        assert main(["stack", "status"]) == 0
    remedy = "To start it with this version: alchemist stack down, then alchemist stack up."
    assert (remedy in capsys.readouterr().err) == (told is not None)


@pytest.mark.parametrize("name", ["project", "my project"])
def test_a_stack_that_runs_with_another_project_file_says_so(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    path = tmp_path / name / "alchemist.toml"
    path.touch()
    write_state(tmp_path, StackState(project=str(path)))
    assert read_state(tmp_path).project == str(path)
    assert describe_other_project(tmp_path) is None  # no stack runs
    with hold_lock(supervisor_lock(tmp_path), should_wait=False):
        assert describe_other_project(tmp_path) is None
        path.rename(path.with_name("other.toml"))
        said = describe_other_project(tmp_path)
        assert f"started with project file {path}, and here it is none" in said
        assert "alchemist stack down, then alchemist stack up" in said
        assert f"export ALCHEMIST_PROJECT={shlex.quote(str(path))}." in said
        write_state(tmp_path, StackState())
        assert describe_other_project(tmp_path) is None
