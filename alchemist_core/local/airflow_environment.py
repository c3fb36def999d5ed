"""The environment of the local Airflow: every option is a variable, so that there is no configuration file to edit.

This module computes options, secrets and ports. It starts no process and never imports Airflow.
"""

import base64
import importlib.util
import json
import os
import secrets
import site
import sys
import sysconfig
from pathlib import Path

from alchemist_core.errors import ConfigError
from alchemist_core.resources import resource
from alchemist_core.settings import find_project_file, load_settings
from alchemist_core.store.postgres import path_key, write_secret

AIRFLOW_PORT = 8080
METRICS_PORT = 9477
PROMETHEUS_PORT = 9090
STATSD_PORT = 8125
USERNAME = "admin"
STACK_VARIABLE = "ALCHEMIST_STACK"


def find_programs() -> Path:
    """Return the folder of this installation's programs: beside Python, or where pip puts them without a virtual environment."""
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    if site.ENABLE_USER_SITE:
        folders.append(Path(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))))
    has_both = (folder for folder in folders if (folder / "airflow").exists() and (folder / "alchemist").exists())
    return next(has_both, folders[0])


PROGRAMS = find_programs()


def dags_folder(home: Path) -> Path:
    """Return Airflow's DAG folder: ALCHEMIST_DAGS, else the one into which `stack up` installed the DAGs, else that of the package."""
    given, installed = load_settings().dags, stack_dags_folder(home)
    return given.resolve() if given else installed if installed.is_dir() else resource("dags")


def stack_dags_folder(home: Path) -> Path:
    """Return the DAG folder of a home's local stack."""
    return airflow_home(home) / "dags"


def airflow_home(home: Path) -> Path:
    """Return the folder of Airflow's secrets and task logs."""
    return home / "airflow"


def task_log_path(logs: Path, *, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> Path:
    """Return the path of the log of one try of one task below Airflow's folder of logs."""
    task = logs / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    mapped = task / f"map_index={map_index}" if map_index >= 0 else task
    return mapped / f"attempt={try_number}.log"


def load_secrets(home: Path) -> dict[str, str]:
    """Return this home's keys and password: random, generated once, readable by their owner only."""
    path = airflow_home(home) / "secrets.json"
    if not path.exists():
        keys = {name: secrets.token_urlsafe(64) for name in ("api_secret", "jwt_secret", "password", "stack")}
        keys["fernet_key"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path, json.dumps(keys))
    found: dict[str, str] = json.loads(path.read_text())
    _ensure_passwords(passwords_path(home), found["password"])
    return found


def load_passwords(home: Path) -> dict[str, str]:
    """Return the passwords of the users by their names."""
    load_secrets(home)
    found: dict[str, str] = json.loads(passwords_path(home).read_text())
    return found


def _ensure_passwords(path: Path, of_admin: str) -> None:
    """Give each user of the settings a password: otherwise Airflow generates one and prints it into its log."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {USERNAME: of_admin}
    names = [user.partition(":")[0] for user in load_settings().airflow_users.split(",")]
    if not path.exists() or set(names) - known.keys():
        write_secret(path, json.dumps({name: secrets.token_urlsafe(24) for name in names} | known))


def stack_mark(home: Path) -> str:
    """Return the value of the variable that marks a home's processes. A copy of the home has another value."""
    return f"{load_secrets(home)['stack']}-{path_key(home.resolve())}"


def passwords_path(home: Path) -> Path:
    """Return the file with the passwords of the users, in Airflow's format."""
    return airflow_home(home) / "passwords.json"


def build_environment(
    home: Path, *, port: int, metadata_url: str, store_url: str, statsd_port: int | None = None
) -> dict[str, str]:
    """Return the environment of Airflow's processes, which the commands of its tasks inherit.

    Args:
        home: Absolute path of this installation.
        port: Loopback port of the web page and the API.
        metadata_url: libpq URL of Airflow's own database.
        store_url: URL of the store that the tasks use.
        statsd_port: UDP port on which the exporter receives Airflow's metrics. None: Airflow sends no metrics.
    """
    # Remove the Airflow variables of the calling shell: they may belong to another installation.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    keys = load_secrets(home)
    ours = {
        "PATH": f"{PROGRAMS}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "ALCHEMIST_HOME": str(home),
        "ALCHEMIST_DATABASE_URL": store_url,
        "ALCHEMIST_AIRFLOW_URL": f"http://127.0.0.1:{port}",
        **project_variable(),
        STACK_VARIABLE: stack_mark(home),
        # Unbuffered, so that a job's lines appear in its log at once.
        "PYTHONUNBUFFERED": "1",
        "AIRFLOW_HOME": str(airflow_home(home)),
    }
    options = _options(home, f"http://127.0.0.1:{port}", keys)
    options["DATABASE__SQL_ALCHEMY_CONN"] = metadata_url.replace("postgresql://", "postgresql+psycopg2://", 1)
    options["API__PORT"] = str(port)
    # Airflow hides the URL of its database from tasks. The task that deletes old history reads it from this variable.
    ours["ALCHEMIST_AIRFLOW_DATABASE_URL"] = options["DATABASE__SQL_ALCHEMY_CONN"]
    if statsd_port is not None and importlib.util.find_spec("statsd") is not None:
        ours["ALCHEMIST_STATSD_PORT"] = str(statsd_port)
        options |= {
            "METRICS__STATSD_ON": "True",
            "METRICS__STATSD_HOST": "127.0.0.1",
            "METRICS__STATSD_PORT": str(statsd_port),
        }
        options["METRICS__STATSD_INFLUXDB_ENABLED"] = "True"
        # Names that contain those of DAGs and tasks; the tags have them too.
        options["METRICS__LEGACY_NAMES_ON"] = "False"
    return {**inherited, **ours, **{f"AIRFLOW__{name}": value for name, value in options.items()}}


def project_variable() -> dict[str, str]:
    """Return the variable that names the project file: tasks run in other working directories, from which it would not be found."""
    try:
        project = find_project_file()
    except ConfigError:
        # The file is gone: the variable of this process is kept, so that tasks report it and the processes still start.
        return {}
    return {} if project is None else {"ALCHEMIST_PROJECT": str(project)}


def _options(home: Path, base_url: str, keys: dict[str, str]) -> dict[str, str]:
    return {
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__DAGS_FOLDER": str(dags_folder(home)),
        "CORE__PLUGINS_FOLDER": str(airflow_home(home) / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__PARALLELISM": str(max(4, os.cpu_count() or 1)),
        "CORE__FERNET_KEY": keys["fernet_key"],
        "CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": load_settings().airflow_users,
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_path(home)),
        # Retries and owner of every task. The retried command of a task whose worker died finds the job that still runs.
        "CORE__DEFAULT_TASK_RETRIES": "2",
        "CORE__DEFAULT_TASK_RETRY_DELAY": "5",
        "OPERATORS__DEFAULT_OWNER": "alchemist",
        # Only multi-team setups need the asynchronous connection, which needs a second driver.
        "DATABASE__SQL_ALCHEMY_CONN_ASYNC": "",
        "API__HOST": "127.0.0.1",
        "API__BASE_URL": base_url,
        "API__SECRET_KEY": keys["api_secret"],
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": keys["jwt_secret"],
        "LOGGING__COLORED_CONSOLE_LOG": "False",
        # A task waits two minutes for an API server that is busy or restarts; by Airflow's defaults it fails before its command starts.
        "WORKERS__EXECUTION_API_RETRIES": "40",
        "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        "WORKERS__EXECUTION_API_TIMEOUT": "20",
        # Longer than a silent API server takes to be restarted: the commands of tasks that count as dead are stopped.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
        # Short periods, so that a dead scheduler is noticed within seconds; the tasks that it leaves are reset by the look for orphans.
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "SCHEDULER__JOB_HEARTBEAT_SEC": "2",
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "12",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
    }
