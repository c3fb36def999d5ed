"""What a run tells while it works: log lines or a progress bar, and the catalogue of metrics.

Nothing else may create a metric. Labels are bounded: never a sample, a shard, a run or a user's text.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

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


class _Console(Console):
    """A console whose reader may leave: a job goes on when the Airflow worker that reads its lines has died."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


# Standard error: standard output belongs to the report, whose last line may be JSON.
console = _Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line for the person who watches the run."""
    console.print(text, markup=False)


class ProgressLine:
    """Show done of total: a bar on a terminal, a log line every few seconds otherwise."""

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
        """Show the state of the work; cheap enough to call at every step."""
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
    """One series family: base unit in the name, labels from a bounded list, and the text that a dashboard shows."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


CATALOGUE = (
    Metric("alchemist_stage_last_success_timestamp_seconds", "When a stage last succeeded, in unix time.", ("stage",)),
    Metric("alchemist_stage_runs_total", "Executions of a stage by outcome.", ("stage", "outcome")),
    Metric("alchemist_stage_work_seconds_total", "Seconds of work of a stage's finished runs.", ("stage",)),
    Metric("alchemist_shards_total", "Registered shards by state.", ("dataset", "outcome")),
    Metric("alchemist_samples_scored_total", "Locations scored by the production rater.", ("dataset",)),
    Metric("alchemist_samples_quarantined_total", "Quarantined locations by reason.", ("dataset", "reason")),
    Metric("alchemist_shards_unscored", "Verified shards that the production rater has not scored.", ("dataset",)),
    Metric(
        "alchemist_nights_held", "Nights held because their scores drifted, under the production rater.", ("dataset",)
    ),
    Metric(
        "alchemist_score_psi", "Distance of the newest measured night from the accepted ones, a ratio.", ("dataset",)
    ),
    Metric("alchemist_leases", "Live leases."),
    Metric("alchemist_subset_samples", "Members of each published subset.", ("subset",)),
    Metric(
        "alchemist_evaluation_value",
        "Mean value of a metric per arm of a published subset.",
        ("subset", "metric", "outcome"),
    ),
)


Measurements = dict[str, list[tuple[tuple[str, ...], float]]]


class StoreCollector(Collector):
    """Turns what the store says at a scrape into the catalogue's series; a family without rows is exported empty."""

    def __init__(self, read: Callable[[], Measurements]) -> None:
        self._read = read

    def collect(self) -> Iterator[PrometheusMetric]:
        """Read the store once and yield every family of the catalogue."""
        measured = self._read()
        if unknown := measured.keys() - {metric.name for metric in CATALOGUE}:
            raise KeyError(f"not in the catalogue of telemetry.py: {', '.join(sorted(unknown))}")
        for metric in CATALOGUE:
            kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
            family = kind(metric.name, metric.text, labels=metric.labels)
            for labels, value in measured.get(metric.name, []):
                family.add_metric(labels, value)
            yield family
