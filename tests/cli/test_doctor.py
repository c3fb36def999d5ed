"""`alchemist doctor` names each missing part with its remedy, and ends with code 5 if a part is missing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.cli import cluster, docs, doctor
from alchemist_core.cli.dags import DagsInstallConfig, install, shipped_dags
from alchemist_core.local.processes import Ports, StackState, hold_lock, supervisor_lock, write_state
from alchemist_core.project import load_project
from alchemist_core.settings import SITE_OF_VERSION, load_settings
from alchemist_core.store.engine import make_engine, read_clock
from tests.object_store import endpoint, object_store

__all__ = ["endpoint", "object_store"]
pytestmark = pytest.mark.db

# The tables of Airflow that doctor reads, made by Airflow's own models.
MAKE_TABLES = """
import sys
from sqlalchemy import create_engine
from airflow.models import connection, dag, dagbundle, errors, pool, team
from airflow.models.base import Base
names = ("slot_pool", "dag", "import_error", "connection", "dag_bundle", "team")
Base.metadata.create_all(create_engine(sys.argv[1]), tables=[Base.metadata.tables[name] for name in names])
"""
HEALTHY = {name: {"status": "healthy"} for name in doctor.COMPONENTS}
SCHEDULED = ("nightly_rescore", "maintenance")


class Site:
    """A web server that answers as Airflow, the exporter, Prometheus and Kubernetes do, by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        found = self.answers.get(path.partition("?")[0])
        if found is None:
            return 404, b"{}"
        if isinstance(found, int):
            return found, b"{}"
        return 200, found.encode() if isinstance(found, str) else json.dumps(found).encode()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = made.answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def airflow_tables(make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with Airflow's tables, filled once as a new installation fills them."""
    url = make_database(template=None)
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    made = subprocess.run(
        [sys.executable, "-c", MAKE_TABLES, url.replace("postgresql:", "postgresql+psycopg2:")],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return url


@pytest.fixture
def in_airflow(airflow_tables: str) -> Iterator[Callable[[str], None]]:
    """in_airflow(sql): change Airflow's database, which holds the pool and all DAGs before each test."""
    engine = make_engine(airflow_tables)

    def run(sql: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(sql))

    run("TRUNCATE slot_pool, dag, import_error, connection, dag_bundle CASCADE")
    run("INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('gpu', 1, true)")
    run("INSERT INTO dag_bundle (name, active) VALUES ('dags-folder', true)")
    for name in shipped_dags():
        next_run = "now()" if name in SCHEDULED else "NULL"
        run(
            "INSERT INTO dag (dag_id, bundle_name, is_paused, is_stale, timetable_type, max_active_tasks, "
            "max_consecutive_failed_dag_runs, has_task_concurrency_limits, next_dagrun_create_after, partition_mapper_info) "
            f"VALUES ('{name}', 'dags-folder', false, false, '', 16, 0, false, {next_run}, '[]')"
        )
    yield run
    engine.dispose()


@pytest.fixture
def installed(
    database_url: str,
    airflow_tables: str,
    in_airflow: Callable[[str], None],
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """An installation in which nothing is missing, as a container of Airflow sees it; returns its folder."""
    home, dags, crawl = tmp_path / "home", tmp_path / "dags", tmp_path / "crawl"
    for folder in (home, dags, crawl / "2026-01-01"):
        folder.mkdir(parents=True)
    project = tmp_path / "alchemist.toml"
    project.write_text(f'[datasets.web]\nroot = "{crawl}"\n')
    site.answers |= {
        "/api/v2/monitor/health": HEALTHY,
        "/metrics": "alchemist_store_up 1.0\n",
        "/api/v1/query": {"data": {"result": [{"value": [0, "1"]}]}},
    }
    for name, value in {
        "ALCHEMIST_HOME": home, "ALCHEMIST_PROJECT": project, "ALCHEMIST_NOTIFY_URL": f"{site.url}/hook",
        "ALCHEMIST_DOCS_URL": "https://docs.example.org",
        "ALCHEMIST_METRICS_URL": f"{site.url}/metrics", "ALCHEMIST_PROMETHEUS_URL": site.url,
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__CORE__DAGS_FOLDER": dags,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{site.url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_tables.replace("postgresql://", "postgresql+psycopg2://"),
        **{f"AIRFLOW__{secret}": "a secret" for secret in doctor.SECRETS},
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    forget()
    install(DagsInstallConfig(to=dags))
    return tmp_path


def forget() -> None:
    load_settings.cache_clear()
    load_project.cache_clear()


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict[str, str]]]]:
    """check(part, …): the exit code, and what was found that is not ok."""

    def run(*parts: str) -> tuple[int, list[dict[str, str]]]:
        forget()
        capsys.readouterr()
        code = main(["doctor", "--json", *(["--parts", ",".join(parts)] if parts else [])])
        findings = json.loads(capsys.readouterr().out)["findings"]
        return code, [one for one in findings if one["state"] != "ok"]

    return run


Check = Callable[..., tuple[int, list[dict[str, str]]]]


def says(found: tuple[int, list[dict[str, str]]], state: str, what: str, remedy: str) -> bool:
    """Whether exactly one thing is not ok, and it is this."""
    code, (one,) = found
    assert (one["state"], code) == (state, 5 if state == "missing" else 0), one
    assert what in one["what"], one
    assert remedy in str(one["remedy"]), one
    return True


def test_a_complete_installation_has_nothing_to_report(installed: Path, check: Check, site: Site) -> None:
    assert check() == (0, [])
    assert "/api/v2/monitor/health" in site.asked


def test_the_table_names_each_part_and_its_remedy(
    installed: Path, in_airflow: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    in_airflow("DELETE FROM slot_pool")
    assert main(["doctor", "--parts", "store,pool"]) == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       store  Postgres answers, and the schema is at revision")
    assert lines[1:] == [
        "missing  pool   Airflow has no pool gpu, so it never starts tasks that use a device.",
        "                → airflow pools set --include-deferred gpu 1 'One slot per device'",
        "1 missing, 0 warnings",
    ]


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--parts", "pools"]) == 2
    assert "--parts pools is not a part. Choose from: project, store" in capsys.readouterr().err


def test_a_folder_without_anything_is_told_to_start_the_stack(check: Check, tmp_path: Path) -> None:
    code, found = check()
    assert code == 5
    assert {one["part"] for one in found if one["state"] == "missing"} == {"store", "home"}
    assert all("alchemist stack up" in one["remedy"] for one in found if one["state"] == "missing")
    assert not (tmp_path / "alchemist-home").exists()


def test_a_wrong_project_file_is_named_with_its_fault(installed: Path, check: Check) -> None:
    (installed / "alchemist.toml").write_text("[rater]\npreset = 3\nnonsense = 1\n")
    code, found = check("project")
    assert code == 5
    assert "nonsense" in found[0]["what"]


def test_a_store_that_does_not_answer_is_missing(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, found = check("store", "clock", "data")
    assert code == 5
    assert [(one["part"], one["state"]) for one in found] == [("store", "missing"), ("clock", "warn")]
    assert "ALCHEMIST_DATABASE_URL" in found[0]["what"]


def test_a_store_of_another_revision_names_the_migration(
    installed: Path, check: Check, make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", make_database(template=None))
    code, found = check("store")
    assert code == 5
    assert "alchemist db migrate" in found[0]["what"]


def test_a_reader_of_the_store_cannot_run_stages(
    installed: Path,
    check: Check,
    database_url: str,
    log_in_at: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", log_in_at(database_url, "alchemist_reader"))
    assert says(check("store"), "missing", "may not write", "postgresql://alchemist_writer:PASSWORD")


@pytest.mark.parametrize(("seconds", "state"), [(5, "warn"), (60, "missing"), (-60, "missing")])
def test_a_clock_that_differs_is_named_with_the_difference(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch, seconds: int, state: str
) -> None:
    monkeypatch.setattr(doctor, "read_clock", lambda connection: read_clock(connection) + timedelta(seconds=seconds))
    assert says(check("clock"), state, "that of the database differ by", "chrony")


def test_a_volume_that_is_not_mounted_is_named(installed: Path, check: Check) -> None:
    (installed / "home").rmdir()
    assert says(check("home"), "missing", f"{installed / 'home'} is not a folder", "mount the volume")


def test_a_home_that_may_not_be_written_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file system that root may not write either.
    monkeypatch.setenv("ALCHEMIST_HOME", "/proc")
    assert says(check("home"), "missing", "/proc cannot be written", "fsGroup")


def test_a_secret_that_is_not_given_is_named(installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__API_AUTH__JWT_SECRET")
    assert says(check("secrets"), "missing", "AIRFLOW__API_AUTH__JWT_SECRET is not set", "same value")
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET_CMD", "cat /run/secrets/jwt")
    assert check("secrets") == (0, [])


def test_failures_without_a_receiver_are_a_warning(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALCHEMIST_NOTIFY_URL")
    assert says(check("notify"), "warn", "only stored", "ALCHEMIST_NOTIFY_URL")


def test_links_to_the_placeholder_of_the_documentation_are_named(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALCHEMIST_DOCS_URL")
    monkeypatch.setattr(docs, "resource", installed.joinpath)
    assert says(check("notify"), "warn", SITE_OF_VERSION, "In a checkout, run make docs; publish the folder dist/docs")
    (installed / "dist" / "docs").mkdir(parents=True)
    (installed / "dist" / "docs" / "index.html").touch()
    assert says(check("notify"), "warn", SITE_OF_VERSION, "set ALCHEMIST_DOCS_URL. Here: alchemist docs runbook")


def test_an_airflow_that_does_not_answer_is_named(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://127.0.0.1:1/execution/")
    assert says(check("airflow"), "missing", "http://127.0.0.1:1 does not answer", "airflow api-server")


def test_a_component_without_heartbeat_is_named(installed: Path, check: Check, site: Site) -> None:
    site.answers["/api/v2/monitor/health"] = HEALTHY | {"dag_processor": {"status": None}}
    assert says(check("airflow"), "missing", "dag processor has no heartbeat", "airflow dag-processor")


def test_a_missing_pool_is_named(installed: Path, check: Check, in_airflow: Callable[[str], None]) -> None:
    in_airflow("UPDATE slot_pool SET slots = 0")
    assert says(check("pool"), "missing", "pool gpu has no slots", "airflow pools set --include-deferred gpu 1")
    in_airflow("DELETE FROM slot_pool")
    assert says(check("pool"), "missing", "no pool gpu", "airflow pools set --include-deferred gpu 1")


def test_a_pool_that_does_not_limit_pods_is_named(
    installed: Path, check: Check, in_airflow: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_airflow("UPDATE slot_pool SET slots = 3, include_deferred = false")
    assert check("pool") == (0, [])
    monkeypatch.setenv("ALCHEMIST_JOB_RUNNER", "kubernetes")
    assert says(check("pool"), "missing", "does not count deferred tasks", "pools set --include-deferred gpu 3")
    in_airflow("UPDATE slot_pool SET include_deferred = true")
    assert check("pool") == (0, [])


def test_a_missing_connection_of_the_logs_is_named(
    installed: Path, check: Check, in_airflow: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID", "logs")
    assert says(check("pool"), "missing", "no connection 'logs'", "airflow connections add logs")
    in_airflow(
        "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted) VALUES ('logs', 'aws', false, false)"
    )
    assert check("pool") == (0, [])


def test_a_database_of_airflow_that_does_not_answer_is_named(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_AIRFLOW_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/airflow")
    code, (one,) = check("pool")
    assert code == 5
    assert "Airflow's database does not answer" in one["what"]


def test_dags_of_another_version_are_named(installed: Path, check: Check) -> None:
    (installed / "dags/alchemist_dags/jobs.py").write_text("# edited")
    (installed / "dags/alchemist_dags/people.py").unlink()
    assert says(check("dags"), "missing", "jobs.py, people.py", f"alchemist dags install --to {installed / 'dags'}")


def test_dags_installed_before_a_change_of_the_project_file_are_named(installed: Path, check: Check) -> None:
    with (installed / "alchemist.toml").open("a") as file:
        file.write('[schedule]\nnightly = "0 4 * * *"\n')
    assert says(check("dags"), "missing", "schedules.py", "alchemist dags install")


def test_the_project_file_of_the_stack_is_named_where_none_is_found(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = installed / "alchemist.toml"
    write_state(installed / "home", StackState(project=str(used)))
    assert check("project")[0] == 0
    monkeypatch.delenv("ALCHEMIST_PROJECT")
    monkeypatch.chdir("/")
    forget()
    assert says(check("project"), "warn", f"the stack of this home uses {used}", f"export ALCHEMIST_PROJECT={used}")
    used.unlink()
    assert says(check("project"), "warn", "There is no project file", "alchemist init")


def test_a_local_stack_that_another_version_started_is_named(
    check: Check, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/api/v2/monitor/health"] = HEALTHY
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    monkeypatch.delenv("AIRFLOW__CORE__EXECUTOR", raising=False)
    write_state(tmp_path, StackState(Ports(int(site.url.rpartition(":")[2]), 1), programs=("scheduler",)))
    with hold_lock(supervisor_lock(tmp_path), should_wait=False):
        remedy = "alchemist stack down, then alchemist stack up"
        assert says(check("airflow"), "missing", "was started by an earlier version", remedy)


def test_dags_that_are_not_installed_are_named(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "elsewhere"))
    assert says(check("dags"), "missing", "the DAGs are not installed", "alchemist dags install --to")


def test_a_paused_schedule_is_missing_and_a_paused_form_a_warning(
    installed: Path, check: Check, in_airflow: Callable[[str], None]
) -> None:
    in_airflow("UPDATE dag SET is_paused = true WHERE dag_id = 'build_subset'")
    assert says(check("dags"), "warn", "build_subset is paused", "airflow dags unpause build_subset")
    in_airflow("UPDATE dag SET is_paused = dag_id = 'nightly_rescore'")
    assert says(check("dags"), "missing", "nightly_rescore is paused", "airflow dags unpause nightly_rescore")


def test_a_dag_that_airflow_has_not_loaded_is_named(
    installed: Path, check: Check, in_airflow: Callable[[str], None]
) -> None:
    in_airflow("UPDATE dag SET is_stale = true WHERE dag_id = 'train_rater'")
    assert says(check("dags"), "missing", "has not loaded train_rater", "DAG processor")


def test_an_import_error_is_named_with_its_last_line(
    installed: Path, check: Check, in_airflow: Callable[[str], None]
) -> None:
    in_airflow("INSERT INTO import_error (filename, stacktrace) VALUES ('ours.py', E'Traceback\\nNameError: spam\\n')")
    assert says(check("dags"), "missing", "ours.py: NameError: spam", "list-import-errors")


def test_on_a_laptop_every_command_is_one_of_the_stacks_airflow(
    airflow_tables: str, in_airflow: Callable[[str], None], tmp_path: Path
) -> None:
    """Airflow's own command would show another Airflow: that of the folder airflow in the user's home."""

    class Laptop(doctor.Site):
        database = property(lambda _: airflow_tables)

    in_airflow("INSERT INTO import_error (filename, stacktrace) VALUES ('ours.py', E'Traceback\nNameError: spam\n')")
    in_airflow("UPDATE dag SET is_stale = dag_id = 'train_rater', is_paused = dag_id = 'build_subset'")
    found = list(doctor._look_at_loaded_dags(Laptop(tmp_path, Ports(1, 2), {})))
    assert [one.remedy and one.remedy.rpartition(": ")[2] for one in found] == [
        "alchemist stack airflow dags list-import-errors",
        "alchemist stack airflow config get-value core dags_folder",
        "alchemist stack airflow dags unpause build_subset",
    ]


@pytest.mark.slow
def test_a_broker_that_does_not_answer_is_named(installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    assert says(check("executor"), "missing", "no broker", "AIRFLOW__CELERY__BROKER_URL")
    monkeypatch.setenv("AIRFLOW__CELERY__BROKER_URL", "redis://127.0.0.1:1/0")
    assert says(check("executor"), "missing", "does not answer", "AIRFLOW__CELERY__BROKER_URL")


def test_a_preset_that_needs_a_gpu_misses_it(installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    with (installed / "alchemist.toml").open("a") as file:
        file.write('[rater]\npreset = "gpu80"\n')
    monkeypatch.setenv("PATH", "/usr/sbin")  # without nvidia-smi
    found = check("device")
    assert says(found, "missing", "preset gpu80 of train-rater needs one GPU of 80 GB", "NVIDIA driver")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    assert says(check("device"), "warn", "This machine has no GPU", "on a worker of queue device")


def test_missing_weights_are_named(installed: Path, check: Check) -> None:
    with (installed / "alchemist.toml").open("a") as file:
        file.write('[rater]\npreset = "gpu80"\ntokenizer_weights = "vae.pth"\n')
    code, found = check("weights")
    assert code == 5
    assert [one["what"].partition(":")[0] for one in found] == ["tokenizer", "text-encoder"]
    assert f"{installed / 'vae.pth'} does not exist" in found[0]["what"]


def test_a_root_that_is_not_mounted_is_named(installed: Path, check: Check) -> None:
    crawl = installed / "crawl"
    (crawl / "2026-01-01").rmdir()
    code, (one,) = check("data")
    assert (code, one["state"], one["what"]) == (0, "warn", f"web: {crawl} is empty.")
    crawl.rmdir()
    assert says(check("data"), "missing", f"web: {crawl} cannot be listed", "Mount it")


def test_a_bucket_that_cannot_be_read_is_named(installed: Path, check: Check, object_store: str) -> None:
    (installed / "alchemist.toml").write_text(
        f'[datasets.here]\nroot = "{object_store}"\n[datasets.gone]\nroot = "s3://no-such-bucket/x"\n'
    )
    code, found = check("data")
    assert code == 5
    assert [(one["state"], one["what"].partition(":")[0]) for one in found] == [("warn", "here"), ("missing", "gone")]
    assert "no-such-bucket" in found[1]["what"]


def test_an_exporter_that_nobody_reads_is_named(installed: Path, check: Check, site: Site) -> None:
    site.answers["/api/v1/query"] = {"data": {"result": []}}
    assert says(check("metrics"), "missing", "does not read the exporter", "scrape_configs")
    site.answers |= {"/metrics": "alchemist_store_up 0.0\n", "/api/v1/query": {"data": {"result": [1]}}}
    assert says(check("metrics"), "missing", "cannot read the store", "exporter's log")
    del site.answers["/metrics"]
    assert says(check("metrics"), "missing", "/metrics does not answer", "start it")


POD = yaml.safe_load("""
nodeSelector: {alchemist/device: gpu}
containers:
  - name: base
    resources: {limits: {memory: 64Gi, nvidia.com/gpu: "1"}}
    envFrom: [{secretRef: {name: alchemist-store}}, {configMapRef: {name: alchemist-settings}}]
    env: [{name: KEY, valueFrom: {secretKeyRef: {name: hub, key: token}}}, {name: PLAIN, value: "1"}]
volumes:
  - {name: home, persistentVolumeClaim: {claimName: alchemist-home}}
  - {name: project, configMap: {name: alchemist-project}}
  - {name: rare, secret: {secretName: rare, optional: true}}
  - {name: tmp, emptyDir: {}}
""")
NEEDED = {
    "secrets/alchemist-store": "secret alchemist-store",
    "secrets/hub": "secret hub",
    "configmaps/alchemist-settings": "config map alchemist-settings",
    "configmaps/alchemist-project": "config map alchemist-project",
    "persistentvolumeclaims/alchemist-home": "volume claim alchemist-home",
}


GPU_NODE = {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}
TEMPLATE = "/api/v1/namespaces/ml/podtemplates/alchemist-device-job"


@pytest.fixture
def in_cluster(installed: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod whose API server has all that the template names."""
    account = installed / "account"
    account.mkdir()
    (account / "token").write_text("a token")
    (account / "namespace").write_text("ml\n")
    host, port = site.url.removeprefix("http://").split(":")
    for name, value in {
        "ALCHEMIST_JOB_RUNNER": "kubernetes", "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster.find_missing_objects, "__defaults__", (account,))
    site.answers |= {f"/api/v1/namespaces/ml/{path}": {} for path in NEEDED}
    site.answers |= {TEMPLATE: {"template": {"spec": POD}}, "/api/v1/nodes": {"items": [GPU_NODE]}}


def test_a_cluster_that_has_what_the_pods_name_is_complete(in_cluster: None, check: Check, site: Site) -> None:
    assert check("pods", "device") == (0, [])
    assert "/api/v1/nodes?labelSelector=alchemist/device%3Dgpu" in site.asked


@pytest.mark.parametrize("path", sorted(NEEDED))
def test_each_object_that_the_cluster_lacks_is_named(in_cluster: None, check: Check, site: Site, path: str) -> None:
    del site.answers[f"/api/v1/namespaces/ml/{path}"]
    assert says(check("pods"), "missing", f"There is no {NEEDED[path]} in namespace ml.", "kubectl ")


def test_a_label_that_no_node_has_is_named(in_cluster: None, check: Check, site: Site) -> None:
    site.answers["/api/v1/nodes"] = {"items": []}
    assert says(
        check("pods"),
        "missing",
        "No node has the label alchemist/device=gpu",
        "kubectl label node NODE alchemist/device=gpu",
    )


def test_a_node_without_the_devices_that_pods_ask_for_is_named(in_cluster: None, check: Check, site: Site) -> None:
    site.answers["/api/v1/nodes"] = {"items": [{"status": {"allocatable": {"cpu": "8"}}}]}
    assert says(
        check("pods"), "missing", "No node with the label alchemist/device=gpu has 1 nvidia.com/gpu", "device plugin"
    )


def test_what_the_service_account_may_not_read_is_a_warning(in_cluster: None, check: Check, site: Site) -> None:
    site.answers["/api/v1/nodes"] = 403
    code, (one,) = check("pods")
    assert (code, one["state"]) == (0, "warn")
    assert "403" in one["what"]


def test_a_missing_pod_template_is_named(in_cluster: None, check: Check, site: Site) -> None:
    del site.answers[TEMPLATE]
    assert says(check("pods"), "missing", "no PodTemplate alchemist-device-job in namespace ml", "kubectl apply -k")


def test_outside_of_a_cluster_the_pods_cannot_be_checked(
    installed: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALCHEMIST_JOB_RUNNER", "kubernetes")
    code, (one,) = check("pods")
    assert (code, one["state"]) == (5, "missing")
    assert "no service account of Kubernetes" in one["what"]
