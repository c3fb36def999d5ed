"""The local stack without Docker: start, inspect and stop embedded Postgres and Airflow.

All servers listen on loopback. Airflow runs as separate programs and is never imported.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.local.airflow_environment import (
    AIRFLOW_PORT,
    METRICS_PORT,
    PROGRAMS,
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
    ChildState,
    Ending,
    Ports,
    StackCommand,
    StackState,
    age_s,
    end,
    find_marked,
    find_session,
    hold_command_lock,
    identify,
    is_alive,
    is_supervised,
    read_command,
    read_state,
    send,
    write_state,
)
from alchemist_core.local.supervisor import COMMANDS, START_WITHIN_S, stack_environment
from alchemist_core.ports import PORTS, reserve_port
from alchemist_core.settings import absolute_variables, find_project_file, load_settings
from alchemist_core.store.engine import check_schema, database_url, head_revision, migrate
from alchemist_core.store.postgres import EmbeddedPostgres, is_running, server_dir, start_postgres, stop_postgres
from alchemist_core.telemetry import ProgressLine, say, warn


@dataclass(frozen=True, slots=True)
class StackStatus:
    """State of a home's stack. `processes` maps each name to its pid, or to None if it does not run."""

    home: Path
    is_supervised: bool
    is_reused: bool
    is_postgres_running: bool
    url: str | None
    metrics_url: str | None
    processes: dict[str, int | None]
    import_errors: tuple[str, ...] = ()
    prometheus_url: str | None = None
    not_started: tuple[str, ...] = ()
    """Programs that were installed after the stack was started."""
    command: StackCommand | None = None
    """The command that starts or stops the stack now."""
    waits: Mapping[str, str] = field(default_factory=dict)
    """What a process that is starting waits for, or what is wrong with one that runs, by its name."""
    endings: Mapping[str, Ending] = field(default_factory=dict)
    """Processes that the supervisor had to restart, by their names."""

    @property
    def is_running(self) -> bool:
        """Whether every process of the stack runs."""
        return self.is_supervised and self.is_postgres_running and all(self.processes.values())

    def describe(self) -> str:
        """Return the address, the login and the processes as text."""
        postgres = "Postgres is running" if self.is_postgres_running else "Postgres is down"
        if not self.is_supervised and self.command is None:
            return f"The stack of {self.home} is down ({postgres}). To start it: alchemist stack up"
        lines = [] if self.command is None else [_describe_command(self.home, self.command)]
        if self.is_supervised:
            reused = " (was already running)" if self.is_reused else ""
            lines += [f"Airflow: {self.url}{reused}", f"Login: {USERNAME}, password in {passwords_path(self.home)}"]
            lines += [f"Metrics: {self.metrics_url}"]
            lines += [f"Prometheus: {self.prometheus_url}"] if self.prometheus_url else []
        lines += [self._describe_process(name, f"pid {pid}" if pid else "") for name, pid in self.processes.items()]
        lines += [self._describe_process("postgres", "running" if self.is_postgres_running else "")]
        lines += [
            f"  {name}: installed after the stack was started. To start it: alchemist stack down, then alchemist stack up"
            for name in self.not_started
        ]
        return "\n".join([*lines, *(f"Airflow cannot import a DAG file: {error}" for error in self.import_errors)])

    def _describe_process(self, name: str, running: str) -> str:
        """Return a line for one process: whether it runs, what it waits for, and how often it was restarted."""
        is_stopping = self.command is not None and self.command.verb == "down"
        absent = "down, restarting" if self.is_supervised and not is_stopping else "down"
        state = ", ".join(filter(None, [running, self.waits.get(name)])) or absent
        ending = self.endings.get(name)
        if ending is None:
            return f"  {name}: {state}"
        times = "once" if ending.n == 1 else f"{ending.n} times"
        log = _log_of(self.home, name)
        return f"  {name}: {state}; restarted {times}, last because it {ending.how} at {ending.at} UTC; log: {log}"


def _describe_command(home: Path, command: StackCommand) -> str:
    what = "being stopped" if command.verb == "down" else "starting"
    return f"The stack of {home} is {what}: alchemist stack {command.verb} (pid {command.pid}) waits for {command.waits_for}."


def _log_of(home: Path, name: str) -> Path:
    return server_dir(home) / "log" if name == "postgres" else home / "logs" / f"{name}.log"


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
    keep = f" To use that file here too: export ALCHEMIST_PROJECT={shlex.quote(started_with)}." if started_with else ""
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
    known = {path.stem: path for path in folder.glob("*.log")}
    # Another user may read the other logs only.
    if os.access(of_postgres := _log_of(home, "postgres"), os.R_OK):
        known["postgres"] = of_postgres
    if name not in known:
        names = ", ".join(sorted(known)) or "none; start the stack: alchemist stack up"
        raise ConfigError(f"There is no log {name!r} in {folder}. Logs: {names}.")
    return "\n".join(known[name].read_text(errors="replace").splitlines()[-n_lines:])


def client(home: Path) -> AirflowClient:
    """Return a client of this home's Airflow."""
    ports = read_state(home.resolve()).ports
    if ports is None:
        msg = f"There is no Airflow in {home.resolve()}. Start it: alchemist stack up."
        raise AirflowError(msg)
    return AirflowClient.of(home.resolve(), ports.airflow)


def look(home: Path, *, is_reused: bool) -> StackStatus:
    """Return the status. `is_reused` is true if the caller found the stack running."""
    state, supervised, command = read_state(home), is_supervised(home), read_command(home)
    alive = {name: child for name, child in state.children.items() if is_alive(child.identity)}
    has_postgres = is_running(home)
    health = client(home).health() if supervised and "api-server" in alive else {}
    programs = state.programs or tuple(COMMANDS)
    is_stopping = command is not None and command.verb == "down"
    waits = {} if is_stopping else {name: _waits_for(name, child, health) for name, child in alive.items()}
    if not state.programs and (supervised if command is None else command.verb == "up"):
        first = command.waits_for if command and not supervised else "the supervisor"
        waits = dict.fromkeys(programs, f"not started yet: waits for {first if has_postgres else 'Postgres'}")
    return StackStatus(
        home=home,
        is_supervised=supervised,
        is_reused=is_reused,
        is_postgres_running=has_postgres,
        url=f"http://127.0.0.1:{state.ports.airflow}" if state.ports and supervised else None,
        metrics_url=f"http://127.0.0.1:{state.ports.metrics}/metrics" if state.ports and supervised else None,
        prometheus_url=f"http://127.0.0.1:{state.ports.prometheus}"
        if state.ports and state.ports.prometheus and "prometheus" in alive
        else None,
        processes={name: alive[name].pid if name in alive else None for name in programs},
        not_started=tuple(name for name in COMMANDS if state.programs and name not in state.programs),
        # Without an answer of Airflow the question would wait for a minute.
        import_errors=tuple(client(home).import_errors()) if health else (),
        command=command,
        waits={name: found for name, found in waits.items() if found},
        endings=state.endings if supervised else {},
    )


def _waits_for(name: str, child: ChildState, health: Mapping[str, str]) -> str | None:
    """Return what a process that runs waits for until it works, or what is wrong with it; None if it works, or if that is not known."""
    is_young = age_s(child.identity) < START_WITHIN_S
    if name == "api-server" and not health:
        return "starting: it does not answer yet" if is_young else "it does not answer"
    if name not in BEATING:
        return None
    if not health:
        return "starting: its heartbeat is known when api-server answers" if is_young else None
    if health.get(name.replace("-", "_")) == "healthy":
        return None
    return "starting: no heartbeat yet" if is_young else "no heartbeat"


__all__ = ["StackStatus", "bring_store", "client", "down", "logs", "status", "up"]

PREFERRED_PORTS = {
    "airflow": AIRFLOW_PORT,
    "metrics": METRICS_PORT,
    "statsd": STATSD_PORT,
    "prometheus": PROMETHEUS_PORT,
}
# A little longer than the supervisor waits for a process that starts.
START_TIMEOUT_S = 330.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5
BEATING = ("scheduler", "dag-processor", "triggerer")
"""Processes whose heartbeat Airflow shows."""


def up(home: Path) -> StackStatus:
    """Start the stack and wait until Airflow schedules tasks. A running stack is reused.

    Raises:
        MissingDependencyError: Airflow is not installed beside this command.
        AirflowError: It does not start. The message names the log to read.
    """
    home = home.resolve()
    _check_installed(home)
    with hold_command_lock(home, "up") as note, ProgressLine("stack") as line:

        def show(done: int, waits_for: str) -> None:
            line.show(done, 3, waits_for)
            note(waits_for)

        is_reused = is_supervised(home)
        if not is_reused:
            show(0, "Postgres")
            _end_leftovers(home)
            bring_store(home)
            with _reserve_ports(read_state(home).ports) as (ports, holders):
                show(1, "Airflow's database")
                _migrate_airflow(home, start_postgres(home), ports.airflow)
                write_state(home, StackState(ports=ports, project=read_state(home).project))
                show(1, "the supervisor")
                _start_supervisor(home, holders)
        _wait_until_healthy(home, lambda waits_for: show(2, waits_for))
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
    with hold_command_lock(home, "down") as note:
        note("the processes to end")
        state = read_state(home)
        supervisor = identify(state.supervisor_pid) if state.supervisor_pid else None
        if supervisor is not None and is_supervised(home):
            send([supervisor], signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while is_alive(supervisor) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        _end_leftovers(home)
        note("Postgres to end")
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
        raise MissingDependencyError(
            f"Airflow is not installed for {sys.executable}: {PROGRAMS / 'airflow'} does not exist. Install it beside Alchemist, best in "
            "a virtual environment: pip install 'alchemist-platform[airflow]'."
        )


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
    """Start the supervisor. It inherits the reservations of the ports, because its programs are restarted as long as it runs.

    Raises:
        AirflowError: It does not start.
    """
    (home / "logs").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alchemist_core.local.supervisor", str(home)]
    with (home / "logs" / "supervisor.log").open("ab") as log:
        # The supervisor works in the home, from which relative paths, and the project file of the caller's folder, would not be found.
        options = {
            "stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True,
            "env": os.environ | absolute_variables() | project_variable(),
        }  # fmt: skip
        inherited = [holder.fileno() for holder in reservations]
        try:
            subprocess.run(command, check=True, cwd=home, pass_fds=inherited, **options)  # type: ignore[call-overload]  # options are plain
        except subprocess.CalledProcessError as error:
            raise AirflowError(
                f"The supervisor of the stack ended with exit code {error.returncode}. Its log has the reason: {log.name}. Then run "
                "alchemist stack up again."
            ) from None


def _wait_until_healthy(home: Path, on_wait: Callable[[str], None]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    wanted, seen, waits_for = (
        {"metadatabase", *(name.replace("-", "_") for name in BEATING)},
        read_state(home).endings,
        "",
    )
    while time.monotonic() < deadline:
        health = client(home).health()
        state = read_state(home)
        _say_endings(home, before=seen, now=state.endings)
        seen = state.endings
        missing = sorted(set(state.programs or COMMANDS) - set(state.children))
        unhealthy = sorted(name for name in wanted if health.get(name) != "healthy")
        if not missing and not unhealthy:
            return
        now = ", ".join(missing) or ("api-server" if not health else ", ".join(unhealthy).replace("_", "-"))
        if now != waits_for:
            on_wait(now)
            waits_for = now
        time.sleep(POLL_S)
    # An Airflow that is not ours may answer on the port. Then our own processes do not keep running.
    why = f"not running: {', '.join(missing)}" if missing else f"it waits for {waits_for}"
    raise AirflowError(
        f"The stack is not ready after {START_TIMEOUT_S:.0f} s ({why}). On a busy machine it may need longer: run alchemist stack up "
        f"again, which waits for it. Otherwise read the logs in {home / 'logs'}, then run alchemist stack down and alchemist stack up."
    )


def _say_endings(home: Path, *, before: Mapping[str, Ending], now: Mapping[str, Ending]) -> None:
    """Report each process that the supervisor restarts while the stack starts."""
    for name, ending in now.items():
        if before.get(name) != ending:
            warn(
                f"{name} {ending.how} while it started, and is restarted (restart {ending.n}). Log: {_log_of(home, name)}"
            )


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
