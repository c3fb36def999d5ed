"""Note what Airflow has to say to people: a task that failed, a question that waits; dashboards and a program of yours hear it."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Literal

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.local.airflow_client import log_end
from alchemist_core.local.airflow_environment import task_log_path
from alchemist_core.settings import load_settings
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.engine import open_store
from alchemist_core.telemetry import say

NOTIFY_TIMEOUT_S = 30
LONGEST_REASON = 4000  # characters, from the end


class NoteConfig(Config):
    """Which task, and what it says."""

    subject: str = Field(..., min_length=1, max_length=300, description="The task, as DAG.TASK")
    reason: str = Field(..., max_length=20_000, description="Why it failed, or what it asks")
    run: str | None = Field(None, description="The DAG run's id")
    try_number: int | None = Field(None, ge=0, description="Which try failed; with it the end of its log is the reason")
    map_index: int = Field(-1, ge=-1, description="Which of mapped tasks; -1: it is not mapped")


class NoteReport(Report):
    """Where it went."""

    subject: str
    is_notified: bool


def failure(config: NoteConfig) -> NoteReport:
    """Note that a task failed after its last retry; the dashboard shows the reason, the alert TaskFailed counts it."""
    return _note("task failed", config)


def approval(config: NoteConfig) -> NoteReport:
    """Note that a task waits for a person's answer."""
    return _note("approval asked", config)


def _note(action: Literal["task failed", "approval asked"], config: NoteConfig) -> NoteReport:
    reason = "\n".join(part for part in (config.reason, _log_end(config)) if part)
    with open_store().begin() as connection:
        after = {"reason": reason[-LONGEST_REASON:], "run": config.run}
        record_event(connection, current_actor(), action, config.subject, after=after)
    return NoteReport(subject=config.subject, is_notified=_notify(f"Alchemist: {action}: {config.subject}\n{reason}\n"))


def _log_end(config: NoteConfig) -> str:
    """Return the end of the task's log where it lies on this machine: Airflow's own exception only knows the exit code."""
    home = os.environ.get("AIRFLOW_HOME")
    if home is None or config.try_number is None or config.run is None:
        return ""
    dag_id, _, task_id = config.subject.partition(".")
    path = task_log_path(
        Path(home).parent, dag_id=dag_id, run_id=config.run, task_id=task_id, map_index=config.map_index,
        try_number=config.try_number,
    )  # fmt: skip
    return log_end(path) if path.exists() else ""


def _notify(text: str) -> bool:
    """Give the text to the program that the settings name; one that fails is told and stops nothing."""
    program = load_settings().notify_command
    if program is None:
        return False
    try:
        subprocess.run(shlex.split(program), input=text, text=True, check=True, timeout=NOTIFY_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"nobody was notified: {error}")
        return False
    return True


COMMANDS = {"failure": Command(NoteConfig, failure), "approval": Command(NoteConfig, approval)}
