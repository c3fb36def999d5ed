"""Airflow's own metrics: its statsd datagrams, converted to the metrics of our catalogue, and passed on for dashboards of Airflow.

Airflow sends `airflow.NAME,tag=value:NUMBER|KIND`. Every metric is passed on as `airflow_NAME` with its tags as labels, as a statsd
exporter does, and those that our panels and alerts use also become metrics of the catalogue. Counters start with this process.
"""

import itertools
import re
import socket
import threading
from collections.abc import Set
from dataclasses import dataclass, field

from alchemist_core.telemetry import ForeignMetric, Measurements

LINE = re.compile(
    r"airflow\.(?P<name>[\w.-]+)(?P<tags>(?:,[^:,=]+=[^:,]*)*):(?P<value>-?\d{1,20}(?:\.\d*)?)\|(?P<kind>\w+)"
)
LONGEST_DATAGRAM = 65_535
RUN = "dagrun.duration."
POOL = "pool."
MOST_SERIES = 5_000
"""Largest number of series that are passed on; further ones are ignored."""
ALSO = {
    "dagrun.duration.success": ("dagrun_duration",),
    "dagrun.duration.failed": ("dagrun_failed",),
    "task.duration": ("task_duration", "dag_task_duration"),
    "ti.finish": ("task_finish_total",),
}
"""Other names of the same metric in the Airflow chart's mapping and in Grafana's dashboards for Airflow."""
UNBOUNDED = frozenset({"run_id", "job_id", "pid"})
"""Tags that have a new value for each run."""
POOL_SLOTS = {"open_slots": "open", "queued_slots": "queued", "running_slots": "running", "deferred_slots": "deferred"}

Key = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class AirflowMetrics:
    """The current values. `receive` is called by a thread for every datagram, `read` returns the values.

    Args:
        dags: The DAGs that are labels of the catalogue's metrics; those of other DAGs are only passed on.
    """

    dags: Set[str]
    _values: dict[Key, float] = field(default_factory=dict)
    _passed_on: dict[tuple[str, bool, tuple[tuple[str, str], ...]], tuple[float, float]] = field(default_factory=dict)
    """Sum and count by name, kind and labels."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, datagram: bytes) -> None:
        """Process one datagram. Lines that are not statsd, and metrics that no panel or alert uses, are ignored.

        >>> metrics = AirflowMetrics({"nightly_rescore"})
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
                    self._pass_on(found["name"], tags, float(found["value"]), found["kind"])

    def count_from_zero(self) -> None:
        """Export the counters from 0: alerts fire for a scheduler that never sent a heartbeat, and a DAG's first run is an increase."""
        with self._lock:
            self._values.setdefault(("alchemist_airflow_heartbeats_total", ()), 0.0)
            for labels in itertools.product(self.dags, ("success", "failed")):
                self._values.setdefault(("alchemist_airflow_runs_total", labels), 0.0)

    def read(self) -> Measurements:
        """Return the labels and value of every series, by metric name."""
        with self._lock:
            found: Measurements = {}
            for (name, labels), value in sorted(self._values.items()):
                found.setdefault(name, []).append((labels, value))
            return found

    def passed_on(self) -> list[ForeignMetric]:
        """Return every metric that Airflow sent, by name.

        >>> metrics = AirflowMetrics(set())
        >>> metrics.receive(b"airflow.pool.open_slots,pool_name=gpu:1|g")
        >>> [(metric.name, metric.values) for metric in metrics.passed_on()]
        [('airflow_pool_open_slots', (({'pool': 'gpu', 'pool_name': 'gpu'}, 1.0, 1.0),))]
        """
        with self._lock:
            found: dict[tuple[str, bool], list[tuple[dict[str, str], float, float]]] = {}
            for (name, is_timer, labels), (total, count) in sorted(self._passed_on.items()):
                found.setdefault((name, is_timer), []).append((dict(labels), total, count))
        # A name has one kind; of two kinds the first one is exported.
        unique = {
            name: ForeignMetric(name, is_timer, tuple(values)) for (name, is_timer), values in reversed(found.items())
        }
        return sorted(unique.values(), key=lambda metric: metric.name)

    def _pass_on(self, name: str, tags: dict[str, str], value: float, kind: str) -> None:
        bounded = {re.sub(r"\W", "_", tag): text for tag, text in tags.items() if tag not in UNBOUNDED}
        if "pool_name" in bounded:
            bounded["pool"] = bounded["pool_name"]
        is_timer = kind == "ms"
        for target in (re.sub(r"\W", "_", name), *ALSO.get(name, ())):
            key = (f"airflow_{target}", is_timer, tuple(sorted(bounded.items())))
            if key not in self._passed_on and len(self._passed_on) >= MOST_SERIES:
                return
            total, count = self._passed_on.get(key, (0.0, 0.0))
            change = value / 1000 if is_timer else value  # statsd's timers are milliseconds
            self._passed_on[key] = (change if kind == "g" else total + change, count + 1)

    def _keep(self, name: str, tags: dict[str, str], value: float) -> None:
        if name == "scheduler_heartbeat":
            self._add("alchemist_airflow_heartbeats_total", (), value)
        elif name == "dag_processing.import_errors":
            self._values["alchemist_airflow_import_errors", ()] = value
        elif name.startswith(POOL) and tags.get("pool_name") == "gpu":
            outcome = POOL_SLOTS.get(name.removeprefix(POOL))
            if outcome is not None:
                self._values["alchemist_airflow_pool_slots", (outcome,)] = value
        elif name.startswith(RUN) and tags.get("dag_id") in self.dags:
            labels = (tags["dag_id"], name.removeprefix(RUN))
            self._values["alchemist_airflow_run_seconds", labels] = value / 1000  # statsd's timers are milliseconds
            self._add("alchemist_airflow_runs_total", labels, 1.0)

    def _add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        self._values[name, labels] = self._values.get((name, labels), 0.0) + value


def listen(metrics: AirflowMetrics, address: str, port: int) -> threading.Thread:
    """Receive Airflow's metrics on a UDP port until the process ends."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    metrics.count_from_zero()

    def work() -> None:
        while True:
            metrics.receive(listener.recv(LONGEST_DATAGRAM))

    thread = threading.Thread(target=work, daemon=True, name="statsd")
    thread.start()
    return thread
