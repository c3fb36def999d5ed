"""Jobs that hold a device and use it step by step, as processes of their own; each use is a row by the database's clock.

`python -m tests.device_jobs '{"number": 1, "n_steps": 50}'` is one job. Where the device is free it is a training in miniature: the
next step begins with a report of progress, then the device is used.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from sqlalchemy import Engine, text

from alchemist_core.config import Config, Report
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute

STEP_S = 0.02
USES = """
    CREATE TABLE uses (
        resource text NOT NULL, token bigint NOT NULL, run_id bigint NOT NULL, pid integer NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
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
    # Stops itself before this step, as a debugger or a full machine would; somebody else must let it go on.
    stop_before: int | None = None
    # Goes on until this file exists, for as many steps as that takes.
    until: Path | None = None


class JobReport(Report):
    """What was used."""

    tokens: list[int]
    visible: str | None


def train(config: JobConfig, stage_run: StageRun) -> JobReport:
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
    return JobReport(
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


def run(config: JobConfig) -> JobReport:
    """Run one job as a stage."""
    return execute("train_rater", config, lambda stage_run: train(config, stage_run), JobReport)


def stray_uses(engine: Engine) -> list[int]:
    """Return the processes that used a device after a newer holder had used it, one entry a use."""
    with engine.connect() as connection:
        return list(connection.execute(text(STRAY_USES)).scalars())


if __name__ == "__main__":
    from alchemist_core.__main__ import _stop

    signal.signal(signal.SIGTERM, _stop)
    print(run(JobConfig.model_validate(json.loads(sys.argv[1]))).model_dump_json())
