"""Command lines of `alchemist` as argument lists, and the environment that they run in.

This is the whole interface between Airflow and the platform. A value from outside is one argument; no shell and no template
interprets it. The environment contains only what commands need, and none of Airflow's credentials.
"""

import os

from alchemist_dags.schedules import PROJECT

PASSED = (
    "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
PASSED_PREFIXES = (
    # Airflow's names of the DAG run and its user, for the audit log and for links.
    "AIRFLOW_CTX_",
    "ALCHEMIST_", "LC_", "SSL_", "AWS_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "ACCELERATE_", "TORCH_", "PYTORCH_", "HF_", "OMP_", "MKL_",
    "OPENBLAS_", "OPENLINEAGE_", "KUBERNETES_SERVICE_",
)  # fmt: skip
# Variables that only some commands need: `maintain airflow` cleans Airflow's database, `note failure` reads the task's log.
NEEDED_BY = {
    "ALCHEMIST_AIRFLOW_DATABASE_URL": ["maintain airflow"],
    "AIRFLOW_HOME": ["maintain airflow", "note failure"],
}


def alchemist(*words, operand=None, **flags):
    """Return the argument list of `alchemist WORDS --flag=value -- OPERAND`.

    Args:
        words: the command, which never comes from outside.
        operand: the positional argument; it follows `--`, so that it is never parsed as a flag.
        flags: one flag each. None and empty text are omitted, so that they mean what the project file says; True and False give a
            flag without a value: --name and --no-name.
    """
    line = ["alchemist", *words]
    for name, value in flags.items():
        if value is None or value == "":
            continue
        option = name.replace("_", "-")
        # With `=`, so that a value that begins with a dash is not parsed as a flag.
        switched = f"--{option}" if value is True else f"--no-{option}"
        line.append(switched if isinstance(value, bool) else f"--{option}={value}")
    return line if operand is None else [*line, "--", str(operand)]


def environment_of(line):
    """Return the environment of a command: only the variables of this process that the command needs."""
    verb = " ".join(line[1:3])
    # Tasks run in other working directories, from which the project file would not be found.
    project = {} if PROJECT is None else {"ALCHEMIST_PROJECT": PROJECT}
    return project | {name: value for name, value in os.environ.items() if _is_passed(name, verb)}


def _is_passed(name, verb):
    if name in NEEDED_BY:
        return verb in NEEDED_BY[name]
    return name in PASSED or name.startswith(PASSED_PREFIXES)
