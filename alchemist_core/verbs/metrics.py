"""Serve Prometheus metrics: one long-lived exporter that reads the store at every scrape, and hears what Airflow says of itself."""

import os
import threading
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config
from alchemist_core.local.airflow_metrics import AirflowMetrics, listen
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.measurements import read_measurements
from alchemist_core.telemetry import StoreCollector, say


class MetricsConfig(Config):
    """Where to listen."""

    port: int = Field(9477, ge=1024, le=32767, description="TCP port, on loopback unless --address says otherwise")
    address: str = Field("127.0.0.1", description="Address to listen on")


def serve(config: MetricsConfig) -> None:
    """Serve /metrics until stopped."""
    engine, settings, airflow = open_store(), load_settings(), AirflowMetrics()
    n_cores = len(os.sched_getaffinity(0))
    if settings.statsd_port is not None:
        listen(airflow, config.address, settings.statsd_port)
    registry = CollectorRegistry()
    registry.register(StoreCollector(lambda: read_measurements(engine, settings, n_cores=n_cores), airflow.read))
    server: tuple[Any, threading.Thread] = start_http_server(config.port, addr=config.address, registry=registry)
    say(f"Metrics on http://{config.address}:{config.port}/metrics (stop: Ctrl-C)")
    server[1].join()


COMMANDS = {"serve": Command(MetricsConfig, serve)}
