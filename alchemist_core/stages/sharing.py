"""Artifacts that several runs need, such as the model of the full corpus: one run makes it, the others wait for it and use it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import FOLLOW_INTERVAL_S, StageRun
from alchemist_core.store.leases import LeaseClaim, claim_lease, find_holder, release_lease
from alchemist_core.telemetry import say

Claimed = TypeVar("Claimed")


@contextmanager
def hold_resource(stage_run: StageRun, resource: str) -> Iterator[None]:
    """Wait until no other run holds the resource, then hold it. Inside, check first whether another run has made it."""
    lease = _claim(stage_run, resource)
    yield
    # After an error the run ends, which releases everything that it holds.
    with stage_run.engine.begin() as connection:
        release_lease(connection, lease)


def wait_for_claim(
    stage_run: StageRun, claim: Callable[[], Claimed | None], describe: Callable[[], str | None]
) -> Claimed:
    """Retry a claim until it succeeds; print once why it waits, and exclude the waiting time from the run's cost."""
    printed, began = None, time.monotonic()
    stage_run.waiting_since = began
    try:
        while (claimed := claim()) is None:
            text = describe()
            if text is not None and text != printed:
                say(text)
                printed = text
            time.sleep(FOLLOW_INTERVAL_S)
    finally:
        # Also if a person or Airflow stops the wait.
        stage_run.waited_seconds += time.monotonic() - began
        stage_run.waiting_since = None
    return claimed


def _claim(stage_run: StageRun, resource: str) -> LeaseClaim:
    def claim() -> LeaseClaim | None:
        with stage_run.engine.begin() as connection:
            return claim_lease(connection, resource, run_id=stage_run.run_id, ttl_s=load_settings().lease_ttl_s)

    def describe() -> str | None:
        with stage_run.engine.connect() as connection:
            run_id = find_holder(connection, resource)
        return None if run_id is None else f"{resource} is being made by run {run_id}. Waiting for it."

    return wait_for_claim(stage_run, claim, describe)
