"""Log lines, progress bars, and the catalogue of all metrics.

No other module may define a metric; `cli.exporter` collects them at a scrape. Labels are bounded: never a sample, a shard, a run or
a text of a user. The label `dag` is for metrics of Airflow: one of the files in dags/.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOG_INTERVAL_S = 5.0

OnProgress = Callable[[int, int, str], None]
"""A function that is called while work runs, with the units done, the units in all and a note."""


# The progress bar on the terminal, above which lines are printed while it is shown.
_bars: "list[Progress]" = []


def _print(line: str) -> None:
    """Print a line on standard error, because standard output is for the result, whose last line may be JSON."""
    if _bars:
        _bars[-1].console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        return
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        # A job continues after the Airflow worker that reads its output has died.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


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
# The runs that this process works on, the newest last: stage and run_id. Threads of a run share them.
_runs: list[dict[str, str | int]] = []


class _TextHandler(logging.Handler):
    """Prints each record as a line of text."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(escape_control(record.getMessage()))


class _JsonHandler(logging.Handler):
    """Prints each record as a JSON object on one line, for collectors of logs."""

    def emit(self, record: logging.LogRecord) -> None:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": at,
            "level": record.levelname.lower(),
            "message": escape_control(record.getMessage()),
            **(_runs[-1] if _runs else {}),
        }
        _print(json.dumps(line))


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
    own: dict[str, str | int] = {"stage": stage, "run_id": run_id}
    _runs.append(own)
    try:
        yield
    finally:
        # Blocks of several threads may end in any order.
        _runs.remove(own)


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
            self._bar = _make_bar()
            self._task = self._bar.add_task(self._title, total=None, note="")
            self._bar.start()
            _bars.append(self._bar)
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
            _bars.remove(self._bar)
            self._bar.stop()


def _make_bar() -> "Progress":
    # Only here, because it takes longer to load than many commands take; without a terminal no bar is shown.
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=Console(stderr=True, highlight=False, soft_wrap=True))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with the base unit, its help text, and its labels from a bounded list."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


CATALOGUE = (
    Metric("alchemist_store_up", "Whether the exporter could read the database: 1 or 0."),
    Metric("alchemist_store_read_seconds", "Seconds that the newest read of the database took."),
    Metric("alchemist_store_size_bytes", "Size of the database on disk."),
    Metric("alchemist_stage_last_success_timestamp_seconds", "When a stage last succeeded, in unix time.", ("stage",)),
    Metric("alchemist_stage_runs_total", "Ended executions of a stage by outcome.", ("stage", "outcome")),
    Metric(
        "alchemist_stage_runs_running", "Executions of a stage with a heartbeat in the last five minutes.", ("stage",)
    ),
    Metric(
        "alchemist_stage_progress_ratio",
        "Progress of the running executions of a stage, 0 to 1; the worker slots of one work together.",
        ("stage",),
    ),
    Metric("alchemist_stage_work_seconds_total", "Seconds of work of a stage's ended runs.", ("stage",)),
    Metric("alchemist_stage_last_work_seconds", "Seconds of work of a stage's newest successful run.", ("stage",)),
    Metric(
        "alchemist_stage_cost_total",
        "Cost of a stage's ended runs, as stored at the prices of their day; those without a price cost 0.",
        ("stage",),
    ),
    Metric("alchemist_budget_per_day", "Budget per day, in the currency of the prices set."),
    Metric(
        "alchemist_score_images_per_second",
        "Images per second of all running score runs together, once for each rater or scorer; of each run, the mean since it began.",
    ),
    Metric(
        "alchemist_device_utilization_ratio",
        "Share of time in which a GPU of the exporter's machine worked.",
        ("device",),
    ),
    Metric("alchemist_device_memory_used_bytes", "Memory in use on a GPU of the exporter's machine.", ("device",)),
    Metric("alchemist_device_memory_total_bytes", "Memory of a GPU of the exporter's machine.", ("device",)),
    Metric("alchemist_shards", "Registered shards by state.", ("dataset", "outcome")),
    Metric(
        "alchemist_shards_unscored",
        "Verified shards that the production rater has not scored, without those of nights that a check stopped or a person rejected.",
        ("dataset",),
    ),
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
        "Newest crawl date that samples can be selected from, in unix time; without one, the day before the first crawl date, or the day "
        "of the rater's promotion if that was later. Later by as much as nightly_rescore starts after 02:00 UTC.",
        ("dataset",),
    ),
    Metric(
        "alchemist_night_interval_seconds",
        "Usual time between two crawl dates of a dataset: from the project file, else measured from the newest ones.",
        ("dataset",),
    ),
    Metric(
        "alchemist_score_psi",
        "Score drift of the newest measured night against the accepted nights (the first night of a rater: against its rank scale or "
        "acceptance report): population stability index.",
        ("dataset", "rater"),
    ),
    Metric(
        "alchemist_score_ks_distance",
        "Score drift of the newest measured night against the accepted nights (the first night of a rater: against its rank scale or "
        "acceptance report): Kolmogorov-Smirnov distance, 0 to 1.",
        ("dataset", "rater"),
    ),
    Metric(
        "alchemist_ledger_mismatched_shards",
        "Shards whose scores and quarantine rows did not match their ledger at the last recount of all nights.",
        ("dataset",),
    ),
    Metric(
        "alchemist_check_failures",
        "Failed data checks by severity: those that stop a night now, and failures of subsets and warnings of the last day.",
        ("reason", "outcome"),
    ),
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
        "Mean value of a metric over the models of a published subset, or of its random control, of the seeds that both have; without a "
        "common seed, of the subset alone.",
        ("subset", "metric", "outcome"),
    ),
    Metric("alchemist_docs_info", "Address of the documentation, as a label; the value is 1.", ("url",)),
    Metric("alchemist_airflow_listening", "Whether the exporter receives Airflow's statsd metrics: 1 or 0."),
    Metric("alchemist_airflow_heartbeats_total", "Heartbeats of Airflow's scheduler since the exporter started."),
    Metric("alchemist_airflow_import_errors", "DAG files that Airflow could not import."),
    Metric("alchemist_airflow_run_seconds", "Duration of the newest run of a DAG, by outcome.", ("dag", "outcome")),
    Metric("alchemist_airflow_runs_total", "DAG runs that ended since the exporter started.", ("dag", "outcome")),
    Metric(
        "alchemist_airflow_pool_slots",
        "Slots of the pool gpu: open, queued, running, deferred (a pod works).",
        ("outcome",),
    ),
)


@dataclass(frozen=True, slots=True)
class ForeignMetric:
    """A metric of another program, passed on under its usual name: a total, a gauge, or a timer with its sum in seconds and its count."""

    name: str
    is_timer: bool
    values: tuple[tuple[dict[str, str], float, float], ...]
    """Labels, value or sum, and count (only of a timer) of each series."""


Measurements = dict[str, list[tuple[tuple[str, ...], float]]]
"""The values of metrics by their names: labels and value of each series."""
