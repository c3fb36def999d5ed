"""Serve Prometheus metrics: a long-lived exporter that reads the database at every scrape and receives Airflow's statsd metrics."""

import os
import threading
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from pydantic import Field

from alchemist_core.config import Command, Config
from alchemist_core.local.airflow_metrics import AirflowMetrics, listen
from alchemist_core.local.devices import read_devices
from alchemist_core.notifications import docs_address
from alchemist_core.project import Project, effective_prices, load_project
from alchemist_core.settings import Settings, load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.overviews import read_measurements
from alchemist_core.telemetry import ForeignCollector, Measurements, StoreCollector, say

INTERVAL = "alchemist_night_interval_seconds"


class MetricsConfig(Config):
    """The address and port to listen on."""

    port: int = Field(9477, ge=1024, le=32767, description="TCP port")
    address: str = Field("127.0.0.1", description="IP address to listen on")


def serve(config: MetricsConfig) -> None:
    """Serve /metrics until stopped."""
    engine, settings, airflow = open_store(), load_settings(), AirflowMetrics()
    n_cores, project, prices = len(os.sched_getaffinity(0)), load_project(), effective_prices()
    if settings.statsd_port is not None:
        listen(airflow, config.address, settings.statsd_port)

    def read() -> Measurements:
        return with_expectations(read_measurements(engine, prices, n_cores=n_cores), project)

    registry = CollectorRegistry()
    registry.register(StoreCollector(read, airflow.read, read_devices, lambda: described(settings)))
    registry.register(ForeignCollector(airflow.passed_on))
    server: tuple[Any, threading.Thread] = start_http_server(config.port, addr=config.address, registry=registry)
    say(f"Metrics on http://{config.address}:{config.port}/metrics (stop: Ctrl-C)")
    server[1].join()


def with_expectations(measured: Measurements, project: Project) -> Measurements:
    """Replace the measured interval between crawls by that of the project file; 0 removes it."""
    found = dict(measured.get(INTERVAL, []))
    for labels, _ in measured.get("alchemist_newest_night_timestamp_seconds", []):
        days = project.of_dataset(labels[0]).ingest.crawl_interval_days
        if days is not None:
            found.pop(labels, None)
            found |= {labels: days * 86_400.0} if days else {}
    return {**measured, INTERVAL: list(found.items())}


def described(settings: Settings) -> Measurements:
    """Return the metrics that alerts need even if the database does not answer."""
    is_listening = float(settings.statsd_port is not None)
    return {"alchemist_docs_info": [((docs_address(),), 1.0)], "alchemist_airflow_listening": [((), is_listening)]}


COMMANDS = {"": Command(MetricsConfig, serve)}
