"""Log lines, progress bars, and the catalogue of all metrics.

No other module may create a metric. Labels are bounded: never a sample, a shard, a run or a text of a user. The label `dag` is
for metrics of Airflow: one of the files in dags/.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from prometheus_client import Metric as PrometheusMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_INTERVAL_S = 5.0

OnProgress = Callable[[int, int, str], None]
"""A function that is called while work runs, with the units done, the units in all and a note."""


class _Console(Console):
    """A console that ignores a closed pipe: a job continues after the Airflow worker that reads its output has died."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


# Standard error, because standard output is for the result, whose last line may be JSON.
console = _Console(stderr=True, highlight=False, soft_wrap=True)


# C0 except tab and newline, DEL, C1, and the characters that change the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_control(text: str) -> str:
    r"""Escape control characters, because a terminal would interpret those in names of files and captions.

    >>> escape_control("a\x1b[2Jb\tc")
    'a\\x1b[2Jb\tc'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def on_one_line(text: str) -> str:
    r"""Escape line breaks too, so that a name with a line break does not look like two lines of a list.

    >>> on_one_line("a\nb.tar")
    'a\\nb.tar'
    """
    return escape_control(text).replace("\n", "\\n")


LOG = logging.getLogger("alchemist")
"""Every line that a command prints while it works is a record of this logger."""

LogFormat = Literal["text", "json"]
# The run that this process works on: stage and run_id. Threads of the run share it.
_run: dict[str, str | int] = {}


class _TextHandler(logging.Handler):
    """Prints each record as a line of text."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(escape_control(record.getMessage()), markup=False)


class _JsonHandler(logging.Handler):
    """Prints each record as a JSON object on one line, for collectors of logs."""

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname.lower(), "message": record.getMessage(), **_run}
        # JSON escapes every control character; DEL, C1 and the marks of direction only as ASCII.
        console.print(json.dumps(line), markup=False)


def configure_logging(form: LogFormat = "text") -> None:
    """Print records of `alchemist` on standard error. Only the command line calls this: importing the package configures nothing.

    Args:
        form: "text" for people, "json" for collectors: an object per line with time (UTC), level, message, stage and run_id.
    """
    LOG.handlers[:] = [_JsonHandler() if form == "json" else _TextHandler()]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


@contextmanager
def named_run(stage: str, run_id: int) -> Iterator[None]:
    """Name the run to which the records of this block belong."""
    before = dict(_run)
    _run.update(stage=stage, run_id=run_id)
    try:
        yield
    finally:
        _run.clear()
        _run.update(before)


def say(text: str, level: int = logging.INFO) -> None:
    """Log one line for the person who watches the run."""
    LOG.log(level, "%s", text)


def warn(text: str) -> None:
    """Log one line about something that a person should look at; the run continues."""
    say(text, logging.WARNING)


class ProgressLine:
    """Progress of a run: a bar on a terminal, else a log line every few seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said_at = time.monotonic()

    def __enter__(self) -> "ProgressLine":
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(self._title, total=None, note="")
            self._bar.start()
        return self

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show the progress; cheap enough to call at every step."""
        note = escape_control(note)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif time.monotonic() - self._said_at >= LOG_INTERVAL_S or (done == total and total > 0):
            self._said_at = time.monotonic()
            say(f"{self._title}: {done:,}/{total:,} {note}".rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with the base unit, its help text, and its labels from a bounded list."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


CATALOGUE = (
    Metric("alchemist_store_up", "Whether the exporter could read the database: 1 or 0."),
    Metric("alchemist_store_read_seconds", "Seconds that reading the database took at this scrape."),
    Metric("alchemist_store_size_bytes", "Size of the database on disk."),
    Metric("alchemist_stage_last_success_timestamp_seconds", "When a stage last succeeded, in unix time.", ("stage",)),
    Metric("alchemist_stage_runs_total", "Ended executions of a stage by outcome.", ("stage", "outcome")),
    Metric(
        "alchemist_stage_runs_running", "Executions of a stage with a heartbeat in the last five minutes.", ("stage",)
    ),
    Metric("alchemist_stage_progress_ratio", "Progress of the running executions of a stage, 0 to 1.", ("stage",)),
    Metric("alchemist_stage_work_seconds_total", "Seconds of work of a stage's ended runs.", ("stage",)),
    Metric("alchemist_stage_last_work_seconds", "Seconds of work of a stage's newest successful run.", ("stage",)),
    Metric(
        "alchemist_stage_cost_total", "Cost of a stage's ended runs, in the currency of the prices set.", ("stage",)
    ),
    Metric("alchemist_budget_per_day", "Budget per day, in the currency of the prices set."),
    Metric(
        "alchemist_score_images_per_second",
        "Images per second of all running score runs together; of each, the mean since it began.",
    ),
    Metric(
        "alchemist_device_utilization_ratio",
        "Share of time in which a GPU of the exporter's machine worked.",
        ("device",),
    ),
    Metric("alchemist_device_memory_used_bytes", "Memory in use on a GPU of the exporter's machine.", ("device",)),
    Metric("alchemist_device_memory_total_bytes", "Memory of a GPU of the exporter's machine.", ("device",)),
    Metric("alchemist_shards", "Registered shards by state.", ("dataset", "outcome")),
    Metric("alchemist_shards_unscored", "Verified shards that the production rater has not scored.", ("dataset",)),
    Metric(
        "alchemist_samples",
        "Locations in the production rater's ledger: scored or quarantined.",
        ("dataset", "outcome"),
    ),
    Metric(
        "alchemist_night_samples",
        "Locations of the newest crawl date: found, scored, and quarantined by reason.",
        ("dataset", "outcome", "reason"),
    ),
    Metric("alchemist_nights", "Nights of the production rater by state.", ("dataset", "outcome")),
    Metric(
        "alchemist_newest_night_timestamp_seconds",
        "Newest crawl date that samples can be selected from, in unix time.",
        ("dataset",),
    ),
    Metric(
        "alchemist_night_interval_seconds",
        "Usual time between two crawl dates of a dataset: from the project file, else measured from the newest ones.",
        ("dataset",),
    ),
    Metric(
        "alchemist_score_psi",
        "Score drift of the newest measured night against the accepted nights: population stability index.",
        ("dataset", "rater"),
    ),
    Metric(
        "alchemist_score_ks_distance",
        "Score drift of the newest measured night against the accepted nights: Kolmogorov-Smirnov distance, 0 to 1.",
        ("dataset", "rater"),
    ),
    Metric(
        "alchemist_ledger_mismatched_shards",
        "Shards whose scores and quarantine rows did not match their ledger at the last recount.",
        ("dataset",),
    ),
    Metric("alchemist_check_failures", "Failed data checks of the last day, by severity.", ("reason", "outcome")),
    Metric("alchemist_task_failures", "Failed Airflow tasks of the last day, as dag.task.", ("stage",)),
    Metric(
        "alchemist_notifications",
        "Notifications of the last day: delivered, waiting, failed, or without a receiver.",
        ("outcome",),
    ),
    Metric("alchemist_leases", "Leases by state: live, or expired and not claimed again.", ("outcome",)),
    Metric(
        "alchemist_takedowns",
        "Takedowns: done, or pending while a published version or a materialized dataset contains the image.",
        ("outcome",),
    ),
    Metric(
        "alchemist_takedown_oldest_timestamp_seconds", "When the oldest pending takedown was requested.", ("outcome",)
    ),
    Metric("alchemist_rater_check_value", "Value of each acceptance check of a rater.", ("rater", "metric")),
    Metric("alchemist_subset_samples", "Members of each published subset.", ("subset",)),
    Metric(
        "alchemist_subset_retention_ratio",
        "Retention of a published subset: its share of the eligible samples.",
        ("subset",),
    ),
    Metric(
        "alchemist_evaluation_value",
        "Mean value of a metric over the models of a published subset, or of its random control.",
        ("subset", "metric", "outcome"),
    ),
    Metric("alchemist_docs_info", "Address of the documentation, as a label; the value is 1.", ("url",)),
    Metric("alchemist_airflow_listening", "Whether the exporter receives Airflow's statsd metrics: 1 or 0."),
    Metric("alchemist_airflow_heartbeats_total", "Heartbeats of Airflow's scheduler since the exporter started."),
    Metric("alchemist_airflow_import_errors", "DAG files that Airflow could not import."),
    Metric("alchemist_airflow_run_seconds", "Duration of the newest run of a DAG, by outcome.", ("dag", "outcome")),
    Metric("alchemist_airflow_runs_total", "DAG runs that ended since the exporter started.", ("dag", "outcome")),
    Metric("alchemist_airflow_pool_slots", "Slots of the pool gpu: open, queued, running.", ("outcome",)),
)


@dataclass(frozen=True, slots=True)
class ForeignMetric:
    """A metric of another program, passed on under its usual name: a total, a gauge, or a timer with its sum in seconds and its count."""

    name: str
    is_timer: bool
    values: tuple[tuple[dict[str, str], float, float], ...]
    """Labels, value or sum, and count (only of a timer) of each series."""


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


Measurements = dict[str, list[tuple[tuple[str, ...], float]]]


class StoreCollector(Collector):
    """Collects all metrics of the catalogue at a scrape; a metric without values is exported empty.

    If the database does not answer, `alchemist_store_up` is 0, which distinguishes this from a dead exporter.
    """

    def __init__(self, read: Callable[[], Measurements], *others: Callable[[], Measurements]) -> None:
        self._read, self._others = read, others
        # Concurrent scrapes read the database one after the other, to limit its load.
        self._reading = threading.Lock()

    def collect(self) -> Iterator[PrometheusMetric]:
        """Read the database once and yield every metric of the catalogue."""
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
        began, is_up = time.monotonic(), 1.0
        try:
            with self._reading:
                measured = self._read()
        except Exception as error:  # noqa: BLE001  alchemist_store_up reports any failure
            warn(f"The database does not answer: {type(error).__name__}: {error}")
            measured, is_up = {}, 0.0
        ours = {"alchemist_store_up": is_up, "alchemist_store_read_seconds": time.monotonic() - began}
        for read in self._others:
            measured = measured | read()
        return measured | {name: [((), value)] for name, value in ours.items()}
