"""Execution of a stage: claim its run key and renew the lease while it works; if the same run is live already, follow it instead."""

import logging
import os
import signal
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
from alchemist_core.prices import cost_at
from alchemist_core.project import effective_prices
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import escape_unstorable
from alchemist_core.stages import lineage
from alchemist_core.store.engine import DatabaseError, open_store
from alchemist_core.store.leases import LeaseClaim, find_holder, is_held, renew_leases
from alchemist_core.store.maintenance import end_long_reads
from alchemist_core.store.refusals import explain_refusal
from alchemist_core.store.runs import RunClaim, RunKey, RunState, beat, claim_run, finish_run, live_run, read_run
from alchemist_core.telemetry import ProgressLine, named_run, say
from alchemist_core.training.gpus import CPU


def spent(work_seconds: float) -> dict[str, Any]:
    """Return work_seconds, device and cost of this process's run, as the run ledger stores them; cost is None without a price."""
    device = device_in_use()
    return {"work_seconds": work_seconds, "device": device, "cost": cost_of(work_seconds, device)}


def device_in_use() -> str:
    """Return the name of the GPU that this process used, or `cpu`; torch is queried only if a stage has imported it."""
    torch = sys.modules.get("torch")
    # CUDA was never initialized, so the stage ran on the CPU.
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_initialized() else CPU


def cost_of(work_seconds: float, device: str) -> float | None:
    """Return the cost of a run in the currency of the configured prices: one GPU per launched process, or all available cores."""
    n_cores = len(os.sched_getaffinity(0))
    price = effective_prices().of_device(device, n_devices=count_processes(), n_cores=n_cores)
    return None if price is None else cost_at(work_seconds, price)


def count_processes() -> int:
    """Return how many processes were launched together: one per GPU."""
    return int(os.environ.get("WORLD_SIZE", "1"))


FOLLOW_INTERVAL_S = 1.0
RENEWAL_POLL_S = 0.05
ENDED = ("succeeded", "failed")
STOPPED_FROM = 128

R = TypeVar("R", bound=Result)


class StageRun:
    """A run in progress: its store, its id and its progress."""

    def __init__(self, engine: Engine, claim: RunClaim, line: ProgressLine | None) -> None:
        self.engine = engine
        self.run_id = claim.run_id
        self.claim = claim
        self.progress: dict[str, Any] = {}
        # Waiting for other runs and for the catalog is not counted as work, so it costs nothing.
        self.waited_seconds = 0.0
        # When a wait that is not over began; its seconds are not in waited_seconds yet.
        self.waiting_since: float | None = None
        # Leases of the devices that the run uses; they are released when it ends.
        self.devices: list[LeaseClaim] = []
        self.heartbeat: Heartbeat | None = None
        self._line = line

    @classmethod
    def of_helper(cls, engine: Engine, claim: RunClaim) -> "StageRun":
        """Return a helper's view of a run that another process has claimed: it prints nothing and writes nothing."""
        return cls(engine, claim, None)

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the run's results."""
        return self._line is not None

    def report(self, done: int, total: int, note: str = "", *, before: int = 0) -> None:
        """Show progress, and send it to followers with the next heartbeat; block while a lease may be lost.

        Args:
            done: What this run has done.
            total: What it and the other slots have to do; with what this run did in the passes before.
            note: Text beside the bar.
            before: What of both this run did in the passes before.
        """
        self.require_leases()
        self.progress = {"done": done, "total": total, "note": note, "before": before}
        if self._line is not None:
            self._line.show(done, total, note)

    def require_leases(self) -> None:
        """Block while a lease may have expired, for example after SIGSTOP, until it is renewed or this process ends."""
        if self.heartbeat is not None:
            self.heartbeat.require_renewed()


class Heartbeat(threading.Thread):
    """Renews the run's leases. If one is lost, it ends the process, because another run may be writing or using the device."""

    def __init__(self, run: StageRun, ttl_s: float) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self._run, self._ttl_s = run, ttl_s
        self._stopped = threading.Event()
        self._began = self._renewed_at = time.monotonic()

    def run(self) -> None:
        """Renew three times per lease period until stopped."""
        while not self._stopped.wait(self._ttl_s / 3):
            # Read the claims before the query: the query does not return leases that are claimed after it.
            held, spent_by_now, sent_at = [self._run.claim.lease, *self._run.devices], self._spent(), time.monotonic()
            try:
                with self._run.engine.begin() as connection:
                    tokens = renew_leases(connection, self._run.run_id, ttl_s=self._ttl_s)
                    beat(connection, self._run.run_id, self._run.progress, **spent_by_now)
            except DatabaseError:
                self._judge(held, None, sent_at)
            else:
                self._judge(held, tokens, sent_at)
                self._end_long_reads()

    def _spent(self) -> dict[str, Any]:
        """Return device and cost so far, without waiting: a killed process does not store them at its end."""
        until = self._run.waiting_since or time.monotonic()
        try:
            found = spent(max(0.0, until - self._began - self._run.waited_seconds))
        except Exception:  # noqa: BLE001  a driver that fails, or torch while it is imported, must not end the heartbeat
            return {}
        return {"device": found["device"], "cost": found["cost"]}

    def _end_long_reads(self) -> None:
        # A long read can block this stage with its lock, and readers may have turned off their own timeouts.
        with suppress(DatabaseError), self._run.engine.begin() as connection:
            end_long_reads(connection)

    def _judge(self, held: list[LeaseClaim], tokens: set[int] | None, sent_at: float) -> None:
        lost = [] if tokens is None else [lease for lease in held if lease.fencing_token not in tokens]
        if tokens is not None and not lost:
            self._renewed_at = sent_at
        elif (lost or self._is_overdue()) and not self._stopped.is_set():
            _end_process(f"Lost the lease on {(lost or held)[0].resource}. This process stops.")

    def _is_overdue(self) -> bool:
        return time.monotonic() - self._renewed_at > self._ttl_s

    def require_renewed(self) -> None:
        """Block while the last renewal is older than a lease period; the next renewal succeeds or ends this process."""
        while self._is_overdue() and not self._stopped.is_set():
            time.sleep(RENEWAL_POLL_S)

    def stop(self) -> None:
        """Stop renewing and wait for the thread."""
        self._stopped.set()
        self.join()


class HelperWatch(threading.Thread):
    """Ends a launched helper process whose leader lost its lease, because another run may be using its device."""

    def __init__(self, engine: Engine, claim: RunClaim, ttl_s: float) -> None:
        super().__init__(daemon=True, name="helper watch")
        self._engine, self._claim, self._ttl_s = engine, claim, ttl_s

    def run(self) -> None:
        """Check three times per lease period until the leader has succeeded."""
        seen_at = time.monotonic()
        while time.monotonic() - seen_at <= self._ttl_s:
            time.sleep(self._ttl_s / 3)
            sent_at = time.monotonic()
            with suppress(DatabaseError), self._engine.connect() as connection:
                if is_held(connection, self._claim.lease):
                    seen_at = sent_at
                elif read_run(connection, self._claim.run_id).state == "succeeded":
                    return
                else:
                    break
        _end_process(f"Run {self._claim.run_id} no longer holds its devices. This helper process stops.")


def _end_process(message: str) -> None:
    say(message, logging.ERROR)
    sys.stderr.flush()
    # An exception would not do: the working thread may be inside a long kernel, and must write nothing when that returns.
    os._exit(LeaseLostError.exit_code)


def execute(stage: str, config: Config, work: Callable[[StageRun], R], report_type: type[R], *, slot: int = 0) -> R:
    """Run a stage's work under its run key, or follow the live run of the same key to its end, and take over if a signal ended it.

    Raises:
        AlchemistError: The work raised it, or the followed run failed.
    """
    engine = open_store()
    key = RunKey(stage, config.as_json(), config.fingerprint(), slot)
    ttl_s = load_settings().lease_ttl_s
    while (claim := claim_run(engine, key, ttl_s=ttl_s, code_version=code_version())) is None:
        ended = _follow(engine, key)
        # A run that was stopped by a signal has not failed by itself: this run takes over.
        if ended is not None and (ended.exit_code or 0) < STOPPED_FROM:
            return _outcome(ended, report_type)
    with named_run(stage, claim.run_id), ProgressLine(stage) as line:
        return _work_and_send_lineage(key, StageRun(engine, claim, line), work, ttl_s)


def _work_and_send_lineage(key: RunKey, run: StageRun, work: Callable[[StageRun], R], ttl_s: float) -> R:
    def announced(run: StageRun) -> R:
        # While the heartbeat runs, because a catalog that does not answer takes longer than a lease.
        began = time.monotonic()
        lineage.send_start(key.stage, run.run_id, key.config)
        run.waited_seconds += time.monotonic() - began
        return work(run)

    try:
        result = _work(run, announced, ttl_s)
    except BaseException as error:
        lineage.send_failure(key.stage, run.run_id, key.config, f"{type(error).__name__}: {error}")
        raise
    lineage.send_end(key.stage, run.run_id, key.config, result.model_dump(mode="json"))
    return result


def _free_device_memory() -> None:
    """Release torch's cached device memory, because this process may continue while another run uses the device."""
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
        code = _exit_code(error)
        # File names can contain characters that Postgres cannot store.
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


def _exit_code(error: BaseException) -> int:
    """Return the exit code that a run's error gives its process; a signal gives 128 and its number."""
    if isinstance(error, AlchemistError):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return STOPPED_FROM + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def _explained(run: StageRun, work: Callable[[StageRun], R]) -> R:
    """Run the work; translate errors of Postgres into one line with a remedy, and mark any other exception with the run id."""
    try:
        return work(run)
    except Exception as error:
        error.add_note(f"run {run.run_id}")
        if (known := explain_refusal(error)) is not None:
            raise known from error
        raise


def _finish_quietly(run: StageRun, fields: dict[str, Any]) -> None:
    # Raise the error that ended the work, not a second one from storing it, for example when the server is down.
    with suppress(DatabaseError):
        finish_run(run.engine, run.claim, state="failed", **fields)


def _follow(engine: Engine, key: RunKey) -> RunState | None:
    """Print the live run's progress; return its final state, or None when its lease expires, so that this run takes over."""
    run = live_run(engine, key)
    if run is None:
        return None
    say(f"{key.stage} already runs as run {run.run_id} (host {run.host}, pid {run.pid}). Following it.")
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
