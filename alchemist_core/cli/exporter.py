"""Serve Prometheus metrics: a long-lived exporter that reads the database at every scrape and receives Airflow's statsd metrics."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from math import inf
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from zoneinfo import ZoneInfo

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client import Metric as PrometheusMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import Field

from alchemist_core.cli.dags import shipped_dags
from alchemist_core.config import Command, Config
from alchemist_core.local.airflow_metrics import AirflowMetrics, listen
from alchemist_core.local.devices import read_devices
from alchemist_core.notifications import docs_address
from alchemist_core.ports import explain_port
from alchemist_core.project import Project, ScheduleSection, effective_prices, load_project
from alchemist_core.settings import Settings, load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_measurements
from alchemist_core.telemetry import CATALOGUE, ForeignMetric, Measurements, say, warn

NEWEST, INTERVAL = "alchemist_newest_night_timestamp_seconds", "alchemist_night_interval_seconds"


class MetricsConfig(Config):
    """The address and port to listen on."""

    port: int = Field(9477, ge=1024, le=32767, description="TCP port")
    address: str = Field("127.0.0.1", description="IP address to listen on")


class ForeignCollector(Collector):
    """Exports the metrics of another program beside the catalogue, under the names that dashboards made for that program use."""

    def __init__(self, read: Callable[[], list[ForeignMetric]]) -> None:
        self._read = read

    def collect(self) -> Iterator[PrometheusMetric]:
        """Yield each metric without a declared type, because its name does not follow Prometheus's rules for counters."""
        for metric in self._read():
            family = PrometheusMetric(metric.name, "Passed on from Airflow's statsd metrics.", "untyped")
            if metric.is_timer:
                family = PrometheusMetric(
                    metric.name, "Passed on from Airflow's statsd metrics, in seconds.", "summary"
                )
            for labels, value, count in metric.values:
                if metric.is_timer:
                    family.add_sample(f"{metric.name}_sum", labels, value)
                    family.add_sample(f"{metric.name}_count", labels, count)
                else:
                    family.add_sample(metric.name, labels, value)
            yield family


class StoreCollector(Collector):
    """Collects all metrics of the catalogue at a scrape; a metric without values is exported empty.

    If the database does not answer, `alchemist_store_up` is 0, which distinguishes this from a dead exporter.
    """

    def __init__(self, read: Callable[[], Measurements], *others: Callable[[], Measurements]) -> None:
        self._read, self._others = read, others
        self._reading = threading.Lock()
        self._n_reads, self._newest = 0, Measurements()

    def collect(self) -> Iterator[PrometheusMetric]:
        """Yield every metric of the catalogue."""
        measured = self._measure()
        if unknown := measured.keys() - {metric.name for metric in CATALOGUE}:
            raise KeyError(f"not in the catalogue of telemetry.py: {', '.join(sorted(unknown))}")
        for metric in CATALOGUE:
            kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
            family = kind(metric.name, metric.text, labels=metric.labels)
            for labels, value in measured.get(metric.name, []):
                family.add_metric(labels, value)
            yield family

    def _measure(self) -> Measurements:
        n_reads = self._n_reads
        # One scrape reads at a time. Those that waited use what it read: otherwise slow reads would form a queue that only grows.
        with self._reading:
            if self._n_reads == n_reads:
                self._newest = self._read_store()
                self._n_reads += 1
            measured = self._newest
        for read in self._others:
            try:
                measured = measured | read()
            except Exception as error:  # noqa: BLE001  one source, such as the driver of a GPU, must not hide the others
                warn(f"Some metrics are missing, because they cannot be read: {type(error).__name__}: {error}")
        return measured

    def _read_store(self) -> Measurements:
        began, is_up = time.monotonic(), 1.0
        try:
            measured = self._read()
        except Exception as error:  # noqa: BLE001  alchemist_store_up reports any failure
            warn(f"The database does not answer: {type(error).__name__}: {error}")
            measured, is_up = {}, 0.0
        ours = {"alchemist_store_up": is_up, "alchemist_store_read_seconds": time.monotonic() - began}
        return measured | {name: [((), value)] for name, value in ours.items()}


HEALTH_PATH = "/-/healthy"
"""Address for the health checks of containers, at which the store is not read; `alchemist_store_up` reports the store."""


def answer_health(metrics: WSGIApplication) -> WSGIApplication:
    """Return an application that answers health checks, and passes all other requests on."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != HEALTH_PATH:
            return metrics(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"OK\n"]

    return answer


def serve(config: MetricsConfig) -> None:
    """Serve /metrics until stopped.

    Raises:
        ConfigError: A port is in use.
    """
    engine, settings, airflow = open_store(), load_settings(), AirflowMetrics(shipped_dags())
    project, prices = load_project(), effective_prices()
    if settings.statsd_port is not None:
        with explain_port(config.address, settings.statsd_port, "ALCHEMIST_STATSD_PORT=NUMBER"):
            listen(airflow, config.address, settings.statsd_port)

    def read() -> Measurements:
        return with_expectations(read_measurements(engine, prices), project)

    registry = CollectorRegistry()
    registry.register(StoreCollector(read, airflow.read, read_devices, lambda: described(settings)))
    registry.register(ForeignCollector(airflow.passed_on))
    with explain_port(config.address, config.port):
        server, thread = start_http_server(config.port, addr=config.address, registry=registry)
    server.set_app(answer_health(make_wsgi_app(registry)))
    say(f"Metrics on http://{config.address}:{config.port}/metrics (stop: Ctrl-C)")
    thread.join()


def with_expectations(measured: Measurements, project: Project) -> Measurements:
    """Replace the measured interval between crawls by that of the project file, where 0 removes it; then keep one dataset of each label.

    Of datasets that share the label `other`, the one counts whose night is most overdue, as the alert NightlyStale judges it. The alert
    expects that nightly_rescore starts at 02:00 UTC: the newest night is later by as much as it starts after that.
    """
    newest, intervals = dict(measured.get(NEWEST, [])), dict(measured.get(INTERVAL, []))
    for labels in newest:
        days = project.of_dataset(labels[1]).ingest.crawl_interval_days
        if days is not None:
            intervals.pop(labels, None)
            intervals |= {labels: days * 86_400.0} if days else {}

    def due(labels: tuple[str, ...]) -> tuple[float, float]:
        return newest[labels] + 2 * intervals.get(labels, inf), newest[labels]

    kept = {labels[0]: labels for labels in sorted(newest, key=due, reverse=True)}
    return {
        **measured,
        NEWEST: [
            ((label,), newest[labels] + _delay(project.schedule, newest[labels])) for label, labels in kept.items()
        ],
        INTERVAL: [((label,), intervals[labels]) for label, labels in kept.items() if labels in intervals],
    }


def _delay(schedule: ScheduleSection, crawl_date: float) -> float:
    """Return the seconds from 02:00 UTC on the day after a crawl date to the start of its night; 0 if that starts earlier."""
    fields = schedule.nightly.split()
    minute, hour = (int(fields[0]), int(fields[1])) if len(fields) > 1 else (0, 0)  # @daily and none have one field.
    day = datetime.fromtimestamp(crawl_date, UTC) + timedelta(days=1)
    start = day.replace(hour=hour, minute=minute, tzinfo=ZoneInfo(schedule.timezone))
    return max((start - day - timedelta(hours=2)).total_seconds(), 0.0)


def described(settings: Settings) -> Measurements:
    """Return the metrics that alerts need even if the database does not answer."""
    is_listening = float(settings.statsd_port is not None)
    return {"alchemist_docs_info": [((docs_address(),), 1.0)], "alchemist_airflow_listening": [((), is_listening)]}


COMMANDS = {"": Command(MetricsConfig, serve)}
