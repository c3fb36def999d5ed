"""The local stack without Docker: embedded Postgres and Airflow, started, looked at and stopped by one command each.

Everything listens on loopback. Airflow is a set of programs here, never an import. Knows nothing of our stages.
"""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.local.airflow_environment import (
    STACK_VARIABLE,
    USERNAME,
    airflow_home,
    build_environment,
    choose_port,
    dags_folder,
    load_secrets,
    passwords_path,
)
from alchemist_core.local.postgres import EmbeddedPostgres, is_running, start_postgres, stop_postgres
from alchemist_core.local.processes import end, find_marked, find_session, identify, is_alive, send
from alchemist_core.local.stack_state import (
    StackState,
    command_lock,
    hold_lock,
    is_supervised,
    read_state,
    write_state,
)
from alchemist_core.local.supervisor import AIRFLOW, COMMANDS
from alchemist_core.telemetry import ProgressLine

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What runs of a home's stack; `processes` maps each name to its pid, or to nothing when it is down."""

    home: Path
    is_supervised: bool
    is_reused: bool
    is_postgres_running: bool
    url: str | None
    processes: dict[str, int | None]
    n_restarts: int
    import_errors: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether every process of the stack runs."""
        return self.is_supervised and self.is_postgres_running and all(self.processes.values())

    def describe(self) -> str:
        """Return the page for a person: address, login, processes."""
        if not self.is_supervised:
            postgres = "Postgres runs" if self.is_postgres_running else "Postgres is down"
            return f"The stack of {self.home} is down ({postgres}). Start it: alchemist up"
        reused = " (it was running already)" if self.is_reused else ""
        lines = [f"Airflow: {self.url}{reused}", f"Login: {USERNAME}, password in {passwords_path(self.home)}"]
        lines += [
            f"  {name}: {f'pid {pid}' if pid else 'down, about to start'}" for name, pid in self.processes.items()
        ]
        lines += [f"  postgres: {'runs' if self.is_postgres_running else 'down, about to start'}"]
        lines += [f"Restarted processes: {self.n_restarts}"] if self.n_restarts else []
        return "\n".join([*lines, *(f"A DAG file that Airflow cannot import: {error}" for error in self.import_errors)])


def up(home: Path) -> StackStatus:
    """Start the stack and wait until Airflow schedules; a running one is reused.

    Raises:
        MissingDependencyError: Airflow is not installed beside this command.
        AirflowError: it does not come up; the text names the log to read.
    """
    home = home.resolve()
    _check_installed()
    with hold_lock(command_lock(home), should_wait=True), ProgressLine("stack") as line:
        is_reused = is_supervised(home)
        if not is_reused:
            line.show(0, 3, "Postgres")
            _end_leftovers(home)
            port = choose_port(read_state(home).port)
            _migrate(home, start_postgres(home), port)
            write_state(home, StackState(port=port))
            line.show(1, 3, "Airflow")
            _start_supervisor(home)
        line.show(2, 3, "scheduler")
        _wait_until_healthy(home)
        client(home).ensure_pool("gpu", n_slots=_count_devices(), description="One slot a device; 1 on a CPU")
        line.show(3, 3, "ready")
    return _status(home, is_reused=is_reused)


def down(home: Path) -> StackStatus:
    """Stop what `up` started, running jobs included, then Postgres; a second call changes nothing."""
    home = home.resolve()
    with hold_lock(command_lock(home), should_wait=True):
        state = read_state(home)
        supervisor = identify(state.supervisor_pid) if state.supervisor_pid else None
        if supervisor is not None and is_supervised(home):
            send([supervisor], signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while is_alive(supervisor) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        _end_leftovers(home)
        stop_postgres(home)
    return status(home)


def status(home: Path) -> StackStatus:
    """Tell what runs; starts nothing."""
    return _status(home.resolve(), is_reused=False)


def logs(home: Path, name: str, *, n_lines: int = 100) -> str:
    """Return the end of one process's log.

    Raises:
        ConfigError: there is no such log; the text lists those that exist.
    """
    folder = home.resolve() / "logs"
    path = folder / f"{name}.log"
    if path not in set(folder.glob("*.log")):
        known = ", ".join(sorted(found.stem for found in folder.glob("*.log"))) or "none yet: start with `alchemist up`"
        msg = f"no log named {name!r} in {folder}; there are: {known}"
        raise ConfigError(msg)
    return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])


def client(home: Path) -> AirflowClient:
    """Return a client of this home's Airflow."""
    port = read_state(home.resolve()).port
    if port is None:
        msg = f"there is no Airflow in {home.resolve()}: start it with `alchemist up`"
        raise AirflowError(msg)
    return AirflowClient(f"http://127.0.0.1:{port}", USERNAME, load_secrets(home.resolve())["password"], home.resolve())


def _check_installed() -> None:
    if not AIRFLOW.exists():
        msg = f"Airflow is not installed beside {sys.executable}: pip install 'alchemist-platform[airflow]', or `make setup`"
        raise MissingDependencyError(msg)
    if not dags_folder().is_dir():
        msg = f"the folder {dags_folder()} is missing: set ALCHEMIST_DAGS, or install from a clone (pip install --editable)"
        raise MissingDependencyError(msg)


def _migrate(home: Path, postgres: EmbeddedPostgres, port: int) -> None:
    """Bring Airflow's own database up to date, unless a stamp beside its data says that it is."""
    stamp = postgres.data_dir.parent / "airflow-version"
    current = _airflow_version()
    if stamp.exists() and stamp.read_text() == current:
        return
    url = postgres.create_database("airflow")
    environment = build_environment(home, port=port, metadata_url=url, store_url=postgres.url())
    command = [str(AIRFLOW), "db", "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"`airflow db migrate` failed with exit code {done.returncode}. Its end:\n{(done.stdout + done.stderr)[-3000:]}"
        raise AirflowError(msg)
    stamp.write_text(current)


def _airflow_version() -> str:
    try:
        return version("apache-airflow")
    except PackageNotFoundError:
        return "unknown"


def _start_supervisor(home: Path) -> None:
    (home / "logs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alchemist_core.local.supervisor", str(home)]
    with (home / "logs" / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=home, start_new_session=True
        )


def _wait_until_healthy(home: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    wanted = {"metadatabase", "scheduler", "dag_processor", "triggerer"}
    while time.monotonic() < deadline:
        health = client(home).health()
        runs = set(read_state(home).children) == set(COMMANDS)
        if runs and all(health.get(name) == "healthy" for name in wanted):
            return
        time.sleep(POLL_S)
    msg = f"Airflow is not healthy after {START_TIMEOUT_S:.0f} s ({health}); read the logs in {home / 'logs'}"
    raise AirflowError(msg)


def _end_leftovers(home: Path) -> None:
    """End what a killed supervisor left behind: recorded children with their sessions, and marked jobs."""
    for child in read_state(home).children.values():
        if is_alive(child.identity):
            end([child.identity], grace_s=5)
        send(find_session(child.pid), signal.SIGKILL)
    if airflow_home(home).exists():
        end(find_marked(f"{STACK_VARIABLE}={load_secrets(home)['stack']}"), grace_s=5)


def _status(home: Path, *, is_reused: bool) -> StackStatus:
    state, supervised = read_state(home), is_supervised(home)
    alive = {name: child for name, child in state.children.items() if is_alive(child.identity)}
    return StackStatus(
        home=home,
        is_supervised=supervised,
        is_reused=is_reused,
        is_postgres_running=is_running(home),
        url=f"http://127.0.0.1:{state.port}" if state.port and supervised else None,
        processes={name: alive[name].pid if name in alive else None for name in COMMANDS},
        n_restarts=sum(child.n_restarts for child in state.children.values()),
        import_errors=tuple(client(home).import_errors()) if supervised and "api-server" in alive else (),
    )


def _count_devices() -> int:
    """Return how many GPUs this machine has, asked of the driver's own tool; 1 without one: the CPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 1
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return max(1, len([line for line in done.stdout.splitlines() if line.startswith("GPU ")]))
