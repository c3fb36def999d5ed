"""What Airflow tells people, and what it asks them: by `alchemist note`, which the dashboard shows and your program hears."""

import shlex
import subprocess
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseNotifier
from airflow.sdk.exceptions import AirflowSkipException
from commands import alchemist

PATIENCE = timedelta(days=7)
NOTE_TIMEOUT_S = 60


def tell(kind, context, **flags):
    """Note what happened to a task; a note that fails must not fail the task."""
    one = context["task_instance"]
    line = alchemist("note", kind, subject=f"{one.dag_id}.{one.task_id}", run=one.run_id, **flags)
    try:
        subprocess.run(shlex.split(line), check=True, timeout=NOTE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"not noted: {error}")  # noqa: T201  into the task's log


def note_failure(context):
    """Write why a task failed for good; the note adds the end of its log, which says more than the exception."""
    one = context["task_instance"]
    tell("failure", context, reason=context.get("exception"), try_number=one.try_number, map_index=one.map_index)


class NoteQuestion(BaseNotifier):
    """Somebody learns that a task waits for an answer."""

    def __init__(self, question):
        super().__init__()
        self.question = question

    template_fields = ("question",)

    def notify(self, context):
        """Tell it, with the templates filled in."""
        tell("approval", context, reason=self.question)


def approve(task_id, *, subject, body, is_needed, **options):
    """Return a task that waits for a person; it is skipped where `is_needed(context)` says that nobody need agree."""

    def skip_unless_needed(context):
        if not is_needed(context):
            raise AirflowSkipException("nobody need agree to this")

    return ApprovalOperator(
        task_id=task_id, subject=subject, body=body, notifiers=[NoteQuestion(subject)], response_timeout=PATIENCE,
        execution_timeout=None, pre_execute=skip_unless_needed, **options,
    )  # fmt: skip


# What every DAG here has: nobody wants the nights since 1970, and a failure tells somebody.
COMMON = {
    "catchup": False,
    "default_args": {
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=12),
        "on_failure_callback": note_failure,
    },
}
