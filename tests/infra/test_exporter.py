"""The exporter: few time series for every content of the store, read in less than a second, and correct if the store is unreachable."""

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app, start_http_server
from sqlalchemy import Connection, Engine, text

from alchemist_core.cli.dags import shipped_dags
from alchemist_core.cli.exporter import (
    HEALTH_PATH,
    ForeignCollector,
    MetricsConfig,
    StoreCollector,
    answer_health,
    described,
    serve,
    with_expectations,
)
from alchemist_core.errors import ConfigError
from alchemist_core.local.airflow_metrics import MOST_SERIES, AirflowMetrics, listen
from alchemist_core.notifications import runbook_page
from alchemist_core.prices import Prices
from alchemist_core.project import Project
from alchemist_core.settings import SITE_OF_VERSION, Settings, load_settings
from alchemist_core.store.engine import make_engine
from alchemist_core.store.overviews import QUERIES, read_measurements
from alchemist_core.store.queries import load_query
from alchemist_core.telemetry import CATALOGUE, Measurements
from tests.sql.test_plans import nodes

ALLOWED_LABELS = {"stage", "dataset", "outcome", "reason", "rater", "subset", "metric", "dag", "url", "device"}
N_SHARDS = 50_000


@pytest.fixture(scope="module")
def large(make_database: Callable[..., str]) -> Iterator[Engine]:
    engine = make_engine(make_database())
    fill(engine, N_SHARDS)
    yield engine
    engine.dispose()


def fill(engine: Engine, n_shards: int) -> None:
    sql = Path(__file__).with_name("large_store.sql").read_text()
    with engine.begin() as connection:
        connection.execute(text(sql.replace("N_SHARDS", str(n_shards)).replace("::", "\\:\\:")))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def measure(engine: Engine) -> Measurements:
    measured = read_measurements(engine, Prices(core_hour=0.1, budget_per_day=9.0))
    return with_expectations(measured, Project())


def airflow_of_many_dags() -> AirflowMetrics:
    heard = AirflowMetrics(shipped_dags())
    for dag in (*(f"dag{i}" for i in range(100)), *shipped_dags()):
        for outcome in ("success", "failed"):
            heard.receive(f"airflow.dagrun.duration.{outcome},dag_id={dag}:1000|ms".encode())
    return heard


def plan(engine: Engine, name: str) -> list[dict[str, Any]]:
    priced = {"is_priced": True} if name == "measure_stages" else {}
    with engine.connect() as connection:
        return nodes(connection, load_query(name).text, **priced)


def scrape(*reads: Callable[[], Measurements]) -> list[str]:
    registry = CollectorRegistry()
    registry.register(StoreCollector(*reads))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


@pytest.mark.db
@pytest.mark.slow
def test_a_thousand_subsets_are_fewer_than_500_series(large: Engine) -> None:
    series = scrape(lambda: measure(large), airflow_of_many_dags().read)
    assert 200 < len(series) < 500
    assert len([line for line in series if line.startswith("alchemist_subset_samples{")]) == 20


@pytest.mark.slow
@pytest.mark.db
def test_a_million_shards_are_fewer_than_500_series_and_the_newest_night_alone_is_read_by_its_date(
    engine: Engine,
) -> None:
    # Of fewer shards, the planner may read the whole table.
    fill(engine, 1_000_000)
    assert 200 < len(scrape(lambda: measure(engine), airflow_of_many_dags().read)) < 500
    for name in ("measure_nights", "measure_freshness"):
        nodes_of_shards = [node for node in plan(engine, name) if node.get("Relation Name") == "shards"]
        assert nodes_of_shards, name
        assert not [node for node in nodes_of_shards if node["Node Type"] == "Seq Scan"], name


@pytest.mark.db
def test_no_shard_is_forgotten_where_labels_are_bounded(large: Engine) -> None:
    measured = measure(large)
    assert sum(value for _, value in measured["alchemist_shards"]) == N_SHARDS
    # One of the shards without scores is of a night that a failed check stopped.
    assert sum(value for _, value in measured["alchemist_shards_unscored"]) == N_SHARDS / 1000 - 1
    assert {labels[0] for labels, _ in measured["alchemist_shards"]} == {*(f"web {i}" for i in range(26, 31)), "other"}


@pytest.mark.db
@pytest.mark.parametrize("name", QUERIES)
def test_a_scrape_reads_ledgers_and_never_scores(large: Engine, name: str) -> None:
    read = {node.get("Relation Name", "") for node in plan(large, name)}
    assert read & {"shard_scores", "leases", "check_results", "runs", "nights", "subsets"}
    assert not [table for table in read if table.startswith(("scores", "samples", "sample_locations"))]


@pytest.mark.db
def test_every_row_is_a_series_of_the_catalogue(connection: Connection, engine: Engine, large: Engine) -> None:
    labels = {metric.name: len(metric.labels) for metric in CATALOGUE}
    for name, rows in (measure(large) | airflow_of_many_dags().read()).items():
        assert {len(values) for values, _ in rows} == {labels[name]}, name
        assert len({values for values, _ in rows}) == len(rows), f"{name} has a series twice"


def test_labels_are_those_of_the_house() -> None:
    assert {label for metric in CATALOGUE for label in metric.labels} <= ALLOWED_LABELS


def test_names_and_texts_of_metrics_keep_the_rules() -> None:
    for metric in CATALOGUE:
        assert metric.name.startswith("alchemist_")
        assert metric.text.endswith(".")
        assert not any(word in metric.name for word in ("_ms", "_minutes", "_hours", "_percent"))


def test_a_store_that_is_away_is_reported_and_does_not_break_the_scrape() -> None:
    def away() -> Measurements:
        raise ConnectionError("gone")

    series = scrape(away)
    assert "alchemist_store_up 0.0" in series


def test_a_source_that_fails_hides_no_other_metric(capsys: pytest.CaptureFixture[str]) -> None:
    def lost() -> Measurements:
        raise RuntimeError("GPU is lost")

    listening = partial(described, Settings())
    series = scrape(dict, lost, listening)
    assert {"alchemist_store_up 1.0", "alchemist_airflow_listening 0.0"} <= set(series)
    assert "RuntimeError: GPU is lost" in capsys.readouterr().err


@pytest.mark.parametrize("is_away", [False, True])
def test_scrapes_that_waited_for_a_read_use_it_and_the_next_one_reads_again(is_away: bool) -> None:
    began, may_end, n_reads = threading.Event(), threading.Event(), 0

    def read() -> Measurements:
        nonlocal n_reads
        n_reads += 1
        began.set()
        may_end.wait(60)
        if is_away:
            raise ConnectionError("gone")
        return {"alchemist_budget_per_day": [((), float(n_reads))]}

    registry = CollectorRegistry()
    registry.register(StoreCollector(read))
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(generate_latest, registry)
        assert began.wait(60)
        waiting = [pool.submit(generate_latest, registry) for _ in range(8)]
        # Until all of them wait; one that comes late on a busy machine may read again.
        time.sleep(1)
        may_end.set()
        pages = [one.result().decode() for one in (first, *waiting)]
    expected = "alchemist_store_up 0.0" if is_away else "alchemist_budget_per_day 1.0"
    assert expected in pages[0]
    assert n_reads < 4, "each of 9 scrapes read for itself"
    assert sum(expected in page for page in pages) > 5
    n_before = n_reads
    generate_latest(registry)
    assert n_reads == n_before + 1


def test_a_health_check_is_answered_without_reading_the_store() -> None:
    n_reads = 0

    def read() -> Measurements:
        nonlocal n_reads
        n_reads += 1
        return {}

    registry = CollectorRegistry()
    registry.register(StoreCollector(read))
    server, thread = start_http_server(port := free_port(socket.SOCK_STREAM), addr="127.0.0.1", registry=registry)
    server.set_app(answer_health(make_wsgi_app(registry)))
    try:
        assert fetch(f"http://127.0.0.1:{port}{HEALTH_PATH}") == "OK\n"
        assert n_reads == 0
        assert "alchemist_store_up 1.0" in fetch(f"http://127.0.0.1:{port}/metrics")
        assert n_reads == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_metric_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(KeyError, match="alchemist_invented"):
        scrape(lambda: {"alchemist_invented": [((), 1.0)]})


def passed_on(*datagrams: bytes) -> set[str]:
    """The samples that dashboards made for Airflow read."""
    heard = AirflowMetrics(shipped_dags())
    for datagram in datagrams:
        heard.receive(datagram)
    registry = CollectorRegistry()
    registry.register(ForeignCollector(heard.passed_on))
    return {line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}


def test_every_metric_of_airflow_is_passed_on_under_the_names_of_its_dashboards() -> None:
    assert passed_on(
        b"airflow.scheduler_heartbeat:1|c\nairflow.scheduler_heartbeat:1|c",
        b"airflow.executor.open_slots:3|g",
        b"airflow.pool.open_slots,pool_name=gpu:2|g",
        b"airflow.dagrun.duration.success,dag_id=n,run_type=manual:1500|ms",
        b"airflow.dagrun.duration.success,dag_id=n,run_type=manual:500|ms",
        b"airflow.ti.finish,dag_id=n,task_id=t,state=success,run_id=manual__1:1|c",
        b"airflow.dagrun.dependency-check,dag_id=n:20|ms",
    ) == {
        "airflow_scheduler_heartbeat 2.0",
        "airflow_executor_open_slots 3.0",
        'airflow_pool_open_slots{pool="gpu",pool_name="gpu"} 2.0',
        'airflow_dagrun_duration_success_sum{dag_id="n",run_type="manual"} 2.0',
        'airflow_dagrun_duration_success_count{dag_id="n",run_type="manual"} 2.0',
        'airflow_dagrun_duration_sum{dag_id="n",run_type="manual"} 2.0',
        'airflow_dagrun_duration_count{dag_id="n",run_type="manual"} 2.0',
        'airflow_ti_finish{dag_id="n",state="success",task_id="t"} 1.0',
        'airflow_task_finish_total{dag_id="n",state="success",task_id="t"} 1.0',
        'airflow_dagrun_dependency_check_sum{dag_id="n"} 0.02',
        'airflow_dagrun_dependency_check_count{dag_id="n"} 1.0',
    }


def test_the_number_of_series_that_are_passed_on_is_bounded() -> None:
    names = "\n".join(f"airflow.ti.start,dag_id=d{i}:1|c" for i in range(MOST_SERIES + 10))
    assert len(passed_on(names.encode())) == MOST_SERIES


def test_airflows_words_become_series_and_strangers_do_not() -> None:
    heard = AirflowMetrics(shipped_dags())
    heard.receive(b"airflow.scheduler_heartbeat:1|c\nairflow.scheduler_heartbeat:1|c\n")
    heard.receive(b"airflow.pool.open_slots,pool_name=gpu:3|g")
    heard.receive(b"airflow.pool.deferred_slots,pool_name=gpu:4|g")
    heard.receive(b"airflow.pool.open_slots,pool_name=default_pool:128|g")
    heard.receive(b"airflow.dagrun.duration.failed,dag_id=train_rater,run_type=manual:1500|ms")
    heard.receive(b"\xff not statsd")
    assert heard.read() == {
        "alchemist_airflow_heartbeats_total": [((), 2.0)],
        "alchemist_airflow_pool_slots": [(("deferred",), 4.0), (("open",), 3.0)],
        "alchemist_airflow_run_seconds": [(("train_rater", "failed"), 1.5)],
        "alchemist_airflow_runs_total": [(("train_rater", "failed"), 1.0)],
    }


def test_heartbeats_and_runs_of_dags_are_counted_from_0(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = AirflowMetrics({"nightly_rescore"})
    assert heard.read() == {}
    listen(heard, "127.0.0.1", free_port(socket.SOCK_DGRAM))
    assert heard.read() == {
        "alchemist_airflow_heartbeats_total": [((), 0.0)],
        "alchemist_airflow_runs_total": [(("nightly_rescore", outcome), 0.0) for outcome in ("failed", "success")],
    }
    assert described(Settings(statsd_port=8125))["alchemist_airflow_listening"] == [((), 1.0)]
    assert described(Settings())["alchemist_airflow_listening"] == [((), 0.0)]


def test_alerts_link_to_the_runbook_where_people_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert described(Settings())["alchemist_docs_info"] == [((SITE_OF_VERSION,), 1.0)]
    monkeypatch.setenv("ALCHEMIST_DOCS_URL", "https://docs.example/")
    load_settings.cache_clear()
    assert described(Settings())["alchemist_docs_info"] == [(("https://docs.example",), 1.0)]
    assert runbook_page("scoredrift") == "https://docs.example/how-to/runbook.html#scoredrift"


def test_the_project_file_sets_the_crawl_interval_of_a_dataset_or_that_crawls_ended() -> None:
    names = ("daily", "weekly", "ended", "new")
    measured = {
        "alchemist_newest_night_timestamp_seconds": [((name, name), 0.0) for name in names],
        "alchemist_night_interval_seconds": [((name, name), 86400.0) for name in names[:3]],
    }
    days = {"weekly": 7, "ended": 0, "new": 1}
    datasets = {name: {"ingest": {"crawl_interval_days": n}} for name, n in days.items()}
    project = Project.model_validate({"datasets": datasets})
    found = with_expectations(measured, project)
    assert dict(found["alchemist_night_interval_seconds"]) == {
        ("daily",): 86400.0, ("weekly",): 604800.0, ("new",): 86400.0,
    }  # fmt: skip
    assert dict(found["alchemist_newest_night_timestamp_seconds"]) == {(name,): 0.0 for name in names}


def test_of_datasets_that_share_a_label_the_one_whose_night_is_most_overdue_counts() -> None:
    """The freshest one counted, so that the main crawl could stop unseen; and the project file was asked for a dataset `other`."""
    day = 86400.0
    newest = {"stopped": 10.0, "fresh": 30.0, "weekly": 8.0, "ended": 1.0, "single": 2.0}
    measured = {
        "alchemist_newest_night_timestamp_seconds": [
            (("other", name), n_days * day) for name, n_days in newest.items()
        ],
        "alchemist_night_interval_seconds": [(("other", name), day) for name in ("stopped", "fresh", "ended")],
    }
    days = {"weekly": 7, "ended": 0}
    datasets = {name: {"ingest": {"crawl_interval_days": n}} for name, n in days.items()}
    found = with_expectations(measured, Project.model_validate({"datasets": datasets}))
    # A weekly crawl of the 8th is due later than a daily one of the 10th.
    assert found["alchemist_newest_night_timestamp_seconds"] == [(("other",), 10 * day)]
    assert found["alchemist_night_interval_seconds"] == [(("other",), day)]
    ended = {name: rows[-2:] for name, rows in measured.items()}
    found = with_expectations(ended, Project.model_validate({"datasets": datasets}))
    assert found["alchemist_newest_night_timestamp_seconds"] == [(("other",), day)]
    assert found["alchemist_night_interval_seconds"] == []


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [
        ({}, 0),
        ({"timezone": "Asia/Tokyo"}, 0),
        ({"timezone": "America/Los_Angeles"}, 8),
        ({"nightly": "30 8 * * *"}, 6.5),
        ({"nightly": "@daily", "timezone": "America/Los_Angeles"}, 6),
        ({"nightly": "none"}, 0),
    ],
)
def test_a_night_is_due_later_where_its_run_starts_after_02_00_utc(schedule: dict[str, str], hours: float) -> None:
    """NightlyStale paged after one missing night, before the run of the second had started."""
    newest = datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    measured = {"alchemist_newest_night_timestamp_seconds": [(("web", "web"), newest)]}
    found = with_expectations(measured, Project.model_validate({"schedule": schedule}))
    assert found["alchemist_newest_night_timestamp_seconds"] == [(("web",), newest + hours * 3600)]


def test_dags_of_others_take_no_label_from_ours_and_are_passed_on() -> None:
    heard = airflow_of_many_dags()
    assert {dag for (dag, _), _ in heard.read()["alchemist_airflow_runs_total"]} == shipped_dags()
    (ended,) = (metric for metric in heard.passed_on() if metric.name == "airflow_dagrun_duration_success")
    assert len(ended.values) == 100 + len(shipped_dags())


def test_what_the_statsd_client_of_airflow_sends_is_heard() -> None:
    statsd = pytest.importorskip("statsd", reason="the statsd client comes with the extra `airflow`")
    heard, port = AirflowMetrics(shipped_dags()), free_port(socket.SOCK_DGRAM)
    listen(heard, "127.0.0.1", port)
    client = statsd.StatsClient("127.0.0.1", port, prefix="airflow")
    client.timing("dagrun.duration.success,dag_id=nightly_rescore", 2500.0)
    client.close()
    deadline = time.monotonic() + 5
    while "alchemist_airflow_run_seconds" not in heard.read() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert heard.read()["alchemist_airflow_run_seconds"] == [(("nightly_rescore", "success"), 2.5)]


@pytest.mark.db
def test_the_exporter_serves_the_store_over_http(database_url: str) -> None:
    port = next(port for port in (free_port(socket.SOCK_STREAM) for _ in range(50)) if port <= 32_767)
    command = [sys.executable, "-m", "alchemist_core", "serve-metrics", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            page = fetch(f"http://127.0.0.1:{port}/metrics")
            healthy = fetch(f"http://127.0.0.1:{port}{HEALTH_PATH}")
        finally:
            process.kill()
    assert healthy == "OK\n"
    assert "alchemist_store_up 1.0" in page
    assert {line.split()[2] for line in page.splitlines() if line.startswith("# HELP")} == {
        metric.name.removesuffix("_total") + "_total" * metric.name.endswith("_total") for metric in CATALOGUE
    }


@pytest.mark.db
@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize(
    ("kind", "remedy"), [(socket.SOCK_STREAM, "--port NUMBER"), (socket.SOCK_DGRAM, "ALCHEMIST_STATSD_PORT=NUMBER")]
)
def test_a_port_in_use_is_named_with_its_option(monkeypatch: pytest.MonkeyPatch, kind: Any, remedy: str) -> None:
    port = free_port(kind)
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        else:
            monkeypatch.setenv("ALCHEMIST_STATSD_PORT", str(port))
        load_settings.cache_clear()
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 is in use. Give another one: {remedy}."):
            serve(MetricsConfig(port=port))


def fetch(url: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def free_port(kind: Any) -> int:
    """A free port below the ephemeral range."""
    for port in range(21_000 + int(time.monotonic() * 1000) % 9_000, 32_000):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
