"""The operators of the DAGs. A task runs one command line, on the Airflow worker or in a pod.

No operator here has template fields: Airflow never renders a value from a form, a task's result or a run's name as a template.
`tests/dags/test_policy.py` refuses any other operator in a DAG.

ALCHEMIST_JOB_RUNNER=local|kubernetes. A PodTemplate in infra/kubernetes sets the pod's image, devices, volumes and secrets.
"""

import json
import logging
import os
import signal
import subprocess
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import BaseOperator, CronTriggerTimetable, Param, RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.exceptions import AirflowSkipException

from alchemist_dags.commands import environment_of
from alchemist_dags.forms import FORMS, RENAMED
from alchemist_dags.schedules import CRON, NODES, TIMEZONE

RUNNER = os.environ.get("ALCHEMIST_JOB_RUNNER", "local")
# Queues of CeleryExecutor; other executors ignore them. A task whose command runs in a pod only waits, as light tasks do.
LIGHT, DEVICE = "light", "device"
POD_TEMPLATE = os.environ.get("ALCHEMIST_POD_TEMPLATE", "alchemist-device-job")
LONGEST = timedelta(days=3)
LONGEST_VALUE = 10_000  # characters; Linux allows 131,071 bytes in one argument
N_LINES_KEPT = 30
# Keys of an item: a night, a slot of a night, or a subset version.
ITEM = ("dataset", "crawl_date", "slot", "subset", "version")
# Choices of an option that is switched on or off; empty: as the project file says.
SWITCH = [None, "yes", "no"]
NOT_STARTED, FOUND_FAILED = 127, 5
# Exit codes that a retry would return again. Equal to those in alchemist_core/errors.py; a test compares them.
FINAL_EXIT_CODES = (2, 5, 7, 9)


def form(dag_id):
    """Return a DAG's form. Runs that a schedule or an asset starts have empty fields, which mean what the project file says.

    Raises:
        ValueError: A variable of an earlier version is set, which would have no effect.
    """
    if "/" in POD_TEMPLATE:
        raise ValueError(
            f"ALCHEMIST_POD_TEMPLATE is {POD_TEMPLATE!r}, a path. It is now the name of a PodTemplate of the cluster; unset: "
            "alchemist-device-job of infra/kubernetes."
        )
    if instead := next((text for name, text in REMOVED_VARIABLES.items() if os.environ.get(name)), None):
        raise ValueError(instead)
    return {name: Param(**field) for name, field in FORMS[dag_id].items()}


def cron(dag_id, timetable=CronTriggerTimetable, **options):
    """Return a DAG's timetable; None if it starts by hand only."""
    return timetable(CRON[dag_id], timezone=TIMEZONE, **options) if CRON[dag_id] else None


REMOVED_VARIABLES = {
    "ALCHEMIST_TRAIN_WEEKLY": "ALCHEMIST_TRAIN_WEEKLY was removed. Set [schedule] train and [rater] in alchemist.toml.",
    "ALCHEMIST_LAUNCH": "ALCHEMIST_LAUNCH was removed. Set [launch] processes_per_node in alchemist.toml.",
    "ALCHEMIST_EVALUATE": "ALCHEMIST_EVALUATE was removed. Set [downstream] and [evaluation] in alchemist.toml.",
}


def _unknown_keys(dag_id, keys, source):
    """Return what is wrong with keys that are not fields of a DAG's form, in one line; None if all are."""
    fields, renames = FORMS.get(dag_id, {}), RENAMED.get(dag_id, {})
    unknown = sorted(set(keys) - fields.keys())
    if renamed := [f"{name} is now {renames[name]}" for name in unknown if name in renames]:
        return f"Former key in {source}: {', '.join(renamed)}."
    if unknown:
        allowed = ", ".join(fields) or "none, this DAG has no form"
        return f"Unknown key in {source}: {', '.join(map(repr, unknown))}. Allowed: {allowed}."
    return None


def as_flags(result, *allowed):
    """Return the result of an earlier task, whose keys become flags; refuse keys that no such task returns: a user may have edited it."""
    if unknown := sorted(set(result) - set(allowed), key=str):
        reason = f"Unknown key in the result of an earlier task: {', '.join(map(repr, unknown))}. Allowed: {', '.join(allowed)}."
        raise CommandFailed(reason, 2)
    return result


class CommandFailed(SystemExit):
    """A failed command. A SystemExit, so that Airflow logs the reason without a traceback."""

    def __init__(self, reason, code):
        super().__init__(reason or f"exit code {code}")
        self.exit_code = code


class NotRun(CommandFailed):
    """A command that was not run because another task of the same item failed; only that task is notified."""


class GiveUpOnFinalErrors(RetryPolicy):
    """Do not retry if the same command would fail again."""

    def evaluate(self, exception, try_number, max_tries, context=None):  # noqa: ARG002  the policy's interface
        """Return the decision for the command's exit code."""
        code = getattr(exception, "exit_code", None)
        if code in FINAL_EXIT_CODES:
            return RetryDecision.fail(f"exit code {code}: the same command would fail again")
        return RetryDecision.default()


def read_value(name, value, field):
    """Return one value of a form. Text in a number field becomes a number, 20% becomes 0.2; yes and no become true and false.

    The word that some number fields take, such as auto, stays text.
    """
    if field.get("enum") == SWITCH:
        return {"yes": True, "no": False}.get(value)
    if not isinstance(value, str):
        return value
    if "\0" in value or len(value) > LONGEST_VALUE:
        raise CommandFailed(
            f"{name} cannot be an argument of a command: at most {LONGEST_VALUE:,} characters, none of them NUL.", 2
        )
    if "else" not in field:
        return value
    text = value.strip()
    if text and text == field["then"].get("word"):
        return text
    try:
        if "integer" in field["else"]["type"]:
            return int(text)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise CommandFailed(f"{name} is {value!r}: it must be a number, {field['then']['allowed']}.", 2) from None


@dataclass(frozen=True)
class Run:
    """The values from outside that a command line may contain."""

    form: dict[str, Any]
    """The fields of the DAG's form, and nothing else."""
    item: Any
    """The item of a mapped task; None for other tasks."""
    day: str
    """The crawl date of the run, YYYY-MM-DD."""
    task_instance: Any

    @classmethod
    def of(cls, context, item=None):
        """Return the values of a run; refuse keys that its form does not have."""
        dag_run, fields = context["dag_run"], FORMS.get(context["dag"].dag_id, {})
        if complaint := _unknown_keys(context["dag"].dag_id, dag_run.conf or {}, "the run's configuration"):
            raise CommandFailed(complaint, 2)
        given = {name: read_value(name, context["params"][name], field) for name, field in fields.items()}
        if isinstance(item, dict):
            item = as_flags(item, *ITEM)
        day = dag_run.partition_key or given.get("crawl_date") or day_of(dag_run).isoformat()
        return cls(given, item, scheduled_day(dag_run) or day, context["ti"])

    @property
    def is_own_night(self):
        """Whether the item is of the run's crawl date: its ingest takes undated shards, and those of earlier nights run beside it."""
        return self.item.get("crawl_date") == self.day

    def result_of(self, task_id):
        """Return the result of a task of this run."""
        return self.task_instance.xcom_pull(task_ids=task_id)

    def unsuccessful(self, task_ids=None, *, map_index=None):
        """Return the failed tasks of this run; limited to these task ids and this index of mapped tasks if given."""
        here = self.task_instance
        states = here.get_task_states(here.dag_id, map_index=map_index, task_ids=task_ids, run_ids=[here.run_id])
        ended = states.get(here.run_id, {})
        return sorted(name for name, state in ended.items() if state in ("failed", "upstream_failed"))


def scheduled_day(dag_run):
    """Return the crawl date of a night that the schedule started: the day before, in its time zone; None for any other run.

    The partition is the day of the previous start. That is the wrong day where a start time does not exist, because the clocks go
    forward: Airflow moves this start and the one that it takes for the previous one to the same hour.
    """
    if dag_run.partition_key is None or dag_run.run_type != "scheduled":
        return None
    return (day_of(dag_run) - timedelta(days=1)).isoformat()


def day_of(dag_run):
    """Return the day on which a run starts, in the time zone of the schedule."""
    return dag_run.run_after.astimezone(ZoneInfo(TIMEZONE)).date()


class CommandTask(BaseOperator):
    """Run the command line that `line(run)` returns; skip where `when(run)` is false.

    Args:
        line: makes the argument list from a `Run`.
        when: whether the task runs; None: always.
        item: the item of this mapped task.
        returns: the key of the command's JSON output (its last line) that becomes the task's result; several: a dictionary of them;
            empty: the whole output.
        needs: tasks that must have succeeded for the same item; they may have failed for other items.
        closes: whether this task is the last of the run: after its command it fails if any task of the run failed.
    """

    template_fields = ()

    def __init__(self, *, line, when=None, item=None, returns=None, needs=(), closes=False, **options):
        super().__init__(**{"do_xcom_push": returns is not None, **options})
        self.line, self.when, self.item, self.returns, self.needs, self.closes = (
            line,
            when,
            item,
            returns,
            needs,
            closes,
        )
        self.process = None

    def execute(self, context):
        """Run the command on this worker, without a shell."""
        last_lines = self.run(self.read_line(context), variables_of(context["ti"]))
        if self.closes and (failed := Run.of(context).unsuccessful()):
            raise CommandFailed(
                "\n".join([*last_lines, f"error: These tasks of the run failed: {', '.join(failed)}."]), FOUND_FAILED
            )
        if self.returns is None:
            return None
        result = json.loads(last_lines[-1])
        if isinstance(self.returns, tuple):
            return {key: result[key] for key in self.returns}
        return result[self.returns] if self.returns else result

    def run(self, line, variables):
        """Run a command with these variables too, log its output, and return the last lines."""
        self.log.info("Running %s", line)
        last_lines = deque(maxlen=N_LINES_KEPT)
        with tempfile.TemporaryDirectory() as folder:
            # In its own session, so that it survives the death of the worker; the retry then follows its run.
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True, "cwd": folder}
            try:
                self.process = subprocess.Popen(line, env=environment_of(line) | variables, **options)
            except OSError as error:
                raise CommandFailed(f"{line[0]} cannot be started: {error.strerror}.", NOT_STARTED) from None
            with self.process.stdout as output:
                for raw in output:
                    text = raw.decode(errors="backslashreplace").rstrip()
                    message = message_of(text)
                    self.log.log(logging.ERROR if message.startswith("error: ") else logging.INFO, "%s", text)
                    if message.startswith("error: "):
                        last_lines.clear()
                    if message:
                        last_lines.append(message)
            if code := self.process.wait():
                is_explained = last_lines and last_lines[0].startswith("error: ")
                raise CommandFailed("\n".join(last_lines) if is_explained else "".join([*last_lines][-1:]), code)
        return last_lines

    def read_line(self, context):
        """Return the argument list of this run."""
        run = Run.of(context, self.item)
        if self.when is not None and not self.when(run):
            raise AirflowSkipException("Skipped: the form does not request this task.")
        if self.needs and (failed := run.unsuccessful(list(self.needs), map_index=run.task_instance.map_index)):
            raise NotRun(f"Not run: {', '.join(failed)} failed for the same item. See the log there.", FOUND_FAILED)
        return self.line(run)

    def on_kill(self):
        """Stop the command when Airflow stops its task."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)


def message_of(text):
    """Return the message of a line of a command's log, which is an object with ALCHEMIST_LOG_FORMAT=json; other lines as they are."""
    # The result of a command is an object too, with other keys.
    if text.startswith('{"time": "'):
        with suppress(ValueError, KeyError):
            return json.loads(text)["message"]
    return text


def variables_of(task_instance):
    """Return the variables that name a task to its command, for links: its index if it is mapped, and its OpenLineage events."""
    return {"AIRFLOW_CTX_MAP_INDEX": str(task_instance.map_index)} | lineage_parent(task_instance)


def lineage_parent(task_instance):
    """Return the variables that name a task as the parent of its command's OpenLineage events; none without Airflow's provider."""
    try:
        from airflow.providers.openlineage.plugins import macros  # noqa: PLC0415  the provider is optional
    except ModuleNotFoundError:
        # The command derives ids from the names of the DAG run and the task: no other event refers to them.
        return {}
    return {
        "OPENLINEAGE_PARENT_ID": macros.lineage_parent_id(task_instance),
        "OPENLINEAGE_ROOT_PARENT_ID": macros.lineage_root_parent_id(task_instance),
    }


def step(task_id, line, **options):
    """Return a task that runs on the Airflow worker."""
    return CommandTask(task_id=task_id, line=line, queue=LIGHT, **options)


def device_step(task_id, line, *, over=None, is_training=False, **options):
    """Return a task that uses a device, in Airflow's pool gpu. With `over`: one task for each item of that result.

    On Kubernetes a training runs on as many nodes as [launch] of the project file says.
    """
    kind = CommandTask if RUNNER == "local" else _pod_task(has_nodes=is_training and NODES > 1)
    # Absolute weights: a night is started before a training, and a training before an evaluation.
    options = {
        "pool": "gpu",
        "queue": DEVICE if RUNNER == "local" else LIGHT,
        "weight_rule": "absolute",
        "execution_timeout": LONGEST,
        "do_xcom_push": False,
        "line": line,
        **options,
    }
    if over is None:
        return kind(task_id=task_id, **options)
    return kind.partial(task_id=task_id, **options).expand(item=over)


def mapped_step(task_id, line, *, over, **options):
    """Return a mapped task on the Airflow worker: one for each item of a result."""
    return CommandTask.partial(task_id=task_id, line=line, queue=LIGHT, do_xcom_push=False, **options).expand(item=over)


def _pod_task(*, has_nodes):
    """Return the operator that runs a command in a pod, or in one on each node. Imported late, because its provider is optional."""
    if RUNNER != "kubernetes":
        raise ValueError(f"ALCHEMIST_JOB_RUNNER is {RUNNER!r}: it must be local or kubernetes.")
    from alchemist_dags.pods import NodesTask, PodTask  # noqa: PLC0415  see above

    return NodesTask if has_nodes else PodTask
