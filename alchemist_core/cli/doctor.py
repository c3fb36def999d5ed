"""Check what this installation needs before a night runs, and name what is missing with the remedy.

Serves the local stack, containers and Kubernetes: it looks at the home, at the environment of the process in which it runs, and at
Airflow's own database. It starts and changes nothing.
"""

import json
import os
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import Field

from alchemist_core.cli.cluster import find_missing_objects
from alchemist_core.cli.dags import PACKAGE, differing_files, shipped_dags
from alchemist_core.cli.docs import has_documentation
from alchemist_core.cli.effective import check_project
from alchemist_core.cli.weights import WeightsListConfig
from alchemist_core.config import Command, Config, Result, Words
from alchemist_core.errors import AlchemistError, CheckFailedError, ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.local.airflow_environment import airflow_home, dags_folder, passwords_path
from alchemist_core.local.machine import look_at_machine
from alchemist_core.local.processes import (
    OTHER_INSTALLATION_REMEDY,
    Ports,
    describe_other_installation,
    forgotten_project,
    is_supervised,
    read_state,
)
from alchemist_core.models.published.catalogue import NETWORKS
from alchemist_core.notifications import docs_address, receivers
from alchemist_core.preset_figures import FIGURES
from alchemist_core.presets import PRESETS
from alchemist_core.project import load_project
from alchemist_core.settings import find_project_file, load_settings
from alchemist_core.shards.s3 import has_objects
from alchemist_core.shards.storage import is_s3
from alchemist_core.stages.networks import why_missing
from alchemist_core.store.airflow import AirflowTables, read_airflow
from alchemist_core.store.engine import (
    can_write,
    check_schema,
    database_url,
    head_revision,
    make_engine,
    read_clock,
    require_postgres,
)
from alchemist_core.store.postgres import has_server, is_running, start_postgres
from alchemist_core.store.registry import list_datasets

State = Literal["ok", "warn", "missing"]
TIMEOUT_S = 5.0
POOL, QUEUES = "gpu", ("light", "device")
POD_TEMPLATE = "alchemist-device-job"
"""Default of ALCHEMIST_POD_TEMPLATE in the DAGs."""
MOST_SKEW_S = {"warn": 2.0, "missing": 10.0}
"""Difference of clocks. Airflow refuses the token of a task whose machine is more than 10 s ahead."""
LEAST_FREE_GIB = 5.0
COMPONENTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
SECRETS = ("CORE__FERNET_KEY", "API__SECRET_KEY", "API_AUTH__JWT_SECRET")
"""Options that all processes of Airflow must share; a process without one makes up its own."""


class Finding(Result):
    """One thing that was checked."""

    part: str
    state: State
    what: str
    remedy: str | None = None


class DoctorResult(Result):
    """What was checked, in the order of the parts."""

    findings: list[Finding]
    n_missing: int
    n_warnings: int

    @property
    def exit_code(self) -> int:
        """Code 5 if something is missing."""
        return CheckFailedError.exit_code if self.n_missing else 0

    def summary(self) -> str:
        """Return a table: state, part, what was found, and below it the remedy."""
        width = max((len(one.part) for one in self.findings), default=0)
        lines = []
        for one in self.findings:
            lines.append(f"{one.state:<7}  {one.part:<{width}}  {one.what}")
            if one.remedy:
                lines.append(f"{'':<7}  {'':<{width}}  → {one.remedy}")
        return "\n".join([*lines, f"{self.n_missing} missing, {self.n_warnings} warnings"])


def ok(part: str, what: str) -> Finding:
    """Return a part that is as it must be."""
    return Finding(part=part, state="ok", what=what)


def warn(part: str, what: str, remedy: str | None = None) -> Finding:
    """Return a part with which the installation works, but not as a user would expect."""
    return Finding(part=part, state="warn", what=what, remedy=remedy)


def missing(part: str, what: str, remedy: str | None = None) -> Finding:
    """Return a part without which nights do not run."""
    return Finding(part=part, state="missing", what=what, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the parts of this installation are."""

    home: Path
    ports: Ports | None
    """The ports of the local stack; None where `alchemist stack up` was never run."""
    environment: Mapping[str, str]

    @property
    def is_local(self) -> bool:
        """Whether Airflow is the one of `alchemist stack up`."""
        return self.ports is not None and "AIRFLOW__CORE__EXECUTOR" not in self.environment

    @property
    def has_airflow(self) -> bool:
        """Whether anything here names an Airflow."""
        return self.api is not None or self.database is not None

    @property
    def api(self) -> str | None:
        """Address of Airflow's API server: the one to which tasks report, because links may lead through a proxy."""
        if self.is_local and self.ports is not None:
            return f"http://127.0.0.1:{self.ports.airflow}"
        execution = self.environment.get("AIRFLOW__CORE__EXECUTION_API_SERVER_URL")
        if execution:
            return execution.rstrip("/").removesuffix("/execution")
        given = load_settings().airflow_url
        return given.rstrip("/") if given else None

    @property
    def database(self) -> str | None:
        """URL of Airflow's own database; None if it is not known here, or if the embedded server does not run."""
        if self.is_local:
            running = is_running(self.home)
            return start_postgres(self.home).url("airflow", role="airflow") if running else None
        given = load_settings().airflow_database_url
        if given is not None:
            return require_postgres(given.get_secret_value(), "ALCHEMIST_AIRFLOW_DATABASE_URL")
        url = self.environment.get(variable := "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
        return None if url is None else require_postgres(url, variable)

    @property
    def executor(self) -> str | None:
        """Airflow's executor; None if it is not known here."""
        return "LocalExecutor" if self.is_local else self.environment.get("AIRFLOW__CORE__EXECUTOR")

    @property
    def dags(self) -> Path:
        """The DAG folder of Airflow."""
        given = self.environment.get("AIRFLOW__CORE__DAGS_FOLDER")
        return Path(given) if given and not self.is_local else dags_folder(self.home)

    @property
    def has_pods(self) -> bool:
        """Whether tasks that use a device run in pods."""
        return self.environment.get("ALCHEMIST_JOB_RUNNER") == "kubernetes"


def check_project_file(site: Site) -> Iterator[Finding]:
    """The project file is valid."""
    if used := forgotten_project(site.home):
        what = f"There is no project file here or in a folder above, and the stack of this home uses {used}."
        yield warn("project", what, f"export ALCHEMIST_PROJECT={shlex.quote(used)}")
        return
    if find_project_file() is None:
        yield warn("project", "There is no project file, so every value is its default.", "alchemist init")
        return
    check_project(load_project())
    yield ok("project", f"{load_project().path} is valid.")


def check_store(site: Site) -> Iterator[Finding]:
    """The store answers, has this code's schema, and may be written."""
    if load_settings().database_url is None and not is_running(site.home):
        has_one = has_server(site.home)
        what = f"The store's Postgres in {site.home} does not run." if has_one else f"There is no store in {site.home}."
        lost = "" if has_one else "; if there was one, restore a backup (alchemist db restore FOLDER)"
        yield missing("store", what, f"alchemist stack up, or set ALCHEMIST_DATABASE_URL{lost}")
        return
    url = database_url()
    check_schema(url)
    if can_write(url):
        yield ok("store", f"Postgres answers, and the schema is at revision {head_revision()}.")
    else:
        remedy = "Give the URL of the writer, postgresql://alchemist_writer:PASSWORD@HOST/NAME."
        yield missing("store", "The user of ALCHEMIST_DATABASE_URL may not write, so no stage can run.", remedy)


def check_clock(site: Site) -> Iterator[Finding]:
    """The clock of this machine agrees with that of the database."""
    if not _store_answers(site):
        yield warn("clock", "Not compared, because the store does not answer.")
        return
    engine = make_engine(database_url())
    with engine.connect() as connection:
        before, there, after = time.time(), read_clock(connection).timestamp(), time.time()
    engine.dispose()
    # The answer was given between both times.
    skew_s = max(before - there, there - after, 0.0)
    state = next((name for name in ("missing", "warn") if skew_s > MOST_SKEW_S[name]), "ok")
    what = f"The clock of this machine and that of the database differ by {skew_s:.1f} s."
    remedy = "Synchronise both clocks, for example with chrony." if state != "ok" else None
    yield Finding(part="clock", state=state, what=what, remedy=remedy)


def check_home(site: Site) -> Iterator[Finding]:
    """The home can be written, and has space."""
    if not site.home.is_dir():
        remedy = "alchemist stack up; in containers: mount the volume there, or set ALCHEMIST_HOME"
        yield missing("home", f"{site.home} is not a folder.", remedy)
        return
    try:
        with tempfile.TemporaryFile(dir=site.home):
            pass
    except OSError as error:
        remedy = f"Let user {os.geteuid()} write there (in Kubernetes: fsGroup of the pod, ReadWriteMany volume)."
        yield missing("home", f"{site.home} cannot be written: {error.strerror}.", remedy)
        return
    free_gib = shutil.disk_usage(site.home).free / 2**30
    what = f"{site.home} can be written, {free_gib:,.0f} GiB free."
    if free_gib < LEAST_FREE_GIB:
        yield warn("home", what, "Free space, or use a larger volume.")
    else:
        yield ok("home", what)


def check_secrets(site: Site) -> Iterator[Finding]:
    """Secrets that all of Airflow's processes share are given; files with passwords are private."""
    if site.is_local:
        files = [airflow_home(site.home) / "secrets.json", passwords_path(site.home)]
        loose = [path for path in files if path.exists() and path.stat().st_mode & 0o077]
        if loose:
            names = shlex.join(map(str, loose))
            yield missing("secrets", f"Other users can read {names}.", f"chmod 600 {names}")
        else:
            yield ok("secrets", "The files with passwords are readable by their owner only.")
        return
    if site.executor is None:
        return
    absent = [name for name in SECRETS if not any(site.environment.get(f"AIRFLOW__{name}{way}") for way in _WAYS)]
    if absent:
        names = ", ".join(f"AIRFLOW__{name}" for name in absent)
        remedy = "Give every process of Airflow the same value, or name a file by the variable with _CMD or _SECRET."
        yield missing("secrets", f"{names} is not set, so each process would make up its own.", remedy)
    else:
        yield ok("secrets", "Airflow's shared secrets are set.")


_WAYS = ("", "_CMD", "_SECRET")


def check_notifications(_site: Site) -> Iterator[Finding]:
    """Notifications have a receiver, and their links and those of alerts lead to documentation."""
    names = [name for name, _ in receivers()]
    if names:
        yield ok("notify", f"Failures and questions are sent to {len(names)} receivers.")
    else:
        yield warn(
            "notify", "There is no receiver: failures and questions are only stored.", "Set ALCHEMIST_NOTIFY_URL."
        )
    docs = docs_address()
    # Names that end so are reserved, so that no site can be published there.
    if (urllib.parse.urlsplit(docs).hostname or "").endswith(".example"):
        what = f"Links of alerts and notifications lead to {docs}, a placeholder that opens nothing."
        remedy = "Publish the folder of the file that alchemist docs --path prints; set ALCHEMIST_DOCS_URL. Here: alchemist docs runbook"
        if not has_documentation():
            remedy = "In a checkout, run make docs; publish the folder dist/docs, and set ALCHEMIST_DOCS_URL."
        yield warn("notify", what, remedy)


def check_airflow(site: Site) -> Iterator[Finding]:
    """Airflow's API server answers, and its components have heartbeats."""
    if not site.has_airflow:
        yield warn("airflow", "No Airflow is set up here, so nights start by hand.", "alchemist stack up")
        return
    if site.api is None:
        yield warn("airflow", "The address of Airflow is not known here.", "Set ALCHEMIST_AIRFLOW_URL.")
        return
    if site.is_local and not is_supervised(site.home):
        yield missing("airflow", "The local stack does not run.", "alchemist stack up")
        return
    if site.is_local and (other := describe_other_installation(site.home)):
        yield missing("airflow", other, OTHER_INSTALLATION_REMEDY)
    try:
        health = json.loads(_get(f"{site.api}/api/v2/monitor/health"))
    except (OSError, ValueError) as error:
        yield missing("airflow", f"{site.api} does not answer: {_reason(error)}.", _start(site, "api-server"))
        return
    states = {name: (health.get(name) or {}).get("status") for name in COMPONENTS}
    for name in (name for name, state in states.items() if state != "healthy"):
        remedy = _start(site, name.replace("_", "-"))
        yield missing("airflow", f"Airflow's {name.replace('_', ' ')} has no heartbeat ({states[name]}).", remedy)
    if set(states.values()) == {"healthy"}:
        yield ok("airflow", f"{site.api} answers; scheduler, DAG processor and triggerer are healthy.")


def check_pool(site: Site) -> Iterator[Finding]:
    """The pool of device tasks exists, with slots; remote logs have their connection."""
    tables = _tables(site)
    if tables is None:
        yield from _without_tables(site, "pool")
        return
    pool = tables.pools.get(POOL)
    n_slots = pool.n_slots if pool else 0
    command = f"airflow pools set --include-deferred {POOL} {n_slots or 1} 'One slot per device'"
    remedy = "alchemist stack up" if site.is_local else command
    if pool is None:
        yield missing("pool", f"Airflow has no pool {POOL}, so it never starts tasks that use a device.", remedy)
    elif n_slots == 0:
        yield missing("pool", f"Airflow's pool {POOL} has no slots, so tasks that use a device never start.", remedy)
    elif site.has_pods and not pool.counts_deferred:
        what = f"Airflow's pool {POOL} does not count deferred tasks, so it does not limit how many pods use devices."
        yield missing("pool", what, remedy)
    else:
        yield ok("pool", f"Airflow's pool {POOL} has {n_slots} slot{'s' * (n_slots != 1)}.")
    logs = site.environment.get("AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID")
    if logs and logs not in tables.connections and f"AIRFLOW_CONN_{logs.upper()}" not in site.environment:
        remedy = f"airflow connections add {logs} --conn-type aws, or set AIRFLOW_CONN_{logs.upper()}"
        yield missing("logs", f"Airflow has no connection {logs!r}, which task logs need.", remedy)


def check_dags(site: Site) -> Iterator[Finding]:
    """The DAGs of this version are installed, loaded, and not paused."""
    if not site.has_airflow:
        return
    faults = [*_look_at_dag_files(site), *_look_at_loaded_dags(site)]
    yield from faults
    if not faults:
        yield ok("dags", f"The {len(shipped_dags())} DAGs of this version are installed in {site.dags}.")


def _look_at_dag_files(site: Site) -> Iterator[Finding]:
    folder = site.dags / PACKAGE
    remedy = "alchemist stack up" if site.is_local else f"alchemist dags install --to {shlex.quote(str(site.dags))}"
    if site.is_local and (used := forgotten_project(site.home)):
        # Installing again would take the stack's forms and schedules away.
        remedy = f"export ALCHEMIST_PROJECT={shlex.quote(used)}"
    if not folder.is_dir():
        yield missing("dags", f"{folder} is not a folder: the DAGs are not installed.", remedy)
    elif differing := differing_files(folder):
        what = f"{folder} differs from this version and its project file: {', '.join(differing)}."
        yield missing("dags", what, remedy)


def _look_at_loaded_dags(site: Site) -> Iterator[Finding]:
    tables = _tables(site)
    if tables is None:
        yield from _without_tables(site, "dags")
        return
    airflow = "alchemist stack airflow" if site.is_local else "airflow"
    for error in tables.import_errors:
        yield missing("dags", f"Airflow cannot import a DAG file: {error}", f"{airflow} dags list-import-errors")
    for name in sorted(shipped_dags() - {dag.dag_id for dag in tables.dags}):
        remedy = f"Wait for the DAG processor, or compare its DAG folder: {airflow} config get-value core dags_folder"
        yield missing("dags", f"Airflow has not loaded {name}.", remedy)
    for dag in (dag for dag in tables.dags if dag.is_paused):
        find = missing if dag.is_scheduled else warn
        yield find("dags", f"{dag.dag_id} is paused, so its runs do not start.", f"{airflow} dags unpause {dag.dag_id}")


def check_executor(site: Site) -> Iterator[Finding]:
    """The executor has workers for both queues."""
    executor = site.executor
    if not site.has_airflow:
        return
    if executor is None:
        what = "The executor is not known here, so its workers are not checked."
        yield warn("executor", what, "Run alchemist doctor in a container of Airflow.")
    elif "Celery" in executor:
        yield from _check_celery(site)
    else:
        yield ok("executor", f"{executor.rpartition('.')[2]} needs no workers of its own.")


def _check_celery(site: Site) -> Iterator[Finding]:
    broker = site.environment.get("AIRFLOW__CELERY__BROKER_URL")
    if not broker:
        remedy = "Set AIRFLOW__CELERY__BROKER_URL, such as redis://HOST:6379/0."
        yield missing("executor", "CeleryExecutor has no broker.", remedy)
        return
    try:
        workers = find_workers(broker)
    except OSError as error:
        remedy = "Start the broker, or correct AIRFLOW__CELERY__BROKER_URL."
        yield missing("executor", f"The broker of CeleryExecutor does not answer: {_reason(error)}.", remedy)
        return
    for queue in QUEUES:
        here = sorted(name for name, queues in workers.items() if queue in queues)
        if here:
            yield ok("executor", f"Queue {queue}: {', '.join(here)}.")
        elif queue == "device" and site.has_pods:
            continue
        else:
            remedy = f"airflow celery worker --queues {queue}"
            yield missing("executor", f"No worker takes tasks of queue {queue}, so they never start.", remedy)


def find_workers(broker: str) -> dict[str, set[str]]:
    """Return the queues of each Celery worker that answers, by its name.

    Raises:
        MissingDependencyError: Celery is not installed.
        OSError: The broker does not answer.
    """
    try:
        from celery import Celery  # noqa: PLC0415  an extra
        from kombu.exceptions import OperationalError  # noqa: PLC0415  as above
    except ModuleNotFoundError:
        raise missing_library("celery") from None
    app = Celery(broker=broker, set_as_current=False)
    app.conf.broker_connection_timeout = TIMEOUT_S
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT_S)
            answers = app.control.inspect(timeout=TIMEOUT_S / 2, connection=connection).active_queues() or {}
    except OperationalError as error:
        raise OSError(str(error)) from None
    return {worker: {queue["name"] for queue in queues} for worker, queues in answers.items()}


def check_device(site: Site) -> Iterator[Finding]:
    """This machine has the GPU that the presets of the project file need."""
    if site.has_pods:
        return
    project = load_project()
    chosen = {"train_rater": project.rater.get("preset"), "train_downstream": project.downstream.get("preset")}
    wanted = {stage: str(name) for stage, name in chosen.items() if name in PRESETS and PRESETS[name].gpu != "cpu"}
    if not wanted:
        yield ok("device", "No preset of the project file needs a GPU.")
        return
    machine = look_at_machine()
    for stage, name in wanted.items():
        need = f"preset {name} of {stage.replace('_', '-')} needs {PRESETS[name].hardware}"
        needed_gib = FIGURES[stage][name]["peak_bytes"] / 2**30
        if not machine.gpus and site.executor not in (None, "LocalExecutor"):
            remedy = "Run alchemist doctor on a worker of queue device."
            yield warn("device", f"This machine has no GPU, and {need}.", remedy)
        elif not machine.gpus:
            remedy = "Install the NVIDIA driver (in containers the container toolkit too), or choose preset tiny."
            yield missing("device", f"nvidia-smi lists no GPU, and {need}.", remedy)
        elif machine.gpu_memory_gib < needed_gib or len(machine.gpus) < PRESETS[name].n_gpus:
            yield warn("device", f"{machine.describe()}, and {need}.", "Choose a smaller preset: alchemist presets")
        elif _torch().endswith("+cpu"):
            yield missing(
                "device", f"torch {_torch()} supports no GPU.", "Install torch for CUDA: pytorch.org/get-started"
            )
        else:
            yield ok("device", f"{machine.describe()}; {need}.")


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def check_pods(site: Site) -> Iterator[Finding]:
    """The cluster has the objects and nodes that job pods name."""
    if not site.has_pods:
        return
    template = site.environment.get("ALCHEMIST_POD_TEMPLATE", POD_TEMPLATE)
    found = list(find_missing_objects(template))
    for what, remedy in found:
        yield missing("pods", what, remedy) if remedy else warn("pods", what)
    if not found:
        yield ok("pods", f"The cluster has what PodTemplate {template} names.")


def check_weights(_site: Site) -> Iterator[Finding]:
    """The weights that the project file names are on this machine."""
    needed = [one for one in WeightsListConfig().needed() if one.needed_by]
    for one in needed:
        if reason := why_missing(one):
            remedy = f"{NETWORKS[one.name].source}; to check it: alchemist weights check"
            yield missing("weights", f"{one.name}: {reason}", remedy)
        else:
            yield ok("weights", f"{one.name}: {one.find()}")
    if not needed:
        yield ok("weights", "The project file needs no published weights.")


def check_data(site: Site) -> Iterator[Finding]:
    """The roots of all datasets can be listed."""
    project = load_project()
    roots = {project.locate(own.root): name for name, own in project.datasets.items() if own.root}
    if _store_answers(site):
        engine = make_engine(database_url())
        roots |= {row.root_uri: row.name for row in list_datasets(engine)}
        engine.dispose()
    for root, name in roots.items():
        yield _look_at_root(root, name)
    if not roots:
        what = "No dataset is registered, and the project file names none."
        yield warn("data", what, "alchemist ingest --dataset NAME --root FOLDER")


def _look_at_root(root: str, name: str) -> Finding:
    try:
        is_filled = has_objects(root) if is_s3(root) else _has_entries(root.removeprefix("file://"))
    except AlchemistError as error:
        return missing("data", f"{name}: {error}", "Check bucket, credentials and ALCHEMIST_S3_ENDPOINT_URL.")
    except OSError as error:
        return missing("data", f"{name}: {root} cannot be listed: {error.strerror}.", "Mount it, or correct the root.")
    return ok("data", f"{name}: {root} can be listed.") if is_filled else warn("data", f"{name}: {root} is empty.")


def _has_entries(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(True for _ in entries)


def check_metrics(site: Site) -> Iterator[Finding]:
    """The exporter answers, and Prometheus reads it."""
    settings = load_settings()
    exporter, prometheus = settings.metrics_url, settings.prometheus_url
    if site.is_local and site.ports is not None:
        exporter = exporter or f"http://127.0.0.1:{site.ports.metrics}/metrics"
        if site.ports.prometheus and "prometheus" in read_state(site.home).children:
            prometheus = prometheus or f"http://127.0.0.1:{site.ports.prometheus}"
    if exporter is None:
        yield warn("metrics", "The address of the exporter is not known here.", "Set ALCHEMIST_METRICS_URL.")
    else:
        yield _look_at_exporter(site, exporter)
    if prometheus is None:
        what = "No Prometheus is known here, so no alert fires."
        yield warn("metrics", what, "Install prometheus, or set ALCHEMIST_PROMETHEUS_URL.")
    else:
        yield _look_at_prometheus(prometheus)


def _look_at_exporter(site: Site, url: str) -> Finding:
    try:
        lines = _get(url).splitlines()
    except OSError as error:
        return missing("metrics", f"{url} does not answer: {_reason(error)}.", _start(site, "metrics"))
    if "alchemist_store_up 1.0" in lines:
        return ok("metrics", f"{url} answers.")
    return missing("metrics", f"{url} answers, but the exporter cannot read the store.", "Read the exporter's log.")


def _look_at_prometheus(url: str) -> Finding:
    query = urllib.parse.urlencode({"query": "alchemist_store_up"})
    try:
        answer = json.loads(_get(f"{url.rstrip('/')}/api/v1/query?{query}"))
        series = answer["data"]["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return missing("metrics", f"Prometheus at {url} does not answer: {_reason(error)}.", "Start Prometheus.")
    if series:
        return ok("metrics", f"Prometheus at {url} reads the exporter.")
    remedy = "Add the exporter to scrape_configs: infra/prometheus/prometheus.yml."
    return missing("metrics", f"Prometheus at {url} does not read the exporter.", remedy)


CHECKS: dict[str, Callable[[Site], Iterator[Finding]]] = {
    "project": check_project_file,
    "store": check_store,
    "clock": check_clock,
    "home": check_home,
    "secrets": check_secrets,
    "notify": check_notifications,
    "airflow": check_airflow,
    "pool": check_pool,
    "dags": check_dags,
    "executor": check_executor,
    "device": check_device,
    "pods": check_pods,
    "weights": check_weights,
    "data": check_data,
    "metrics": check_metrics,
}
"""The parts, in the order in which they are checked and listed."""


class DoctorConfig(Config):
    """What to check."""

    parts: Words = Field((), description=f"Parts to check, separated by commas: {', '.join(CHECKS)}; none: all")


def run(config: DoctorConfig) -> DoctorResult:
    """Check what this installation needs, and name what is missing with the remedy.

    Raises:
        ConfigError: There is no such part.
    """
    if unknown := [name for name in config.parts if name not in CHECKS]:
        raise ConfigError(f"--parts {unknown[0]} is not a part. Choose from: {', '.join(CHECKS)}.")
    home = load_settings().home.resolve()
    site = Site(home, read_state(home).ports, os.environ)
    findings = [one for name in config.parts or CHECKS for one in _look(name, site)]
    return DoctorResult(
        findings=findings,
        n_missing=sum(one.state == "missing" for one in findings),
        n_warnings=sum(one.state == "warn" for one in findings),
    )


def _look(part: str, site: Site) -> list[Finding]:
    """Check one part; an error that a user can act on is a finding, so that the other parts are checked too."""
    findings = []
    try:
        for one in CHECKS[part](site):
            findings.append(one)  # noqa: PERF402  what was found before an error is kept
    except AlchemistError as error:
        findings.append(missing(part, str(error)))
    return findings


def _store_answers(site: Site) -> bool:
    if load_settings().database_url is None and not is_running(site.home):
        return False
    try:
        check_schema(database_url())
    except AlchemistError:
        return False
    return True


def _tables(site: Site) -> AirflowTables | None:
    """Return what Airflow's database contains; None if its address is not known here."""
    return None if site.database is None else read_airflow(site.database, sorted(shipped_dags()))


def _without_tables(site: Site, part: str) -> Iterator[Finding]:
    """Report that Airflow's database was not read; nothing where there is no Airflow, or where the stack is down."""
    if site.has_airflow and not site.is_local:
        what = "Not checked, because the address of Airflow's database is not known here."
        yield warn(part, what, "Set ALCHEMIST_AIRFLOW_DATABASE_URL.")


def _start(site: Site, name: str) -> str:
    """Return how to start a process of the installation."""
    if site.is_local:
        return f"alchemist stack logs {name}; to start it: alchemist stack up"
    return "Read its log, and start it." if name == "metrics" else f"Start it: airflow {name}"


def _get(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise OSError(f"{url} is not an http address")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  http, as checked
        text: str = answer.read().decode(errors="replace")
        return text


def _reason(error: Exception) -> str:
    return str(error.reason if isinstance(error, urllib.error.URLError) else error).rstrip(".")


COMMANDS = {"": Command(DoctorConfig, run)}
