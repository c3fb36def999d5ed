"""What a stage read and made, as OpenLineage events: dataset → shards → rater → scores → subset → model → metric.

Sent only where ALCHEMIST_OPENLINEAGE is set and the extra `lineage` is installed; where to stands in the client's own OPENLINEAGE_
variables. The view `alchemist.lineage` says the same of the store, row by row; this is for a catalogue of the whole house. A catalogue
that is away stops no stage.
"""

import uuid
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from alchemist_core.code_version import code_version
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say

NAMESPACE = "alchemist"
Values = Mapping[str, Any]


def emit(stage: str, run_id: int, config: Values, report: Values | None, *, error: str | None = None) -> None:
    """Tell the catalogue how a run ended.

    Args:
        stage: Its name.
        run_id: Its row in `runs`; the event's id is made from it, so that a repeated event is the same one.
        config: What it was asked for.
        report: What it said, none if it failed.
        error: Why it failed.
    """
    if not load_settings().openlineage:
        return
    inputs, outputs = edges(stage, config, report or {})
    try:
        from openlineage.client import OpenLineageClient  # noqa: PLC0415  an extra

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's own
            OpenLineageClient().emit(_event(stage, run_id, inputs, outputs, error))
    except Exception as refused:  # noqa: BLE001  whatever a catalogue does is not the stage's business
        say(f"lineage was not sent: {type(refused).__name__}: {refused}")


def edges(stage: str, config: Values, report: Values) -> tuple[list[str], list[str]]:
    """Return the names of what a stage read and of what it made.

    >>> edges("score", {"dataset": "web"}, {"rater": "r1"})
    (['shards/web', 'raters/r1'], ['scores/r1'])
    """
    named = {**config, **report}
    subset = f"subsets/{report.get('name', named.get('subset'))}"
    version = f"{subset}/v{report['version']}" if report.get("version") else subset
    shards = [f"shards/{name}" for name in _listed(config.get("dataset"))]
    raters = [f"raters/{name}" for name in _listed(named.get("rater"))]
    match stage:
        case "ingest":
            return [f"crawls/{name}" for name in _listed(config.get("dataset"))], shards
        case "train_rater":
            return [*shards, f"shards/{config.get('validation')}"], raters
        case "score":
            return [*shards, *raters], [name.replace("raters/", "scores/") for name in raters]
        case "select":
            return [*shards, *[name.replace("raters/", "scores/") for name in raters]], [version]
        case "materialize":
            return [subset], [f"tars/{report.get('folder')}"]
        case "train_downstream":
            return [subset], [f"models/{identity}" for identity in report.get("identities", [])]
        case "evaluate":
            return [f"models-of/{subset}"], [f"metrics/{report.get('metric')} of {report.get('subset')}"]
    return [], []


def _listed(names: Any) -> list[str]:
    if not names:
        return []
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _event(stage: str, run_id: int, inputs: list[str], outputs: list[str], error: str | None) -> Any:
    from openlineage.client import event_v2 as event  # noqa: PLC0415  as above
    from openlineage.client.facet_v2 import error_message_run  # noqa: PLC0415

    facets: dict[str, Any] = (
        {"errorMessage": error_message_run.ErrorMessageRunFacet(message=error, programmingLanguage="python")}
        if error
        else {}
    )
    return event.RunEvent(
        eventType=event.RunState.FAIL if error else event.RunState.COMPLETE,
        eventTime=datetime.now(UTC).isoformat(),
        run=event.Run(str(uuid.uuid5(uuid.NAMESPACE_URL, f"alchemist:run:{run_id}")), facets),
        job=event.Job(NAMESPACE, stage),
        inputs=[event.InputDataset(NAMESPACE, name) for name in inputs],
        outputs=[event.OutputDataset(NAMESPACE, name) for name in outputs] if not error else [],
        producer=f"alchemist-platform/{code_version()}",
    )
