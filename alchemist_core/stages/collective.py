"""Stages in several processes, started by `[launch]`, accelerate or torchrun: all compute, and rank 0 claims the run and writes."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from alchemist_core.config import Config, Result
from alchemist_core.errors import AlchemistError
from alchemist_core.settings import load_settings
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import HelperWatch, StageRun, count_processes, execute
from alchemist_core.stages.sharing import hold_resource
from alchemist_core.store.engine import open_store
from alchemist_core.store.runs import RunClaim
from alchemist_core.telemetry import LOG

R = TypeVar("R", bound=Result)


def execute_together(
    stage: str, config: Config, work: Callable[[StageRun], R], report_type: type[R], *, slot: int = 0
) -> R:
    """Run a stage's work in every launched process; a single process runs it directly.

    The leader (rank 0) claims the run key and sends the helpers the run; if it follows a live run instead, or fails before, they end
    with its exit code, so that no node waits for another. Before that it claims all devices that the processes on its machine use; the
    first process of each further machine then claims those there.
    """
    if _is_alone():
        return execute(stage, config, work, report_type, slot=slot)
    from alchemist_core.training.launching import broadcast  # noqa: PLC0415  torch only when processes communicate

    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if int(os.environ["RANK"]) > 0:
        claim = broadcast()
        if not isinstance(claim, RunClaim):
            raise SystemExit(claim)
        engine = open_store()
        HelperWatch(engine, claim, load_settings().lease_ttl_s).start()
        stage_run = StageRun.of_helper(engine, claim)
        if os.environ.get("LOCAL_RANK") == "0":
            # The leader's heartbeat renews these leases too, and the end of the run releases them.
            hold_device(stage_run, n_devices=n_local, is_for_node=True)
        wait_for_all()
        # Every process reaches the same lines of the work, and the leader prints them.
        LOG.setLevel(logging.ERROR)
        return work(stage_run)
    sent: list[RunClaim] = []

    def work_and_announce(stage_run: StageRun) -> R:
        hold_device(stage_run, n_devices=n_local)
        sent.append(broadcast(stage_run.claim))
        wait_for_all()
        return work(stage_run)

    code = AlchemistError.exit_code
    try:
        result = execute(stage, config, work_and_announce, report_type, slot=slot)
        code = 0
    except AlchemistError as error:
        code = error.exit_code
        raise
    finally:
        if not sent:
            broadcast(code)
    return result


@contextmanager
def hold_together(stage_run: StageRun, resource: str) -> Iterator[None]:
    """Hold a resource for all launched processes: they enter when the leader has claimed it."""
    with hold_resource(stage_run, resource) if stage_run.is_leader else nullcontext():
        wait_for_all()
        yield


def wait_for_all() -> None:
    """Block until every launched process has reached this point."""
    if not _is_alone():
        from alchemist_core.training.launching import broadcast  # noqa: PLC0415  torch only when processes communicate

        broadcast()


def _is_alone() -> bool:
    return count_processes() == 1
