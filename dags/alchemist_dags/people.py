"""Failures, questions and answers: `alchemist note` stores them, and notifies the receivers in the settings."""

import logging
import subprocess
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseNotifier, Param
from airflow.sdk.exceptions import AirflowSkipException

from alchemist_dags.commands import alchemist, environment_of
from alchemist_dags.jobs import LONGEST_VALUE, CommandFailed, GiveUpOnFinalErrors, NotRun, Run

PATIENCE = timedelta(days=7)
COMMENT = Param("", type=["string", "null"], maxLength=2000, title="Comment", description="Kept in the audit log")
NOTE_TIMEOUT_S = 60
TASK_LOG = logging.getLogger("airflow.task")


def tell(kind, context, *, reason, **flags):
    """Note what happened to a task; a note that fails must not fail the task."""
    one = context["task_instance"]
    # No longer than an argument can be, from its end: the end of a log says most.
    reason = reason.replace("\0", "")[-LONGEST_VALUE:]
    line = alchemist("note", kind, subject=f"{one.dag_id}.{one.task_id}", run=one.run_id, reason=reason, **flags)
    try:
        subprocess.run(line, check=True, timeout=NOTE_TIMEOUT_S, env=environment_of(line))
    except (OSError, subprocess.SubprocessError) as error:
        TASK_LOG.warning("not noted: %s", error)


def note_failure(context):
    """Write why a task failed for good; the note adds the end of its log, which says more than the exception."""
    one = context["task_instance"]
    # A task that was killed, or that never started, has no exception.
    reason = (
        str(context.get("exception") or "") or "Airflow names no reason: the task was killed, lost or never started."
    )
    if not isinstance(context.get("exception"), NotRun):
        tell("failure", context, reason=reason, try_number=one.try_number, map_index=one.map_index)
    repeat_reason(context)


def repeat_reason(context):
    """Let the line that helps be the last one of the task's log."""
    if isinstance(error := context.get("exception"), CommandFailed):
        TASK_LOG.error("%s", error)


class NoteQuestion(BaseNotifier):
    """Somebody learns that a task waits for an answer."""

    template_fields = ()

    def notify(self, context):
        """Tell the question that the task asks."""
        task, one = context["task"], context["task_instance"]
        tell("approval", context, reason=f"{task.subject}\n{task.body}", try_number=one.try_number)


def answered(given):
    """Return who answered a question and with which comment, as flags of a command; none where nobody was asked."""
    if not given:
        return {}
    user, said = given.get("responded_by_user") or {}, given.get("params_input") or {}
    comment = str(said.get("comment") or "").replace("\0", "")
    return {"approved_by": user.get("name") or user.get("id") or "unknown", "comment": comment}


class Question(ApprovalOperator):
    """Wait for a person's answer to what `ask(run)` returns, a subject and a text; skip where `when(run)` is false.

    What is asked is made when the task runs, not rendered: a name that looks like a template stays a name. Who answered, when and with
    which comment is noted in the store, also for a rejection, behind which no command runs.
    """

    template_fields = ()

    def __init__(self, *, ask, when=lambda _run: True, **options):
        super().__init__(
            subject="?", notifiers=[NoteQuestion()], response_timeout=PATIENCE,
            execution_timeout=None, **options,
        )  # fmt: skip
        self.ask, self.when = ask, when

    def execute(self, context):
        """Ask, unless nobody has to agree."""
        run = Run.of(context)
        if not self.when(run):
            raise AirflowSkipException("no approval needed")
        self.subject, self.body = self.ask(run)
        return super().execute(context)

    def execute_complete(self, context, event):
        """Note the answer, then go on or skip what follows."""
        if "error" not in event:
            said = {**answered(event), "answer": event["chosen_options"][0]}
            one = context["task_instance"]
            tell("answer", context, reason="\n".join(self.ask(Run.of(context))), try_number=one.try_number, **said)
        return super().execute_complete(context, event)


def approve(task_id, **options):
    """Return a task that waits for a person."""
    return Question(task_id=task_id, params={"comment": COMMENT}, **options)


# What every DAG here has: nobody wants the nights since 1970, and a failure tells somebody.
COMMON = {
    "catchup": False,
    "default_args": {
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=12),
        "retry_policy": GiveUpOnFinalErrors(),
        "on_failure_callback": note_failure,
        "on_retry_callback": repeat_reason,
    },
}
