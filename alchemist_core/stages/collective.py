"""Runs beside each other: as several processes of one run, of which one claims it and writes; and as runs that want the same thing made."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from alchemist_core.config import Config, Report
from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import FOLLOW_INTERVAL_S, StageRun, execute
from alchemist_core.store import models
from alchemist_core.store.engine import open_store
from alchemist_core.store.leases import LeaseClaim, claim_lease, holder, release_lease
from alchemist_core.store.runs import RunClaim
from alchemist_core.telemetry import say

R = TypeVar("R", bound=Report)


def execute_together(
    stage: str, config: Config, work: Callable[[StageRun], R], report_type: type[R], *, slot: int = 0
) -> R:
    """Run a stage's work in every launched process; a process alone just runs it.

    The first one claims the run key and tells the others whether there is work: where it follows a live run instead, they end.
    """
    if _is_alone():
        return execute(stage, config, work, report_type, slot=slot)
    from alchemist_core.loops.launching import tell_all  # noqa: PLC0415  torch only when processes must talk

    if int(os.environ["RANK"]) > 0:
        claim = tell_all()
        if claim is None:
            raise SystemExit(0)
        return work(StageRun.of_helper(open_store(), claim))
    told: list[RunClaim] = []

    def announced(stage_run: StageRun) -> R:
        told.append(tell_all(stage_run.claim))
        return work(stage_run)

    try:
        return execute(stage, config, announced, report_type, slot=slot)
    finally:
        if not told:
            tell_all(None)


@contextmanager
def alone_with(stage_run: StageRun, resource: str) -> Iterator[None]:
    """Let no other run make the same thing meanwhile, such as a model that two subsets share.

    Another run that is making it is waited for: look for what it made inside. Every launched process must enter.
    """
    lease = _claim(stage_run, resource) if stage_run.is_leader else None
    wait_for_all()
    yield
    # Not after an error: the run then ends, and gives back all that it holds.
    if lease is not None:
        with stage_run.engine.begin() as connection:
            release_lease(connection, lease)


def in_turn(
    stage_run: StageRun, trained: Sequence[models.ModelRow], contract_id: int, metric: str
) -> Iterator[models.ModelRow]:
    """Give each model that has no value yet, alone with it: what another run measures meanwhile is not given."""
    for model in trained:
        with alone_with(stage_run, f"value:{contract_id}:{metric}:{model.model_id}"):
            if model.model_id not in models.evaluated_models(stage_run.engine, contract_id, metric):
                yield model


def wait_for_all() -> None:
    """Go on once every launched process has come here."""
    if not _is_alone():
        from alchemist_core.loops.launching import tell_all  # noqa: PLC0415  torch only when processes must talk

        tell_all()


def _claim(stage_run: StageRun, resource: str) -> LeaseClaim:
    is_told = False
    while True:
        with stage_run.engine.begin() as connection:
            lease = claim_lease(connection, resource, run_id=stage_run.run_id, ttl_s=load_settings().lease_ttl_s)
            run_id = None if lease else holder(connection, resource)
        if lease is not None:
            return lease
        if run_id is not None and not is_told:
            say(f"{resource} is being made by run {run_id}: waiting for it.")
            is_told = True
        time.sleep(FOLLOW_INTERVAL_S)


def _is_alone() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) == 1
