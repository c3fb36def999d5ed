"""What runs of different configs want made alike, such as the model of the full corpus: one makes it, the others wait and find it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import FOLLOW_INTERVAL_S, StageRun
from alchemist_core.store import models
from alchemist_core.store.leases import LeaseClaim, claim_lease, find_holder, release_lease
from alchemist_core.telemetry import say


@contextmanager
def hold_resource(stage_run: StageRun, resource: str) -> Iterator[None]:
    """Wait for whoever holds the resource, then hold it: look inside for what was made meanwhile."""
    lease = _claim(stage_run, resource)
    yield
    # Not after an error: the run then ends, and gives back all that it holds.
    with stage_run.engine.begin() as connection:
        release_lease(connection, lease)


def take_unmeasured(
    stage_run: StageRun, trained: Sequence[models.ModelRow], *, contract_id: int, metric: str
) -> Iterator[models.ModelRow]:
    """Give each model that has no value yet, alone with it: what another run measures meanwhile is not given."""
    for model in trained:
        with hold_resource(stage_run, f"value:{contract_id}:{metric}:{model.model_id}"):
            if model.model_id not in models.evaluated_models(stage_run.engine, contract_id, metric):
                yield model


def _claim(stage_run: StageRun, resource: str) -> LeaseClaim:
    is_told, began = False, time.monotonic()
    while True:
        with stage_run.engine.begin() as connection:
            lease = claim_lease(connection, resource, run_id=stage_run.run_id, ttl_s=load_settings().lease_ttl_s)
            run_id = None if lease else find_holder(connection, resource)
        if lease is not None:
            stage_run.waited_seconds += time.monotonic() - began
            return lease
        if run_id is not None and not is_told:
            say(f"{resource} is being made by run {run_id}: waiting for it.")
            is_told = True
        time.sleep(FOLLOW_INTERVAL_S)
