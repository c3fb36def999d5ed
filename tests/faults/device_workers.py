"""Forks workers that start jobs, as Airflow's worker starts a command in a session of its own: the job outlives its worker.

Reads an order a line: the environment and the job's config. Answers with the pids of the worker and of its job. Ends at the end of
its input. Forking spares each job the seconds of importing.
"""

import json
import os
import signal
import sys

from alchemist_core.__main__ import _stop
from alchemist_core.errors import AlchemistError
from alchemist_core.settings import load_settings
from tests.device_jobs import JobConfig, run


def run_job(order: dict[str, dict[str, str]]) -> int:
    os.environ.update(order["environment"])
    load_settings.cache_clear()
    signal.signal(signal.SIGTERM, _stop)
    try:
        run(JobConfig.model_validate(order["job"]))
    except AlchemistError as error:
        return error.exit_code
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def start_worker(order: dict[str, dict[str, str]]) -> tuple[int, int]:
    told, tell = os.pipe()
    if worker := os.fork():
        os.close(tell)
        job = int(os.read(told, 20))
        os.close(told)
        return worker, job
    if job := os.fork():
        os.write(tell, str(job).encode())
        _, status = os.waitpid(job, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.setsid()
    os._exit(run_job(order))


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(*start_worker(json.loads(line)), flush=True)
