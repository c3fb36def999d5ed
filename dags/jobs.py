"""A task is one command line: a light one runs beside Airflow, a device's on this machine or in a pod of its own.

ALCHEMIST_JOB_RUNNER=local|kubernetes. The pod's image, devices, volumes and secrets stand in a template of infra/kubernetes.
"""

import functools
import json
import os
import shlex
from datetime import timedelta

from airflow.sdk import Param, task
from forms import FORMS

RUNNER = os.environ.get("ALCHEMIST_JOB_RUNNER", "local")
POD_TEMPLATE = os.environ.get("ALCHEMIST_POD_TEMPLATE", "/etc/alchemist/gpu-job.yaml")
LONGEST = timedelta(days=3)


def form(dag_id, **defaults):
    """Return a DAG's form; `defaults` fill in what a scheduled run cannot be asked."""
    given = {name: {"default": value} for name, value in defaults.items()}
    return {name: Param(**field | given.get(name, {})) for name, field in FORMS[dag_id].items()}


def step(task_id, line, **options):
    """Return a task beside Airflow that runs `line(params)`."""

    @task.bash(task_id=task_id, **{"do_xcom_push": False, **options})
    def run(params):
        return line(params)

    return run()


def listing(task_id, line, key=None):
    """Return a task that returns something: its last line as JSON, or one entry of it."""
    return step(
        task_id,
        line,
        do_xcom_push=True,
        output_processor=lambda text: json.loads(text)[key] if key else json.loads(text),
    )


def job(**options):
    """Decorate a function that returns the command line of a stage for a device: it waits in the pool gpu."""
    options = {"do_xcom_push": False, "pool": "gpu", "execution_timeout": LONGEST, **options}
    if RUNNER == "local":
        return task.bash(**options)
    if RUNNER != "kubernetes":
        raise ValueError(f"ALCHEMIST_JOB_RUNNER is {RUNNER!r}: it must be local or kubernetes")

    def decorate(function):
        @functools.wraps(function)
        def words(*args, **kwargs):
            return shlex.split(function(*args, **kwargs))

        # A worker that dies leaves its pod; the next try finds it by its labels, and its stage by the lease.
        name = function.__name__.replace("_", "-")
        return task.kubernetes_cmd(name=name, pod_template_file=POD_TEMPLATE, durable=True, **options)(words)

    return decorate
