"""Failures, questions and answers. `alchemist note` stores them and sends notifications to the configured receivers."""

import logging
import subprocess
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseNotifier, Param
from airflow.sdk.exceptions import AirflowSkipException

from alchemist_dags.commands import alchemist, environment_of
from alchemist_dags.jobs import (
    FOUND_FAILED,
    LIGHT,
    LONGEST_VALUE,
    CommandFailed,
    GiveUpOnFinalErrors,
    NotRun,
    Run,
)

PATIENCE = timedelta(days=7)
COMMENT = Param("", type=["string", "null"], maxLength=2000, title="Comment", description="Stored in the audit log")
NOTE_TIMEOUT_S = 60
TASK_LOG = logging.getLogger("airflow.task")


def send_note(kind, context, *, reason=None, **flags):
    """Run `alchemist note` for a task; if it fails, the task does not fail."""
    one = context["task_instance"]
    # Cut to the longest allowed argument; the end of a log is the most useful part.
    if reason is not None:
        flags = {"reason": reason.replace("\0", "")[-LONGEST_VALUE:], **flags}
    flags = {"subject": f"{one.dag_id}.{one.task_id}", "run": one.run_id, **flags}
    line = alchemist("note", kind, **flags)
    try:
        subprocess.run(line, check=True, timeout=NOTE_TIMEOUT_S, env=environment_of(line))
    except (OSError, subprocess.SubprocessError) as error:
        TASK_LOG.warning("Could not store the note: %s", error)


def note_failure(context):
    """Store why a task failed after its last retry; `alchemist note` adds the end of the task's log."""
    one = context["task_instance"]
    # Airflow passes no exception for a task that was killed or never started.
    reason = (
        str(context.get("exception") or "") or "Airflow gives no reason: the task was killed, lost or never started."
    )
    if not isinstance(context.get("exception"), NotRun):
        send_note("failure", context, reason=reason, try_number=one.try_number, map_index=one.map_index)
    repeat_reason(context)


def note_recovery(context):
    """Store that a task succeeded that was tried before, so that its failure, if it was its last try, no longer waits for a person.

    The closing task succeeds only if no task of its run failed: after Clear, a mapped task may have fewer items than before.
    """
    one = context["task_instance"]
    if getattr(context["task"], "closes", False):
        send_note("success", context, subject=one.dag_id)
    elif one.try_number > 1:
        send_note("success", context, map_index=one.map_index)


def repeat_reason(context):
    """Log the error message again, so that it is the last line of the task's log."""
    if isinstance(error := context.get("exception"), CommandFailed):
        TASK_LOG.error("%s", error)


class NoteQuestion(BaseNotifier):
    """Send a notification that a task waits for an answer."""

    template_fields = ()

    def notify(self, context):
        """Send the question of the task."""
        task, one = context["task"], context["task_instance"]
        send_note("approval", context, reason=f"{task.subject}\n{task.body}", try_number=one.try_number, of=task.of)


def answered(given):
    """Return who answered a question and with which comment, as flags of a command."""
    user, fields = given.get("responded_by_user") or {}, given.get("params_input") or {}
    comment = str(fields.get("comment") or "").replace("\0", "")
    return {"approved_by": user.get("name") or user.get("id") or "unknown", "comment": comment}


class Question(ApprovalOperator):
    """Wait for a person's answer to the question that `ask(run)` returns; skip if `when(run)` is false.

    The question is what it is about, its subject and its text. What it is about is stored when it is asked, and the answer approves
    nothing else. It is made when the task runs and is not a template, so a name that looks like a template stays a name. The answer
    is stored here, because no command runs after a rejection.
    """

    template_fields = ()

    def __init__(self, *, ask, when=lambda _run: True, **options):
        super().__init__(
            subject="?", notifiers=[NoteQuestion()], response_timeout=PATIENCE,
            execution_timeout=None, **options,
        )  # fmt: skip
        self.ask, self.when, self.of = ask, when, None

    def execute(self, context):
        """Ask the question, or skip if no approval is needed."""
        run = Run.of(context)
        if not self.when(run):
            raise AirflowSkipException("Skipped: no approval is needed.")
        self.of, self.subject, self.body = self.ask(run)
        return super().execute(context)

    def execute_complete(self, context, event):
        """Store the answer, then continue, or skip the following tasks. Without an answer, fail and do not ask again."""
        if event.get("error_type") == "timeout":
            raise CommandFailed(
                f"error: No answer within {PATIENCE.days} days. Clear this task to ask again.", FOUND_FAILED
            )
        if "error" not in event:
            fields = {**answered(event), "answer": event["chosen_options"][0]}
            one, (_, *question) = context["task_instance"], self.ask(Run.of(context))
            send_note("answer", context, reason="\n".join(question), try_number=one.try_number, **fields)
        return super().execute_complete(context, event)


def approve(task_id, **options):
    """Return a task that waits for a person's approval."""
    return Question(task_id=task_id, queue=LIGHT, params={"comment": COMMENT}, **options)


# Arguments of every DAG: no runs for past dates (`plan night` lists missed nights), and a notification for each failure.
COMMON = {
    "catchup": False,
    "default_args": {
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=12),
        "retry_policy": GiveUpOnFinalErrors(),
        "on_failure_callback": note_failure,
        "on_success_callback": note_recovery,
        "on_retry_callback": repeat_reason,
    },
}
