"""Inputs and outputs of stages as OpenLineage events: dataset → shards → rater → scores → rank snapshot → subset → models → metric.

If ALCHEMIST_OPENLINEAGE is set and the extra `lineage` is installed, a stage sends an event when it starts, and when it ends or
fails. The client reads the address from its own OPENLINEAGE_ variables. In Airflow, the task is the parent of the run. The view
`alchemist.lineage` has the same links for the rows of the store; these events are for a data catalog outside. A stage continues when
the catalog is unreachable. A killed process sends no end event; its next attempt is a new run.
"""

import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from alchemist_core.code_version import code_version
from alchemist_core.extras import missing_library
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import warn

NAMESPACE = "alchemist"
# Aliases in a config that the stage resolves to a rater; they must not appear in the catalog as raters.
ALIASES = frozenset({"production", "newest", "nightly"})
Values = Mapping[str, Any]
AIRFLOW = "airflow"
"""Namespace of Airflow's jobs where its own OpenLineage provider is not installed."""


@dataclass(frozen=True, slots=True)
class Step:
    """A job with the names of its inputs and outputs; `parent` is the stage that it is a part of."""

    job: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    parent: str | None = None


def send_start(stage: str, run_id: int, config: Values) -> None:
    """Send the start of a run, with the inputs that its config names."""
    _send(run_id, lambda: [Step(stage, known_inputs(stage, config), [])], "START")


def send_end(stage: str, run_id: int, config: Values, result: Values) -> None:
    """Send the end of a run, with its inputs and outputs."""
    _send(run_id, lambda: steps(stage, {**config, **result}), "COMPLETE")


def send_failure(stage: str, run_id: int, config: Values, error: str) -> None:
    """Send the failure of a run with its error; a failed run has no outputs."""
    _send(run_id, lambda: [Step(stage, known_inputs(stage, config), [])], "FAIL", error=error)


def known_inputs(stage: str, config: Values) -> list[str]:
    """Return the inputs that a stage's config names; versions and aliases are resolved only when the stage ends.

    >>> known_inputs("score", {"dataset": "web", "rater": "production"})
    ['shards/web']
    """
    match stage:
        case "ingest":
            return _named("crawls", config.get("dataset"))
        case "train_rater":
            return [*_named("shards", config.get("dataset")), *_named("shards", config.get("validation"))]
        case "score":
            return [*_named("shards", config.get("dataset")), *_named("raters", config.get("rater"))]
    return []


def steps(stage: str, values: Values) -> list[Step]:
    """Return the jobs of a run that ended; `values` is its config, updated with its result.

    >>> [(step.job, step.outputs) for step in steps("score", {"dataset": "web", "rater": "r1"})]
    [('score', ['scores/r1'])]
    """
    read = known_inputs(stage, values)
    version = _named("subsets", values.get("subset"))
    match stage:
        case "ingest":
            return [Step(stage, read, _named("shards", values.get("dataset")))]
        case "train_rater":
            return [Step(stage, read, _named("raters", values.get("rater")))]
        case "score":
            return [Step(stage, read, _named("scores", values.get("rater")))]
        case "select":
            return _selection(values)
        case "materialize":
            return [Step(stage, version, [f"tars/{values['folder']}"])]
        case "train_downstream":
            return [Step(stage, version, _named("models", values.get("subset")))]
        case "evaluate":
            return [
                Step(
                    stage, _named("models", values.get("subset")), [f"metrics/{values['metric']} of {values['subset']}"]
                )
            ]
    return [Step(stage, [], [])]


def _selection(values: Values) -> list[Step]:
    """Return the two jobs of a selection: all versions selected from the same eligible samples share one snapshot."""
    pool = [*_named("shards", values.get("dataset")), *_named("scores", values.get("rater"))]
    snapshot = [f"snapshots/{values['eligible_hash']}"]
    return [
        Step("snapshot", pool, snapshot, parent="select"),
        Step("select", snapshot, [f"subsets/{values['name']} v{values['version']}"]),
    ]


def _named(kind: str, names: Any) -> list[str]:
    if not names:
        return []
    listed = names.split(",") if isinstance(names, str) else names
    return [f"{kind}/{name.strip()}" for name in listed if name.strip() not in ALIASES]


def _send(run_id: int, make_steps: Callable[[], Sequence[Step]], state: str, *, error: str | None = None) -> None:
    if not load_settings().openlineage:
        return
    try:
        from openlineage.client import OpenLineageClient  # noqa: PLC0415  an extra

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's own
            client = OpenLineageClient()
            for step in make_steps():
                client.emit(_event(run_id, step, state, error))
    except ModuleNotFoundError:
        warn(f"Lineage was not sent: {missing_library('openlineage')}")
    except Exception as refused:  # noqa: BLE001  errors of the catalog must not stop a stage
        warn(f"Lineage was not sent: {type(refused).__name__}: {refused}")


def _event(run_id: int, step: Step, state: str, error: str | None) -> Any:
    from openlineage.client import event_v2 as event  # noqa: PLC0415  as above
    from openlineage.client.facet_v2 import error_message_run, parent_run  # noqa: PLC0415

    facets: dict[str, Any] = {}
    if error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=error, programmingLanguage="python")
    above = airflow_run()
    parent = above.task if above else None
    if step.parent is not None:
        parent = OuterRun(NAMESPACE, step.parent, _run_uuid(run_id))
    if parent is not None:
        top = None if above is None else _root(above.dag_run)
        run, job = parent_run.Run(parent.run_id), parent_run.Job(parent.namespace, parent.job)
        facets["parent"] = parent_run.ParentRunFacet(run, job, root=top)
    return event.RunEvent(
        eventType=event.RunState[state],
        eventTime=datetime.now(UTC).isoformat(),
        run=event.Run(_run_uuid(run_id, part=step.job if step.parent else ""), facets),
        job=event.Job(NAMESPACE, step.job),
        inputs=[event.InputDataset(NAMESPACE, name) for name in step.inputs],
        outputs=[event.OutputDataset(NAMESPACE, name) for name in step.outputs],
        producer=f"alchemist-platform/{code_version()}",
    )


def _root(run: "OuterRun") -> Any:
    from openlineage.client.facet_v2 import parent_run  # noqa: PLC0415  as above

    return parent_run.Root(parent_run.RootRun(run.run_id), parent_run.RootJob(run.namespace, run.job))


@dataclass(frozen=True, slots=True)
class OuterRun:
    """A run that an event names as its parent."""

    namespace: str
    job: str
    run_id: str

    @classmethod
    def read(cls, text: str) -> "OuterRun":
        """Read NAMESPACE/JOB/RUN, as Airflow's OpenLineage provider writes it.

        >>> OuterRun.read("prod/eu/nightly_rescore.score/0190-a")
        OuterRun(namespace='prod/eu', job='nightly_rescore.score', run_id='0190-a')
        """
        namespace, job, run_id = text.rsplit("/", 2)
        return cls(namespace, job, run_id)


@dataclass(frozen=True, slots=True)
class AirflowRun:
    """The task of Airflow that started this process, and its DAG run."""

    task: OuterRun
    dag_run: OuterRun


def airflow_run() -> AirflowRun | None:
    """Return the task that started this process, with the ids of Airflow's own OpenLineage events if it sends any; else None."""
    given = [os.environ.get(f"OPENLINEAGE_{name}", "") for name in ("PARENT_ID", "ROOT_PARENT_ID")]
    if all(text.count("/") >= 2 for text in given):
        return AirflowRun(*map(OuterRun.read, given))
    names = ("DAG_ID", "DAG_RUN_ID", "TASK_ID", "TRY_NUMBER")
    dag_id, run, task_id, attempt = (os.environ.get(f"AIRFLOW_CTX_{name}", "") for name in names)
    if not (dag_id and run and task_id):
        return None
    namespace, key = os.environ.get("OPENLINEAGE_NAMESPACE", AIRFLOW), f"airflow:{dag_id}:{run}"
    return AirflowRun(
        OuterRun(namespace, f"{dag_id}.{task_id}", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{key}:{task_id}:{attempt}"))),
        OuterRun(namespace, dag_id, str(uuid.uuid5(uuid.NAMESPACE_URL, key))),
    )


def _run_uuid(run_id: int, *, part: str = "") -> str:
    """Return an id derived from the run's id in `runs`, so that its events belong together and a repeated event is recognized."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"alchemist:run:{run_id}{part and ':' + part}"))
