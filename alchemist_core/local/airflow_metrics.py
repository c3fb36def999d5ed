"""Airflow's own metrics: its statsd datagrams, converted to the metrics of our catalogue.

Airflow sends `airflow.NAME,tag=value:NUMBER|KIND`. Metrics that no panel or alert uses are ignored. Counters start with this process.
"""

import re
import socket
import threading
from dataclasses import dataclass, field

from alchemist_core.telemetry import Measurements

LINE = re.compile(
    r"airflow\.(?P<name>[\w.]+)(?P<tags>(?:,[^:,=]+=[^:,]*)*):(?P<value>-?\d{1,20}(?:\.\d*)?)\|(?P<kind>\w+)"
)
LONGEST_DATAGRAM = 65_535
MAX_DAGS = 12
"""Largest number of DAGs in labels; our package has five. Metrics of further DAGs are ignored."""
RUN = "dagrun.duration."
POOL = "pool."
POOL_SLOTS = {"open_slots": "open", "queued_slots": "queued", "running_slots": "running"}

Key = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class AirflowMetrics:
    """The current values. `receive` is called by a thread for every datagram, `read` returns the values."""

    _values: dict[Key, float] = field(default_factory=dict)
    _dags: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, datagram: bytes) -> None:
        """Process one datagram. Lines that are not statsd, and metrics that no panel or alert uses, are ignored.

        >>> metrics = AirflowMetrics()
        >>> metrics.receive(b"airflow.dagrun.duration.success,dag_id=nightly_rescore,run_type=manual:2500.0|ms")
        >>> metrics.read()["alchemist_airflow_run_seconds"]
        [(('nightly_rescore', 'success'), 2.5)]
        """
        for line in datagram.decode("utf-8", "replace").splitlines():
            found = LINE.fullmatch(line.strip())
            if found is not None:
                tags = dict(part.split("=", 1) for part in found["tags"].split(",")[1:])
                with self._lock:
                    self._keep(found["name"], tags, float(found["value"]))

    def expect_heartbeats(self) -> None:
        """Export the heartbeat counter from 0, so that alerts fire for a scheduler that never sent a heartbeat."""
        with self._lock:
            self._values.setdefault(("alchemist_airflow_heartbeats_total", ()), 0.0)

    def read(self) -> Measurements:
        """Return the labels and value of every series, by metric name."""
        with self._lock:
            found: Measurements = {}
            for (name, labels), value in sorted(self._values.items()):
                found.setdefault(name, []).append((labels, value))
            return found

    def _keep(self, name: str, tags: dict[str, str], value: float) -> None:
        if name == "scheduler_heartbeat":
            self._add("alchemist_airflow_heartbeats_total", (), value)
        elif name == "dag_processing.import_errors":
            self._values["alchemist_airflow_import_errors", ()] = value
        elif name.startswith(POOL) and tags.get("pool_name") == "gpu":
            outcome = POOL_SLOTS.get(name.removeprefix(POOL))
            if outcome is not None:
                self._values["alchemist_airflow_pool_slots", (outcome,)] = value
        elif name.startswith(RUN) and self._is_bounded(tags.get("dag_id", "")):
            labels = (tags["dag_id"], name.removeprefix(RUN))
            self._values["alchemist_airflow_run_seconds", labels] = value / 1000  # statsd's timers are milliseconds
            self._add("alchemist_airflow_runs_total", labels, 1.0)

    def _add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self._values[name, labels] = self._values.get((name, labels), 0.0) + value

    def _is_bounded(self, dag_id: str) -> bool:
        if dag_id and len(self._dags) < MAX_DAGS:
            self._dags.add(dag_id)
        return dag_id in self._dags


def listen(metrics: AirflowMetrics, address: str, port: int) -> threading.Thread:
    """Receive Airflow's metrics on a UDP port until the process ends."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, port))
    metrics.expect_heartbeats()

    def work() -> None:
        while True:
            metrics.receive(listener.recv(LONGEST_DATAGRAM))

    thread = threading.Thread(target=work, daemon=True, name="statsd")
    thread.start()
    return thread
