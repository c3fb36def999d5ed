"""How a stage is executed: claim its run key, beat while it works, follow a live run instead of starting a second one."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Engine

from alchemist_core.code_version import code_version
from alchemist_core.config import Config, Result
from alchemist_core.errors import AlchemistError, LeaseLostError
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import escape_unstorable
from alchemist_core.stages import lineage
from alchemist_core.store.engine import DatabaseError, open_store
from alchemist_core.store.leases import LeaseClaim, find_holder, is_held, renew_leases
from alchemist_core.store.maintenance import end_long_reads
from alchemist_core.store.refusals import explain_refusal
from alchemist_core.store.runs import RunClaim, RunKey, RunState, beat, claim_run, finish_run, live_run, read_run
from alchemist_core.telemetry import ProgressLine, named_run, say

CPU = "cpu"


def spent(work_seconds: float) -> dict[str, Any]:
    """Return work_seconds, device and cost (none without a price) of this process's run, as the run ledger keeps them."""
    device = device_in_use()
    return {"work_seconds": work_seconds, "device": device, "cost": cost_of(work_seconds, device)}


def device_in_use() -> str:
    """Name the GPU that this process has worked on, or the CPU; torch is asked only where a stage has loaded it."""
    torch = sys.modules.get("torch")
    # A GPU that nobody touched worked for nobody.
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_initialized() else CPU


def cost_of(work_seconds: float, device: str) -> float | None:
    """Return the cost of a run in the currency of the prices set: a GPU for each launched process, or every core it may use."""
    settings = load_settings()
    if device == CPU:
        price, n_devices = settings.price_per_core_hour, len(os.sched_getaffinity(0))
    else:
        price, n_devices = settings.price_per_gpu_hour, int(os.environ.get("WORLD_SIZE", "1"))
    return None if price is None else cost_at(work_seconds, price * n_devices)


def cost_at(seconds: float, price_per_hour: float) -> float:
    """Return the cost of working time: the formula of ledger and plan.

    >>> cost_at(1800.0, price_per_hour=4.0)
    2.0
    """
    return seconds / 3600 * price_per_hour


FOLLOW_INTERVAL_S = 1.0
RENEWAL_POLL_S = 0.05
ENDED = ("succeeded", "failed")

R = TypeVar("R", bound=Result)


class StageRun:
    """A run in progress: its store, its id, and how to tell how far it is."""

    def __init__(self, engine: Engine, claim: RunClaim, line: ProgressLine | None) -> None:
        self.engine = engine
        self.run_id = claim.run_id
        self.claim = claim
        self.progress: dict[str, Any] = {}
        # What was spent on waiting for other runs is no work of this one: it costs nothing.
        self.waited_seconds = 0.0
        # Leases of the devices that the run uses, given back when it ends.
        self.devices: list[LeaseClaim] = []
        self.heartbeat: Heartbeat | None = None
        self._line = line

    @classmethod
    def of_helper(cls, engine: Engine, claim: RunClaim) -> "StageRun":
        """Take part in a run that another process has claimed: silent, and without the right to write."""
        return cls(engine, claim, None)

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the run's results."""
        return self._line is not None

    def report(self, done: int, total: int, note: str = "") -> None:
        """Show progress here, and by the next heartbeat to followers; a run whose leases may be lost does not return."""
        self.require_leases()
        self.progress = {"done": done, "total": total, "note": note}
        if self._line is not None:
            self._line.show(done, total, note)

    def require_leases(self) -> None:
        """Block while a lease may have expired, as after the process was stopped for a while: then it is renewed, or this process ends."""
        if self.heartbeat is not None:
            self.heartbeat.require_renewed()


class Heartbeat(threading.Thread):
    """Renews the run's leases. A run that has lost one stops itself: another process may be writing, or using its device."""

    def __init__(self, run: StageRun, ttl_s: float) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self._run, self._ttl_s = run, ttl_s
        self._stopped = threading.Event()
        self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Beat three times a lease's length, until stopped."""
        while not self._stopped.wait(self._ttl_s / 3):
            # What is claimed while this is asked is not among the answers.
            held, asked_at = [self._run.claim.lease, *self._run.devices], time.monotonic()
            try:
                with self._run.engine.begin() as connection:
                    tokens = renew_leases(connection, self._run.run_id, ttl_s=self._ttl_s)
                    beat(connection, self._run.run_id, self._run.progress)
            except DatabaseError:
                self._judge(held, None, asked_at)
            else:
                self._judge(held, tokens, asked_at)
                self._end_long_reads()

    def _end_long_reads(self) -> None:
        # A reader's lock may keep this stage waiting, and its timeouts are its own to lift.
        with suppress(DatabaseError), self._run.engine.begin() as connection:
            end_long_reads(connection)

    def _judge(self, held: list[LeaseClaim], tokens: set[int] | None, asked_at: float) -> None:
        lost = [] if tokens is None else [lease for lease in held if lease.fencing_token not in tokens]
        if tokens is not None and not lost:
            self._renewed_at = asked_at
        elif (lost or self._is_overdue()) and not self._stopped.is_set():
            _end_process(f"Lost the lease on {(lost or held)[0].resource}: this process stops.")

    def _is_overdue(self) -> bool:
        return time.monotonic() - self._renewed_at > self._ttl_s

    def require_renewed(self) -> None:
        """Block while the last renewal is older than a lease lasts: the next beat renews it or ends this process."""
        while self._is_overdue() and not self._stopped.is_set():
            time.sleep(RENEWAL_POLL_S)

    def stop(self) -> None:
        """End the beat and wait for it."""
        self._stopped.set()
        self.join()


class HelperWatch(threading.Thread):
    """Ends a launched helper whose leader lost its lease: another run may be using the helper's device by then."""

    def __init__(self, engine: Engine, claim: RunClaim, ttl_s: float) -> None:
        super().__init__(daemon=True, name="helper watch")
        self._engine, self._claim, self._ttl_s = engine, claim, ttl_s

    def run(self) -> None:
        """Look three times a lease's length, until the leader has succeeded."""
        seen_at = time.monotonic()
        while time.monotonic() - seen_at <= self._ttl_s:
            time.sleep(self._ttl_s / 3)
            asked_at = time.monotonic()
            with suppress(DatabaseError), self._engine.connect() as connection:
                if is_held(connection, self._claim.lease):
                    seen_at = asked_at
                elif read_run(connection, self._claim.run_id).state == "succeeded":
                    return
                else:
                    break
        _end_process(f"Run {self._claim.run_id} does not hold its devices any more: this helper process stops.")


def _end_process(message: str) -> None:
    say(message, logging.ERROR)
    sys.stderr.flush()
    # Not an exception: the working thread may sit in a long kernel, and must not write any more.
    os._exit(LeaseLostError.exit_code)


def execute(stage: str, config: Config, work: Callable[[StageRun], R], report_type: type[R], *, slot: int = 0) -> R:
    """Run a stage's work under its run key, or follow the live run of the same key to its end.

    Raises:
        AlchemistError: What the work raised, or what the followed run ended with.
    """
    engine = open_store()
    key = RunKey(stage, config.as_json(), config.fingerprint(), slot)
    ttl_s = load_settings().lease_ttl_s
    while (claim := claim_run(engine, key, ttl_s=ttl_s, code_version=code_version())) is None:
        if (ended := _follow(engine, key)) is not None:
            return _outcome(ended, report_type)
    with named_run(stage, claim.run_id), ProgressLine(stage) as line:
        return _work_and_tell(key, StageRun(engine, claim, line), work, ttl_s)


def _work_and_tell(key: RunKey, run: StageRun, work: Callable[[StageRun], R], ttl_s: float) -> R:
    lineage.tell_start(key.stage, run.run_id, key.config)
    try:
        result = _work(run, work, ttl_s)
    except BaseException as error:
        lineage.tell_failure(key.stage, run.run_id, key.config, f"{type(error).__name__}: {error}")
        raise
    lineage.tell_end(key.stage, run.run_id, key.config, result.model_dump(mode="json"))
    return result


def _free_device_memory() -> None:
    """Give back what torch keeps for its next tensors: the process may go on while another run takes the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _work(run: StageRun, work: Callable[[StageRun], R], ttl_s: float) -> R:
    heartbeat = run.heartbeat = Heartbeat(run, ttl_s)
    heartbeat.start()
    began = time.monotonic()
    try:
        result = _explained(run, work)
    except BaseException as error:
        heartbeat.stop()
        code = error.exit_code if isinstance(error, AlchemistError) else 1
        # A file's name may be text that no database takes.
        fields = {
            "error": escape_unstorable(f"{type(error).__name__}: {error}"),
            "exit_code": code,
            "progress": run.progress,
        }
        _finish_quietly(run, {**fields, **spent(time.monotonic() - began - run.waited_seconds)})
        raise
    heartbeat.stop()
    _free_device_memory()
    fields = {"result": result.model_dump(mode="json"), "exit_code": 0, "progress": run.progress}
    finish_run(
        run.engine, run.claim, state="succeeded", **fields, **spent(time.monotonic() - began - run.waited_seconds)
    )
    return result


def _explained(run: StageRun, work: Callable[[StageRun], R]) -> R:
    """Work; what Postgres refuses ends in one line with a remedy, here and in the ledger. A defect is marked with its run."""
    try:
        return work(run)
    except Exception as error:
        error.add_note(f"run {run.run_id}")
        if (known := explain_refusal(error)) is not None:
            raise known from error
        raise


def _finish_quietly(run: StageRun, fields: dict[str, Any]) -> None:
    # The error that ended the work matters more than one from noting it, for example when the server is down.
    with suppress(DatabaseError):
        finish_run(run.engine, run.claim, state="failed", **fields)


def _follow(engine: Engine, key: RunKey) -> RunState | None:
    """Print the live run's progress until it ends (its state) or its lease expires (None: take over)."""
    run = live_run(engine, key)
    if run is None:
        return None
    say(f"{key.stage} already runs as run {run.run_id} (host {run.host}, pid {run.pid}): following it.")
    with ProgressLine(f"{key.stage} (followed)") as line:
        while run.state == "running":
            if run.progress.get("total"):
                line.show(run.progress["done"], run.progress["total"], run.progress.get("note", ""))
            time.sleep(FOLLOW_INTERVAL_S)
            with engine.connect() as connection:
                if find_holder(connection, key.resource) is None:
                    run = read_run(connection, run.run_id)
                    return run if run.state in ENDED else None
                run = read_run(connection, run.run_id)
    return run if run.state in ENDED else None


def _outcome(ended: RunState, report_type: type[R]) -> R:
    if ended.state == "failed" or ended.result is None:
        error = AlchemistError(f"The followed run {ended.run_id} failed: {ended.error}")
        error.exit_code = ended.exit_code or 1
        raise error
    return report_type.model_validate(ended.result)
