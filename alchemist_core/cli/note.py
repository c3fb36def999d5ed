"""Record events of Airflow (a failed task, its recovery, a question, its answer) in the audit log, and notify people. Called by Airflow."""

import os
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from alchemist_core.config import Command, Config, Result
from alchemist_core.local.airflow_environment import task_log_path
from alchemist_core.notifications import Event, Kind, runbook_page, send_announced, task_page
from alchemist_core.settings import load_settings
from alchemist_core.store.audit import asked_about, current_actor, record_event
from alchemist_core.store.engine import open_store
from alchemist_core.store.notifications import announce, is_delivered, settle_failures

LONGEST_FIRST_LINE = 1000
"""Characters of the first line of a reason, the headline: from its start."""
LONGEST_REST = 4000
"""Characters of the other lines, such as a log: from their end."""


class TaskConfig(Config):
    """Which task the event is about."""

    subject: str = Field(
        ...,
        min_length=1,
        max_length=300,
        description="Task, as DAG.TASK; success: also DAG, all tasks of the run",
    )
    run: str | None = Field(None, description="Id of the DAG run")
    map_index: int = Field(-1, ge=-1, description="Index of a mapped task; -1: not mapped")
    try_number: int | None = Field(
        None, ge=0, description="Number of the attempt; the last lines of its log are added to the reason"
    )


class NoteConfig(TaskConfig):
    """Which task, and its message."""

    reason: str = Field(
        ...,
        max_length=20_000,
        description="Message of the event. failure: the error of the task. approval: the question",
    )


class QuestionConfig(NoteConfig):
    """Which question, and what it is about."""

    of: str | None = Field(
        None,
        min_length=1,
        max_length=300,
        description="What the answer approves, and nothing else: a subset version, such as best v3, or the name of a rater",
    )


class AnswerConfig(TaskConfig):
    """Which question, its answer, and who answered."""

    answer: str = Field(..., min_length=1, max_length=100, description="Approve or Reject")
    approved_by: str = Field(..., min_length=1, max_length=200, description="Name of the Airflow user who answered")
    comment: str | None = Field(None, max_length=2000, description="Comment of that user")
    reason: str | None = Field(None, max_length=20_000, description="The question that was answered")


class NoteResult(Result):
    """The subject, and whether people were notified."""

    subject: str
    is_notified: bool


def failure(config: NoteConfig) -> NoteResult:
    """Record that a task failed after its last retry; the dashboard and the alert TaskFailed show it."""
    reason = "\n".join(part for part in (config.reason, _log_end(config)) if part)
    return _note(
        "task failed",
        "failed_task",
        config,
        reason,
        to_do="Remove the cause, then clear the task in Airflow.",
    )


def success(config: TaskConfig) -> NoteResult:
    """Record that a task that had failed was cleared and succeeded, or all tasks of a run, so that they wait for a person no longer."""
    is_task = "." in config.subject
    own = f"{config.subject}:{config.run}:{config.map_index}:" if is_task else f"{config.subject}."
    with open_store().begin() as connection:
        settle_failures(connection, f"failed_task:{own}", run=config.run)
    return NoteResult(subject=config.subject, is_notified=False)


def approval(config: QuestionConfig) -> NoteResult:
    """Record that a task waits for an answer, and what the question is about."""
    about = {"of": config.of, "try_number": config.try_number}
    return _note(
        "approval asked", "question", config, config.reason, to_do="Approve or reject it on that page.", **about
    )


def answer(config: AnswerConfig) -> NoteResult:
    """Record the answer to a question: who answered, when, with which comment, and what the question was about when it was asked."""
    of = asked_about(open_store(), config.subject, config.try_number)
    answered = {"answer": config.answer, "approved_by": config.approved_by, "comment": config.comment, "of": of}
    reason = f"{config.answer} by {config.approved_by}" + (f": {config.comment}" if config.comment else "")
    return _note("approval answered", "answered", config, reason, to_do="Nothing.", asked=config.reason, **answered)


def _note(
    action: Literal["task failed", "approval asked", "approval answered"],
    kind: Kind,
    config: TaskConfig,
    reason: str,
    *,
    to_do: str,
    **more: Any,
) -> NoteResult:
    """Record an event once, so that a repeated callback sends no second notification."""
    first, line_end, rest = reason.partition("\n")
    first, rest = first[:LONGEST_FIRST_LINE], rest[-LONGEST_REST:]
    # Without a run id, a repeated event cannot be recognised, so each call is an event of its own.
    run = config.run or uuid4().hex
    event = Event(
        kind=kind,
        key=f"{kind}:{config.subject}:{run}:{config.map_index}:{config.try_number}",
        what_happened=f"{config.subject}: {first}",
        where_to_look=_page(config, kind),
        what_to_do=to_do,
        facts={"run": config.run, "details": rest or None},
    )
    engine = open_store()
    with engine.begin() as connection:
        if announce(connection, event):
            after = {"reason": first + line_end + rest, "run": config.run, **more}
            record_event(connection, current_actor(), action, config.subject, after=after)
    # Not `deliver`: the command would send again at its end, and that is another of the few attempts of an event.
    send_announced()
    return NoteResult(subject=config.subject, is_notified=is_delivered(engine, event.key))


def _page(config: TaskConfig, kind: Kind) -> str:
    dag_id, _, task_id = config.subject.partition(".")
    tab = "required_actions" if kind == "question" else ""
    page = config.run and task_page(dag_id, config.run, task_id, map_index=config.map_index, tab=tab)
    return page or runbook_page("taskfailed")


def _log_end(config: NoteConfig) -> str:
    """Return the end of the log of the task if it is on this machine; Airflow's own exception has only the exit code."""
    logs, home = load_settings().task_logs, os.environ.get("AIRFLOW_HOME")
    if logs is None and home is not None:
        logs = Path(home) / "logs"
    if logs is None or config.try_number is None or config.run is None:
        return ""
    dag_id, _, task_id = config.subject.partition(".")
    path = task_log_path(
        logs,
        dag_id=dag_id,
        run_id=config.run,
        task_id=task_id,
        map_index=config.map_index,
        try_number=config.try_number,
    )
    if not path.exists():
        return ""
    from alchemist_core.local.airflow_client import log_end  # noqa: PLC0415  loads the HTTP client of the standard library

    return log_end(path)


COMMANDS = {
    "failure": Command(NoteConfig, failure),
    "success": Command(TaskConfig, success),
    "approval": Command(QuestionConfig, approval),
    "answer": Command(AnswerConfig, answer),
}
