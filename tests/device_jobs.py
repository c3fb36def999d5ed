"""Jobs that hold a device and use it step by step, in their own processes; each use is a row with the database's time.

A job imitates a training: each step reports progress, then uses the device. A worker starts it in
its own session, as Airflow's worker starts a command, so the job outlives its worker. `python -m tests.device_jobs` forks workers,
which saves each job seconds of imports: it reads one order per line and prints the pids of the worker and its job.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from alchemist_core.__main__ import _stop
from alchemist_core.config import Config, Result
from alchemist_core.errors import AlchemistError
from alchemist_core.files import write_bytes_atomically
from alchemist_core.settings import load_settings
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.telemetry import configure_logging

STEP_S, PATIENCE_S = 0.02, 120.0
USES = """
    CREATE TABLE uses (
        resource text NOT NULL, token bigint NOT NULL, run_id bigint NOT NULL, pid integer NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
"""
# Triggers on the lease table record each claim and end, so the test does not depend on timing.
AUDIT = """
    CREATE TABLE public.holds (
        resource text, token bigint PRIMARY KEY, from_at timestamptz DEFAULT clock_timestamp(), until_at timestamptz
    );
    CREATE FUNCTION public.note_hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
    BEGIN
        IF TG_OP <> 'INSERT' AND (TG_OP = 'DELETE' OR OLD.fencing_token <> NEW.fencing_token) THEN
            UPDATE public.holds SET until_at = least(OLD.expires_at, clock_timestamp()) WHERE token = OLD.fencing_token;
        END IF;
        IF TG_OP <> 'DELETE' AND (TG_OP = 'INSERT' OR OLD.fencing_token <> NEW.fencing_token) THEN
            INSERT INTO public.holds (resource, token) VALUES (NEW.resource, NEW.fencing_token);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_hold AFTER INSERT OR UPDATE OR DELETE ON alchemist.leases FOR EACH ROW EXECUTE FUNCTION public.note_hold();
"""
OVERLAPS = """
    SELECT count(*) FROM public.holds AS earlier INNER JOIN public.holds AS later
        ON earlier.resource = later.resource AND earlier.token < later.token
    WHERE earlier.until_at IS NULL OR earlier.until_at > later.from_at
"""
# A use by an older token after one by a newer token: both held the device at a time.
STRAY_USES = """
    SELECT pid FROM (
        SELECT pid, token, max(token) OVER (PARTITION BY resource ORDER BY at ROWS UNBOUNDED PRECEDING) AS newest FROM uses
    ) AS ordered
    WHERE token < newest
"""


class JobConfig(Config):
    """One job."""

    number: int
    n_steps: int = 20
    n_devices: int = 1
    # Stops itself before this step, as a debugger or a full machine would; another process must continue it.
    stop_before: int | None = None
    # Goes on until this file exists, for as many steps as that takes.
    until: Path | None = None


class JobResult(Result):
    """What was used."""

    tokens: list[int]
    visible: str | None


def train(config: JobConfig, stage_run: StageRun) -> JobResult:
    """Hold the device, then use it."""
    hold_device(stage_run, n_devices=config.n_devices)
    step = 0
    while step < config.n_steps or (config.until is not None and not config.until.exists()):
        if step == config.stop_before:
            os.kill(os.getpid(), signal.SIGSTOP)
        stage_run.report(step, config.n_steps)
        _use(stage_run)
        time.sleep(STEP_S)
        step += 1
    return JobResult(
        tokens=[lease.fencing_token for lease in stage_run.devices], visible=os.environ.get("CUDA_VISIBLE_DEVICES")
    )


def _use(stage_run: StageRun) -> None:
    with stage_run.engine.begin() as connection:
        for lease in stage_run.devices:
            connection.execute(
                text("INSERT INTO uses (resource, token, run_id, pid) VALUES (:resource, :token, :run_id, :pid)"),
                {
                    "resource": lease.resource, "token": lease.fencing_token, "run_id": stage_run.run_id,
                    "pid": os.getpid(),
                },
            )  # fmt: skip


def run(config: JobConfig) -> JobResult:
    """Run one job as a stage."""
    return execute("train_rater", config, lambda stage_run: train(config, stage_run), JobResult)


def stray_uses(engine: Engine) -> list[int]:
    """Return the processes that used a device after a newer holder had used it, one entry a use."""
    with engine.connect() as connection:
        return list(connection.execute(text(STRAY_USES)).scalars())


def _run_job(order: dict[str, Any]) -> int:
    for name in [name for name in os.environ if name.startswith("ALCHEMIST_")]:
        del os.environ[name]
    os.environ.update(order["environment"])
    load_settings.cache_clear()
    signal.signal(signal.SIGTERM, _stop)
    folder = Path(order["folder"])
    os.dup2(os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    try:
        report = run(JobConfig.model_validate(order["job"]))
    except AlchemistError as error:
        return error.exit_code
    except SystemExit as stopped:
        return int(stopped.code or 0)
    # The test reads it as soon as it exists.
    write_bytes_atomically(folder / "report", report.model_dump_json().encode())
    return 0


def _start_worker(order: dict[str, Any]) -> tuple[int, int]:
    told, tell = os.pipe()
    if worker := os.fork():
        os.close(tell)
        job = int(os.read(told, 20))
        os.close(told)
        return worker, job
    if job := os.fork():
        os.write(tell, str(job).encode())
        _, status = os.waitpid(job, 0)
        aside = Path(order["folder"]) / "code.writing"
        aside.write_text(str(os.waitstatus_to_exitcode(status)), encoding="ascii")
        aside.rename(aside.with_suffix(""))
        os._exit(0)
    os.setsid()
    try:
        os._exit(_run_job(order))
    finally:
        os._exit(1)


class Job:
    """A job and its worker, seen from a test."""

    def __init__(self, worker: int, pid: int, folder: Path) -> None:
        self.worker, self.pid, self.folder = worker, pid, folder

    def is_alive(self) -> bool:
        """Whether the job itself runs, or is stopped."""
        return is_alive(self.pid)

    def code(self) -> int:
        """Wait for the job's end; returns its exit status, as its worker saw it."""
        path = self.folder / "code"
        _wait(path.exists, f"the end of job {self.pid}")
        return int(path.read_text(encoding="ascii"))

    def result(self) -> JobResult:
        """Wait for the job's success; whether its worker lived does not matter."""
        path = self.folder / "report"
        _wait(lambda: path.exists() or not self.is_alive(), f"the report of job {self.pid}")
        assert path.exists(), self.output()
        return JobResult.model_validate_json(path.read_text(encoding="utf-8"))

    def output(self) -> str:
        """Return what the job has printed so far."""
        path = self.folder / "told"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_until_printed(self, words: str) -> str:
        """Wait for a line with these words, and return it."""
        _wait(lambda: words in self.output(), f"{words!r} of job {self.pid}")
        return next(line for line in self.output().splitlines() if words in line)


class Forker:
    """The process that forks workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[Job] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.device_jobs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, **config: Any) -> Job:
        """Start a job under this process's settings."""
        folder = self.folder / f"job-{len(self.jobs)}"
        folder.mkdir()
        given = {name: value for name, value in os.environ.items() if name.startswith("ALCHEMIST_")}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"environment": given, "job": config, "folder": str(folder)}) + "\n")
        self.process.stdin.flush()
        worker, pid = map(int, self.process.stdout.readline().split())
        self.jobs.append(Job(worker, pid, folder))
        return self.jobs[-1]

    def kill_jobs(self) -> None:
        """Kill what is left of them."""
        for pid in [pid for job in self.jobs for pid in (job.worker, job.pid) if is_alive(pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill all."""
        self.kill_jobs()
        self.process.kill()
        self.process.communicate()


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped: a zombie is dead."""
    return _state(pid) not in {"Z", "X", ""}


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _wait(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


if __name__ == "__main__":
    configure_logging()
    for line in sys.stdin:
        print(*_start_worker(json.loads(line)), flush=True)
