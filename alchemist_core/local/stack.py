"""The local stack without Docker: start, inspect and stop embedded Postgres and Airflow.

All servers listen on loopback. Airflow runs as separate programs and is never imported.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.local.airflow_environment import (
    AIRFLOW_PORT,
    METRICS_PORT,
    PROMETHEUS_PORT,
    STACK_VARIABLE,
    STATSD_PORT,
    USERNAME,
    airflow_home,
    build_environment,
    dags_folder,
    passwords_path,
    project_variable,
    stack_mark,
)
from alchemist_core.local.machine import look_at_machine
from alchemist_core.local.processes import (
    Ports,
    StackState,
    command_lock,
    end,
    find_marked,
    find_session,
    hold_lock,
    identify,
    is_alive,
    is_supervised,
    read_state,
    send,
    write_state,
)
from alchemist_core.local.supervisor import COMMANDS, PROGRAMS, stack_environment
from alchemist_core.ports import PORTS, reserve_port
from alchemist_core.settings import find_project_file, load_settings
from alchemist_core.store.engine import check_schema, database_url, head_revision, migrate
from alchemist_core.store.postgres import EmbeddedPostgres, is_running, start_postgres, stop_postgres
from alchemist_core.telemetry import ProgressLine, say


@dataclass(frozen=True, slots=True)
class StackStatus:
    """State of a home's stack. `processes` maps each name to its pid, or to None if it is down."""

    home: Path
    is_supervised: bool
    is_reused: bool
    is_postgres_running: bool
    url: str | None
    metrics_url: str | None
    processes: dict[str, int | None]
    n_restarts: int
    import_errors: tuple[str, ...] = ()
    prometheus_url: str | None = None
    not_started: tuple[str, ...] = ()
    """Programs that were installed after the stack was started."""

    @property
    def is_running(self) -> bool:
        """Whether every process of the stack runs."""
        return self.is_supervised and self.is_postgres_running and all(self.processes.values())

    def describe(self) -> str:
        """Return the address, the login and the processes as text."""
        if not self.is_supervised:
            postgres = "Postgres is running" if self.is_postgres_running else "Postgres is down"
            return f"The stack of {self.home} is down ({postgres}). To start it: alchemist stack up"
        reused = " (was already running)" if self.is_reused else ""
        lines = [f"Airflow: {self.url}{reused}", f"Login: {USERNAME}, password in {passwords_path(self.home)}"]
        lines += [f"Metrics: {self.metrics_url}"]
        lines += [f"Prometheus: {self.prometheus_url}"] if self.prometheus_url else []
        lines += [f"  {name}: {f'pid {pid}' if pid else 'down, restarting'}" for name, pid in self.processes.items()]
        lines += [f"  postgres: {'running' if self.is_postgres_running else 'down, restarting'}"]
        lines += [
            f"  {name}: installed after the stack was started. To start it: alchemist stack down, then alchemist stack up"
            for name in self.not_started
        ]
        lines += [f"Restarted processes: {self.n_restarts}"] if self.n_restarts else []
        return "\n".join([*lines, *(f"Airflow cannot import a DAG file: {error}" for error in self.import_errors)])


def status(home: Path) -> StackStatus:
    """Return the status. Starts nothing."""
    return look(home.resolve(), is_reused=False)


def describe_other_project(home: Path) -> str | None:
    """Return what to do if the running stack was started with another project file than the present one; None if not."""
    if not is_supervised(home):
        return None
    started_with = read_state(home).project
    try:
        project = find_project_file()
    except ConfigError as error:
        return str(error)
    if started_with == (None if project is None else str(project)):
        return None
    keep = f" To use that file here too: export ALCHEMIST_PROJECT={started_with}." if started_with else ""
    return (
        f"The stack was started with project file {started_with or 'none'}, and here it is {project or 'none'}.{keep} To change what the "
        "stack uses: alchemist stack down, then alchemist stack up."
    )


def logs(home: Path, name: str, *, n_lines: int = 100) -> str:
    """Return the end of one process's log.

    Raises:
        ConfigError: There is no such log. The message lists those that exist.
    """
    folder = home.resolve() / "logs"
    path = folder / f"{name}.log"
    if path not in set(folder.glob("*.log")):
        known = (
            ", ".join(sorted(found.stem for found in folder.glob("*.log")))
            or "none; start the stack: alchemist stack up"
        )
        msg = f"There is no log {name!r} in {folder}. Logs: {known}."
        raise ConfigError(msg)
    return "\n".join(path.read_text(errors="replace").splitlines()[-n_lines:])


def client(home: Path) -> AirflowClient:
    """Return a client of this home's Airflow."""
    ports = read_state(home.resolve()).ports
    if ports is None:
        msg = f"There is no Airflow in {home.resolve()}. Start it: alchemist stack up."
        raise AirflowError(msg)
    return AirflowClient.of(home.resolve(), ports.airflow)


def look(home: Path, *, is_reused: bool) -> StackStatus:
    """Return the status. `is_reused` is true if the caller found the stack running."""
    state, supervised = read_state(home), is_supervised(home)
    alive = {name: child for name, child in state.children.items() if is_alive(child.identity)}
    return StackStatus(
        home=home,
        is_supervised=supervised,
        is_reused=is_reused,
        is_postgres_running=is_running(home),
        url=f"http://127.0.0.1:{state.ports.airflow}" if state.ports and supervised else None,
        metrics_url=f"http://127.0.0.1:{state.ports.metrics}/metrics" if state.ports and supervised else None,
        prometheus_url=f"http://127.0.0.1:{state.ports.prometheus}"
        if state.ports and state.ports.prometheus and "prometheus" in alive
        else None,
        processes={name: alive[name].pid if name in alive else None for name in state.programs or COMMANDS},
        not_started=tuple(name for name in COMMANDS if state.programs and name not in state.programs),
        n_restarts=sum(child.n_restarts for child in state.children.values()),
        import_errors=tuple(client(home).import_errors()) if supervised and "api-server" in alive else (),
    )


__all__ = ["StackStatus", "bring_store", "client", "down", "logs", "status", "up"]

PREFERRED_PORTS = {
    "airflow": AIRFLOW_PORT,
    "metrics": METRICS_PORT,
    "statsd": STATSD_PORT,
    "prometheus": PROMETHEUS_PORT,
}
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5


def up(home: Path) -> StackStatus:
    """Start the stack and wait until Airflow schedules tasks. A running stack is reused.

    Raises:
        MissingDependencyError: Airflow is not installed beside this command.
        AirflowError: It does not start. The message names the log to read.
    """
    home = home.resolve()
    _check_installed(home)
    with hold_lock(command_lock(home), should_wait=True), ProgressLine("stack") as line:
        is_reused = is_supervised(home)
        if not is_reused:
            line.show(0, 3, "Postgres")
            _end_leftovers(home)
            bring_store(home)
            with _reserve_ports(read_state(home).ports) as (ports, holders):
                _migrate_airflow(home, start_postgres(home), ports.airflow)
                write_state(home, StackState(ports=ports))
                line.show(1, 3, "Airflow")
                _start_supervisor(home, holders)
        line.show(2, 3, "scheduler")
        _wait_until_healthy(home)
        client(home).ensure_pool(
            "gpu",
            n_slots=max(1, len(look_at_machine().gpus), load_settings().score_slots),
            description="One slot per device; 1 on a CPU",
        )
        line.show(3, 3, "ready")
    return look(home, is_reused=is_reused)


def bring_store(home: Path) -> None:
    """Create or migrate the embedded store. A store on a server of the user's own is only checked."""
    settings = load_settings()
    if settings.database_url is not None:
        check_schema(database_url(settings))
    elif migrate(start_postgres(home).url()):
        say(f"The store's schema is now at revision {head_revision()}.")


def down(home: Path) -> StackStatus:
    """Stop everything that `up` started, running jobs too, then Postgres. A second call changes nothing."""
    home = home.resolve()
    if not home.exists():
        return status(home)
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


def airflow_command(home: Path) -> tuple[Path, dict[str, str]]:
    """Return Airflow's program and its environment for this home's stack. Starts Postgres if it is down.

    Raises:
        MissingDependencyError: Airflow is not installed beside this command.
        AirflowError: The stack of this home was never started, so there is no Airflow in it.
    """
    _check_installed(home)
    ports = read_state(home).ports
    if ports is None:
        raise AirflowError(f"There is no Airflow in {home}. Start the stack once: alchemist stack up.")
    return PROGRAMS / "airflow", stack_environment(home, ports, start_postgres(home))


def require_airflow() -> None:
    """Raise if the stack cannot start for want of Airflow.

    Raises:
        MissingDependencyError: Airflow is not installed beside this command.
    """
    if not (PROGRAMS / "airflow").exists():
        msg = f"Airflow is not installed for {sys.executable}. Install it: pip install 'alchemist-platform[airflow]'."
        raise MissingDependencyError(msg)


def _check_installed(home: Path) -> None:
    require_airflow()
    if not dags_folder(home).is_dir():
        raise ConfigError(
            f"ALCHEMIST_DAGS is {dags_folder(home)}, which is not a folder. Set it to a DAG folder, or unset it."
        )


@contextmanager
def _reserve_ports(remembered: Ports | None) -> Iterator[tuple[Ports, list[socket.socket]]]:
    """Choose the stack's ports and reserve them for the block: the previous ones, the preferred ones, or others.

    Yields:
        The ports, and the sockets that reserve them.
    """
    with ExitStack() as reservations:
        ports, holders = {}, []
        for name, preferred in PREFERRED_PORTS.items():
            before = getattr(remembered, name) if remembered else None
            ports[name], holder = reserve_port([*([before] if before else []), preferred, *PORTS])
            holders.append(reservations.enter_context(holder))
        yield Ports(**ports), holders


def _migrate_airflow(home: Path, postgres: EmbeddedPostgres, port: int) -> None:
    """Migrate Airflow's own database, unless a stamp file records that it is up to date."""
    stamp = postgres.data_dir.parent / "airflow-version-and-role"
    current = _airflow_version()
    if stamp.exists() and stamp.read_text() == current:
        return
    url = postgres.create_database("airflow", role="airflow")
    environment = build_environment(home, port=port, metadata_url=url, store_url=postgres.url(role="writer"))
    command = [str(PROGRAMS / "airflow"), "db", "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"`airflow db migrate` failed with exit code {done.returncode}. Last lines:\n{(done.stdout + done.stderr)[-3000:]}"
        raise AirflowError(msg)
    stamp.write_text(current)


def _airflow_version() -> str:
    try:
        return version("apache-airflow")
    except PackageNotFoundError:
        return "unknown"


def _start_supervisor(home: Path, reservations: Sequence[socket.socket]) -> None:
    """Start the supervisor. It inherits the reservations of the ports, because its programs are restarted as long as it runs."""
    (home / "logs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alchemist_core.local.supervisor", str(home)]
    with (home / "logs" / "supervisor.log").open("ab") as log:
        # The supervisor works in the home, from which the project file of the caller's folder would not be found.
        options = {
            "stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True,
            "env": os.environ | project_variable(),
        }  # fmt: skip
        inherited = [holder.fileno() for holder in reservations]
        subprocess.run(command, check=True, cwd=home, pass_fds=inherited, **options)  # type: ignore[call-overload]  # options are plain


def _wait_until_healthy(home: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    wanted = {"metadatabase", "scheduler", "dag_processor", "triggerer"}
    while time.monotonic() < deadline:
        health = client(home).health()
        state = read_state(home)
        missing = sorted(set(state.programs or COMMANDS) - set(state.children))
        if not missing and all(health.get(name) == "healthy" for name in wanted):
            return
        time.sleep(POLL_S)
    # An Airflow that is not ours may answer on the port. Then our own processes do not keep running.
    remedy = f"Read the logs in {home / 'logs'}, then run alchemist stack down and alchemist stack up."
    why = f"not running: {', '.join(missing)}" if missing else f"health: {health}"
    msg = f"The stack did not start within {START_TIMEOUT_S:.0f} s ({why}). {remedy}"
    raise AirflowError(msg)


def _end_leftovers(home: Path) -> None:
    """Stop the processes that a killed supervisor left behind: its children with their sessions, and jobs."""
    if not airflow_home(home).exists():
        return
    children, mark = read_state(home).children.values(), f"{STACK_VARIABLE}={stack_mark(home)}"
    end([child.identity for child in children], grace_s=5.0)
    # After a restart of the machine a recorded pid may belong to an unrelated process.
    ours = set(find_marked(mark))
    for child in children:
        send(ours.intersection(find_session(child.pid)), signal.SIGKILL)
    end(find_marked(mark), grace_s=5.0)
