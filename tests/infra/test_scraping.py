"""A real Prometheus scrapes the real exporter on a filled store; every panel and rule returns data."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from alchemist_core.store.engine import make_engine

from .test_exporter import fetch, free_port
from .test_grafana import PANELS
from .test_prometheus import ALERTS, PROMETHEUS, rules

pytestmark = [
    pytest.mark.db,
    pytest.mark.prometheus,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="no Prometheus: apt-get install prometheus (make test-e2e does)"
    ),
]

PROMQL_PANELS = [panel for panel in PANELS if panel.promql]
N_SHARDS = 3000
SAID_BY_AIRFLOW = (
    b"airflow.scheduler_heartbeat:1|c", b"airflow.dag_processing.import_errors:0|g", b"airflow.pool.open_slots,pool_name=gpu:1|g",
    b"airflow.dagrun.duration.success,dag_id=nightly_rescore:2500|ms",
)  # fmt: skip
HAS_GPU = Path("/proc/driver/nvidia/version").exists()
MEANT_TO_BE_EMPTY: set[str] = set() if HAS_GPU else {"Use of the GPUs", "Memory of the GPUs in use"}
"""Titles of panels that a well store leaves empty on this machine."""


class Prometheus:
    """A Prometheus server of this test, queried over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        try:
            answer = json.loads(fetch(f"{self.url}/api/v1/query?{query}"))
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expression}: {error.read().decode()}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def ask_until_found(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """Ask until something is found: on a busy machine a scrape may last longer than its second, and then leaves no data."""
        deadline = time.monotonic() + seconds
        while not (found := self.ask(expression)) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def call(self, path: str) -> Any:
        return json.loads(fetch(f"{self.url}{path}"))["data"]


@pytest.fixture(scope="module")
def prometheus(make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with our own rules, after a few scrapes of the exporter."""
    url, folder = make_database(), tmp_path_factory.mktemp("prometheus")
    fill(url)
    metrics_port, statsd_port, port = (
        free_port(kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
    )
    port += port in (metrics_port, statsd_port)
    exporter = [sys.executable, "-m", "alchemist_core", "serve-metrics", "--port", str(metrics_port)]
    settings = {
        "ALCHEMIST_DATABASE_URL": url, "ALCHEMIST_STATSD_PORT": str(statsd_port), "ALCHEMIST_PRICE_PER_CORE_HOUR": "0.1",
        "ALCHEMIST_BUDGET_PER_DAY": "9", "ALCHEMIST_HOME": str(folder),
    }  # fmt: skip
    server = [
        "prometheus", f"--config.file={configure(folder, metrics_port)}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen(exporter, env=os.environ | settings, **quiet) as one,
        subprocess.Popen(server, **quiet) as two,
    ):
        try:
            wait_for_scrapes(found := Prometheus(port), statsd_port)
            yield found
        finally:
            two.terminate()
            one.terminate()


def fill(url: str) -> None:
    engine = make_engine(url)
    sql = Path(__file__).with_name("large_store.sql").read_text()
    with engine.begin() as connection:
        connection.execute(text(sql.replace("N_SHARDS", str(N_SHARDS)).replace("::", "\\:\\:")))
    engine.dispose()


def configure(folder: Path, metrics_port: int) -> Path:
    """Our own configuration, hastened, at this test's port and without Alertmanager."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics_port}"]
    del config["alerting"]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def wait_for_scrapes(server: Prometheus, statsd_port: int, n_scrapes: int = 6) -> None:
    deadline = time.monotonic() + 90
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as airflow:
        while time.monotonic() < deadline:
            for said in SAID_BY_AIRFLOW:
                airflow.sendto(said, ("127.0.0.1", statsd_port))
            seen = server.ask("count_over_time(alchemist_airflow_heartbeats_total[5m])")
            has_scraped = bool(seen) and float(seen[0]["value"][1]) >= n_scrapes
            # Rules are evaluated after the scrapes that they read. One that never records fails its own test.
            if has_scraped and all(server.ask(rule["record"]) for rule in rules("recording.yml")):
                return
            time.sleep(0.5)
    assert has_scraped, "Prometheus did not see the exporter within 90 s"


@pytest.mark.slow
def test_the_exporter_is_scraped(prometheus: Prometheus) -> None:
    assert [series["value"][1] for series in prometheus.ask_until_found('up{job="alchemist"} == 1')] == ["1"]
    assert prometheus.ask_until_found("alchemist_store_up")[0]["value"][1] == "1"


def test_a_scrape_has_fewer_than_500_series(prometheus: Prometheus) -> None:
    (samples,) = prometheus.ask_until_found("scrape_samples_scraped > 0")
    assert 200 < int(samples["value"][1]) < 500


@pytest.mark.parametrize("panel", PROMQL_PANELS, ids=lambda panel: panel.title)
def test_every_panel_of_prometheus_shows_data(prometheus: Prometheus, panel: Any) -> None:
    query = panel.promql.replace("$dataset", ".*").replace("$rater", ".*")
    if panel.title in MEANT_TO_BE_EMPTY:
        assert prometheus.ask(query) == []
    else:
        assert prometheus.ask_until_found(query), query


@pytest.mark.parametrize("rule", rules("recording.yml"), ids=lambda rule: rule["record"])
def test_every_recording_rule_records(prometheus: Prometheus, rule: dict[str, str]) -> None:
    assert prometheus.ask_until_found(rule["record"])


def test_every_alert_is_evaluated_without_error_and_bad_figures_raise_theirs(prometheus: Prometheus) -> None:
    groups = prometheus.call("/api/v1/rules?type=alert")["groups"]
    evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert evaluated.keys() == ALERTS.keys()
    assert {name for name, rule in evaluated.items() if rule["health"] != "ok"} == set()
    # The store of this test is unwell: shards do not add up, a takedown waits, leases have expired.
    for name in ("LedgerMismatch", "DataCheckFailed", "TaskFailed"):
        assert prometheus.ask_until_found(f'ALERTS{{alertname="{name}"}}'), name
    assert prometheus.ask_until_found('absent(ALERTS{alertname="ExporterDown"})')
