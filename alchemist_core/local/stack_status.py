"""What runs of the local stack, and what its processes say. Starts and stops nothing."""

from dataclasses import dataclass
from pathlib import Path

from alchemist_core.errors import ConfigError
from alchemist_core.local.airflow_client import AirflowClient, AirflowError
from alchemist_core.local.airflow_environment import USERNAME, passwords_path
from alchemist_core.local.postgres import is_running
from alchemist_core.local.processes import is_alive
from alchemist_core.local.stack_state import is_supervised, read_state
from alchemist_core.local.supervisor import COMMANDS


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What runs of a home's stack; `processes` maps each name to its pid, or to nothing when it is down."""

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
        """Return the page for a person: address, login, processes."""
        if not self.is_supervised:
            postgres = "Postgres runs" if self.is_postgres_running else "Postgres is down"
            return f"The stack of {self.home} is down ({postgres}). Start it: alchemist up"
        reused = " (it was running already)" if self.is_reused else ""
        lines = [f"Airflow: {self.url}{reused}", f"Login: {USERNAME}, password in {passwords_path(self.home)}"]
        lines += [f"Metrics: {self.metrics_url}"]
        lines += [f"Prometheus: {self.prometheus_url}"] if self.prometheus_url else []
        lines += [
            f"  {name}: {f'pid {pid}' if pid else 'down, about to start'}" for name, pid in self.processes.items()
        ]
        lines += [f"  postgres: {'runs' if self.is_postgres_running else 'down, about to start'}"]
        lines += [
            f"  {name}: installed after the stack was started; alchemist down and alchemist up start it"
            for name in self.not_started
        ]
        lines += [f"Restarted processes: {self.n_restarts}"] if self.n_restarts else []
        return "\n".join([*lines, *(f"A DAG file that Airflow cannot import: {error}" for error in self.import_errors)])


def status(home: Path) -> StackStatus:
    """Tell what runs; starts nothing."""
    return look(home.resolve(), is_reused=False)


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
    ports = read_state(home.resolve()).ports
    if ports is None:
        msg = f"there is no Airflow in {home.resolve()}: start it with `alchemist up`"
        raise AirflowError(msg)
    return AirflowClient.of(home.resolve(), ports.airflow)


def look(home: Path, *, is_reused: bool) -> StackStatus:
    """Return the status; `is_reused` says that the caller found the stack running."""
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
