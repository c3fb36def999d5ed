"""The supervisor of the local stack: keeps Postgres and Airflow's processes running until it is stopped.

A separate program (`python -m alchemist_core.local.supervisor HOME`), started by `stack`. It restarts a child that ended:
at once the first time, then after growing pauses. It kills a child without a heartbeat for a minute; while a child starts,
for five minutes, because a busy machine needs them. After each such kill it waits twice as long, since the machine may be too
busy for the child. Before it restarts a scheduler, it kills the remaining processes of the
old one's session (workers, task runners). Jobs have their own sessions and continue: the retried task finds them by their
lease.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alchemist_core.errors import AlchemistError
from alchemist_core.local.airflow_client import AirflowClient
from alchemist_core.local.airflow_environment import PROGRAMS, STACK_VARIABLE, build_environment, stack_mark
from alchemist_core.local.processes import (
    ChildState,
    Ending,
    Ports,
    StackState,
    end,
    find_marked,
    find_session,
    hold_lock,
    identify,
    read_state,
    send,
    supervisor_lock,
    this_installation,
    write_state,
)
from alchemist_core.log_files import MIB, rotate
from alchemist_core.resources import resource
from alchemist_core.settings import load_settings
from alchemist_core.store.postgres import EmbeddedPostgres, is_running, server_dir, start_postgres
from alchemist_core.telemetry import configure_logging, say

RULES = resource("infra", "prometheus")
KEPT_FOR = "90d"


def is_installed() -> bool:
    """Return whether the program prometheus is installed."""
    return shutil.which("prometheus") is not None


def prometheus_command(home: Path, ports: Ports) -> list[str]:
    """Write Prometheus's configuration and return its command line."""
    folder = home / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    config = (RULES / "prometheus.yml").read_text().replace("127.0.0.1:9477", f"127.0.0.1:{ports.metrics}")
    for name in ("recording.yml", "alerts.yml"):
        config = config.replace(f"- {name}", f"- {RULES / name}")
    path = folder / "prometheus.yml"
    path.write_text(config)
    return [
        str(shutil.which("prometheus")), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={KEPT_FOR}", f"--web.listen-address=127.0.0.1:{ports.prometheus}",
    ]  # fmt: skip


# --skip-serve-logs: no log server is needed, because every process can read the log files on this machine.
COMMANDS: dict[str, tuple[str, ...]] = {
    "api-server": ("airflow", "api-server", "--host", "127.0.0.1"),
    "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
    "dag-processor": ("airflow", "dag-processor"),
    "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    "metrics": ("alchemist", "serve-metrics", "--port"),  # the port is appended
    **({"prometheus": ()} if is_installed() else {}),  # prometheus_command returns the whole command
}
POLL_S = 0.5
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
STEADY_AFTER_S = 60.0
GRACE_S = 8.0
LOOK_EVERY_S = 10.0
HUNG_AFTER_S = 60.0
# Until its first heartbeat.
START_WITHIN_S = 300.0
MOST_PATIENCE = 16


@dataclass(slots=True)
class Child:
    """A supervised process, and when it may be restarted."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    last_healthy_at: float = 0.0
    was_healthy: bool = False
    patience: int = 1
    """How many times as long as usual it may be without a heartbeat."""
    killed_for: str | None = None
    """Why the supervisor killed it, if it did."""
    delay_s: float = FIRST_DELAY_S
    n_restarts: int = -1
    log_path: Path | None = None
    ending: Ending | None = None

    def start(self, command: list[str], environment: dict[str, str], log_path: Path) -> None:
        """Start the process in a session of its own, and append its output to a log file."""
        with log_path.open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, env=environment, start_new_session=True, **options)  # type: ignore[call-overload]  # options are plain
        self.started_at = self.last_healthy_at = time.monotonic()
        self.was_healthy, self.log_path = False, log_path
        self.n_restarts += 1

    def has_ended(self) -> bool:
        """Return whether the process has ended; if so, report how, and set the time of its restart."""
        if self.process is None or (code := self.process.poll()) is None:
            return False
        send(find_session(self.process.pid), signal.SIGKILL)
        was_steady = time.monotonic() - self.started_at > STEADY_AFTER_S
        self.delay_s = FIRST_DELAY_S if was_steady else min(2 * self.delay_s, LONGEST_DELAY_S)
        self.ending = next_ending(self.ending, self.killed_for or describe_exit(code))
        self.killed_for = None
        say(
            f"{self.name} (pid {self.process.pid}) {self.ending.how}; its log: {self.log_path}. Restarting it in {self.delay_s:.1f} s; "
            f"restarts since the supervisor started, with this one: {self.ending.n}."
        )
        self.due_at, self.process = time.monotonic() + self.delay_s, None
        return True

    def judge(self, health: dict[str, str]) -> None:
        """Kill the process if its component had no heartbeat for too long, for example a scheduler that hangs."""
        now, limit_s = time.monotonic(), self.patience * (HUNG_AFTER_S if self.was_healthy else START_WITHIN_S)
        # Nothing is known of a component while Airflow's API does not answer.
        found = health.get(self.name.replace("-", "_"))
        if self.process is None or found in (None, "healthy"):
            self.last_healthy_at, self.was_healthy = now, self.was_healthy or found == "healthy"
        elif now - self.last_healthy_at > limit_s:
            self.killed_for = f"was ended by the supervisor, because it had no heartbeat for {limit_s:.0f} s"
            say(f"Killing {self.name} (pid {self.process.pid}): no heartbeat for {limit_s:.0f} s.")
            self.process.kill()
            self.patience = min(2 * self.patience, MOST_PATIENCE)

    def state(self) -> ChildState | None:
        """Return the entry of the process in stack.json; None if it is not running."""
        found = identify(self.process.pid) if self.process else None
        return ChildState(found.pid, found.birth, self.n_restarts) if found else None


def describe_exit(code: int) -> str:
    """Describe how a process ended, by its exit code as `subprocess` gives it: negative for a signal.

    >>> describe_exit(1), describe_exit(-9), describe_exit(-70)
    ('ended with exit code 1', 'was killed by SIGKILL', 'was killed by signal 70')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def next_ending(before: Ending | None, how: str) -> Ending:
    """Return the ending of a process that ended now."""
    return Ending(how, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", 1 + (before.n if before else 0))


class Supervisor:
    """Supervises one home's processes: `step` restarts those that ended, `stop` stops all."""

    def __init__(self, home: Path, ports: Ports) -> None:
        self._home, self._ports = home, ports
        self._children = [Child(name) for name in COMMANDS]
        self._postgres: EmbeddedPostgres | None = None
        self._ending_of_postgres: Ending | None = None
        # As it is now: another version may be installed while this process runs.
        self._installation = this_installation()
        self._airflow = AirflowClient.of(home, ports.airflow)
        self._looked_at = 0.0
        self._logs = home / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)

    def step(self) -> None:
        """Start every process that is not running, Postgres first, and record changes in stack.json."""
        ended = [child for child in self._children if child.has_ended()]
        changed = bool(ended)
        if self._postgres is None or not is_running(self._home):
            changed |= self._revive_postgres()
        for child in self._children:
            if child.process is None and time.monotonic() >= child.due_at:
                child.start(self._command(child.name), self._environment(), self._logs / f"{child.name}.log")
                changed = True
        if changed:
            self._write()
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._look()

    def stop(self) -> None:
        """Stop all children and the jobs of their tasks. Postgres keeps running: `stack down` stops it."""
        ours = [found for child in self._children if child.process and (found := identify(child.process.pid))]
        end(ours, grace_s=GRACE_S)
        # Workers would first finish their tasks, so they are killed. The next start runs these tasks again.
        for process in ours:
            send(find_session(process.pid), signal.SIGKILL)
        end(find_marked(f"{STACK_VARIABLE}={stack_mark(self._home)}"), grace_s=GRACE_S)
        # The next start refuses to forget the project file.
        write_state(self._home, StackState(ports=self._ports, project=os.environ.get("ALCHEMIST_PROJECT")))

    def _look(self) -> None:
        health = self._airflow.health()
        health["api_server"] = "healthy" if health else "silent"
        for child in self._children:
            child.judge(health)
        rotate_all(self._home, max_bytes=load_settings().log_max_mib * MIB)
        self._looked_at = time.monotonic()

    def _revive_postgres(self) -> bool:
        """Start Postgres; return whether it had ended."""
        before, self._postgres = self._postgres, start_postgres(self._home)
        if before is None:
            return False
        # It is no child of the supervisor, so its exit code is not known.
        self._ending_of_postgres = next_ending(self._ending_of_postgres, "ended")
        say(
            f"postgres ended and was restarted; its log: {server_dir(self._home) / 'log'}. Restarts since the supervisor started, with "
            f"this one: {self._ending_of_postgres.n}."
        )
        if before.port != self._postgres.port:
            # All processes still have the old address, so they are restarted.
            end(
                [found for child in self._children if child.process and (found := identify(child.process.pid))],
                grace_s=GRACE_S,
            )
        return True

    def _command(self, name: str) -> list[str]:
        if name == "prometheus":
            return prometheus_command(self._home, self._ports)
        program, *arguments = COMMANDS[name]
        return [str(PROGRAMS / program), *arguments, *([str(self._ports.metrics)] if name == "metrics" else [])]

    def _environment(self) -> dict[str, str]:
        assert self._postgres is not None, "Postgres must be started before any child"
        return stack_environment(self._home, self._ports, self._postgres)

    def _write(self) -> None:
        children = {child.name: state for child in self._children if (state := child.state())}
        programs = tuple(child.name for child in self._children)
        endings = {child.name: child.ending for child in self._children if child.ending}
        endings |= {"postgres": self._ending_of_postgres} if self._ending_of_postgres else {}
        project = os.environ.get("ALCHEMIST_PROJECT")
        whole = StackState(self._ports, os.getpid(), children, programs, project, endings, self._installation)
        write_state(self._home, whole)


def stack_environment(home: Path, ports: Ports, postgres: EmbeddedPostgres) -> dict[str, str]:
    """Return the environment of the stack's processes."""
    given = load_settings().database_url
    # Airflow and its tasks must not change the schema: `up` has migrated the store.
    store_url = given.get_secret_value() if given else postgres.url(role="writer")
    metadata_url = postgres.url("airflow", role="airflow")
    return build_environment(
        home, port=ports.airflow, metadata_url=metadata_url, store_url=store_url, statsd_port=ports.statsd
    )


def main() -> None:
    """Supervise the home given as the only argument until SIGTERM. Forks, so that the caller continues at once."""
    home = Path(sys.argv[1])
    configure_logging(load_settings().log_format)
    if os.fork():
        os._exit(0)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with hold_lock(supervisor_lock(home), should_wait=True):
        ports = read_state(home).ports
        assert ports is not None, "`alchemist stack up` must choose the ports before it starts the supervisor"
        supervisor = Supervisor(home, ports)
        while not stopping.is_set():
            try:
                supervisor.step()
            except (AlchemistError, OSError) as error:
                # A full disk or a port in use may be temporary, so try again.
                say(f"Cannot restart all processes, trying again: {error}")
                stopping.wait(LONGEST_DELAY_S / 10)
            stopping.wait(POLL_S)
        supervisor.stop()


def rotate_all(home: Path, *, max_bytes: int) -> int:
    """Rotate the logs of a home's processes and its Postgres that exceed the size; return their number."""
    logs = [*(home / "logs").glob("*.log"), server_dir(home) / "log"]
    return sum(rotate(path, max_bytes=max_bytes) for path in logs if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
