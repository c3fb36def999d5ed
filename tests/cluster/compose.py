"""`infra/compose.yaml` under podman: start, stop, kill, and run commands in its containers.

Docker's compose drives podman through its socket: podman-compose 1.3 waits for no condition of `depends_on` in the background.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alchemist_core.local.airflow_client import AirflowClient

from .stand_ins import ENVIRONMENT, podman

ROOT = Path(__file__).parents[2]
# Of this process, so that two runs on one machine do not meet.
PROJECT = f"alchemist-test-{os.getpid()}"
# Grafana has no stand-in.
SERVICES = (
    "postgres", "objects", "migrate", "accounts", "airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
    "exporter", "prometheus", "alertmanager",
)  # fmt: skip
ONE_OFF = ("migrate", "accounts")
# The port that each service publishes. Tests publish free ones instead, because other programs of a machine may hold these.
PORTS = {
    "postgres": 5432, "airflow-api": 8080, "exporter": 9477, "prometheus": 9090, "alertmanager": 9093, "objects": 8333,
}  # fmt: skip
START_S = 900.0


class Compose:
    """One installation: its secrets, its project file and its containers. Another checkout, and other images, can be put in its place.

    `port` has the port that each service publishes; an installation that is put in the place of another one takes the other's.
    """

    def __init__(
        self,
        folder: Path,
        project_file: Path,
        *,
        checkout: Path = ROOT,
        registry: str = "",
        port: dict[str, int] | None = None,
    ) -> None:
        self.secrets = folder / "secrets"
        self.checkout = checkout
        self.port = port or free_ports()
        self.published = folder / "ports.yaml"
        lines = [f'  {name}: {{ports: !override ["127.0.0.1:{self.port[name]}:{PORTS[name]}"]}}' for name in PORTS]
        self.published.write_text("\n".join(["services:", *lines, ""]))
        subprocess.run(["bash", checkout / "infra" / "secrets.sh", self.secrets], check=True, capture_output=True)
        self._environment = ENVIRONMENT | {
            "SECRETS": str(self.secrets), "PROJECT_FILE": str(project_file), "POSTGRES_SHARED_BUFFERS": "256MB",
            "DOCKER_HOST": f"unix://{folder}/podman.sock", "IMAGE_REGISTRY": registry,
        }  # fmt: skip

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve podman's socket, and run the health checks, which systemd's timers do elsewhere."""
        command = ["podman", "system", "service", "--time=0", self._environment["DOCKER_HOST"]]
        with subprocess.Popen(command, env=ENVIRONMENT) as server, health_checks():
            try:
                yield
            finally:
                server.terminate()

    def __call__(self, *words: str) -> None:
        """Run a command of compose."""
        files = ("-f", str(self.checkout / "infra" / "compose.yaml"), "-f", str(self.published))
        command = ["docker-compose", "-p", PROJECT, *files, *words]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=START_S
        )
        assert done.returncode == 0, f"docker-compose {' '.join(words)}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

    def url(self, service: str) -> str:
        """Return the address at which a service is published."""
        return f"http://127.0.0.1:{self.port[service]}"

    def up(self) -> None:
        """Start every service, and wait until Airflow and the exporter answer."""
        self("up", "--detach", "--no-build", "--pull=never", *SERVICES)
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Wait until every part of Airflow is healthy and the exporter answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                health = get_json(f"{self.url('airflow-api')}/api/v2/monitor/health")
                parts = {
                    name: health[name]["status"] for name in ("metadatabase", "scheduler", "triggerer", "dag_processor")
                }
                if set(parts.values()) == {"healthy"} and b"alchemist_" in get(f"{self.url('exporter')}/metrics"):
                    return
            time.sleep(3)
        raise AssertionError(f"not healthy after {START_S:.0f} s:\n{self.processes()}\n{self.logs('airflow-api')}")

    def processes(self) -> str:
        """Return `podman ps` of this installation."""
        return podman("ps", "--all", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format",
                      "table {{.Names}} {{.Image}} {{.Status}} {{.Ports}}")  # fmt: skip

    def logs(self, service: str) -> str:
        """Return the end of a service's log."""
        done = subprocess.run(
            ["podman", "logs", "--tail=40", container(service)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    def run(self, service: str, *words: str, stdin: str = "") -> str:
        """Run a command in a service's container and return what it prints."""
        return podman("exec", "--interactive", container(service), *words, stdin=stdin.encode())

    def query(self, sql: str) -> list[list[str]]:
        """Return the rows of a query, as text."""
        lines = self.run("postgres", "psql", "-U", "alchemist", "-d", "alchemist", "-AtF", "\t", "-c", sql).splitlines()
        return [line.split("\t") for line in lines]

    def kill(self, service: str) -> None:
        """Kill the first process of a container, as the kernel does when memory runs out, and wait until the engine has restarted it."""
        before = inspect(service)
        os.kill(int(before["State"]["Pid"]), signal.SIGKILL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            state = inspect(service)["State"]
            if state["Running"] and state["Pid"] != before["State"]["Pid"]:
                return
            time.sleep(1)
        raise AssertionError(f"{service} was not restarted:\n{self.processes()}")

    def client(self, username: str, password: str) -> AirflowClient:
        """Return a session of one of Airflow's users."""
        return AirflowClient(self.url("airflow-api"), username, password, self.secrets)

    def password(self, name: str) -> str:
        """Return the content of a secret."""
        return (self.secrets / name).read_text().strip()


@contextlib.contextmanager
def health_checks() -> Iterator[None]:
    """Run the health checks of all containers every few seconds, as systemd's timers do where there is systemd."""
    ended = threading.Event()

    def check() -> None:
        n_rounds = 0
        while not ended.wait(3):
            n_rounds += 1
            listed = podman(
                "ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format", "{{.Names}}\t{{.Status}}"
            )
            for name, status in (line.split("\t") for line in listed.splitlines()):
                # Containers that are healthy are asked every half a minute: a check costs more processor here than what it checks.
                if "(healthy)" not in status or n_rounds % 10 == 0:
                    subprocess.run(
                        ["podman", "healthcheck", "run", name], env=ENVIRONMENT, capture_output=True, check=False
                    )

    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def free_ports() -> dict[str, int]:
    """Return a free port for each service that publishes one."""
    with contextlib.ExitStack() as held:
        sockets = {name: held.enter_context(socket.create_server(("127.0.0.1", 0))) for name in PORTS}
        return {name: one.getsockname()[1] for name, one in sockets.items()}


def container(service: str) -> str:
    """Return the name of a service's container."""
    return f"{PROJECT}-{service}-1"


def inspect(service: str) -> dict[str, Any]:
    """Return what the engine knows of a service's container."""
    (found,) = json.loads(podman("inspect", container(service)))
    assert isinstance(found, dict)
    return found


def get(url: str) -> bytes:
    """Return a page."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        content: bytes = answer.read()
        return content


def get_json(url: str) -> dict[str, Any]:
    """Return a page of JSON."""
    found: dict[str, Any] = json.loads(get(url))
    return found
