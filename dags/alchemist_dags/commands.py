"""One command line of `alchemist` as an argument list, and the environment that it runs in.

This is the whole contract between Airflow and the platform. A value from outside is one argument: no shell and no template
reads it. The environment holds only what commands need: neither Airflow's database and keys nor any other variable of Airflow.
"""

import os
import shlex

# What starts a stage that may take several devices at once, for example `accelerate launch --num-processes 4`; empty: plain.
LAUNCH = shlex.split(os.environ.get("ALCHEMIST_LAUNCH", ""))
SEVERAL_DEVICES = ("train-rater", "train-downstream")

PASSED = (
    "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "TERM",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
PASSED_PREFIXES = (
    # What Airflow says of the run itself: who acts, for the audit log, and links to its page.
    "AIRFLOW_CTX_",
    "ALCHEMIST_", "LC_", "SSL_", "AWS_", "CUDA_", "NVIDIA_", "NCCL_", "ACCELERATE_", "TORCH_", "PYTORCH_", "HF_", "OMP_", "MKL_",
    "OPENBLAS_", "OPENLINEAGE_", "KUBERNETES_SERVICE_",
)  # fmt: skip
# What only some commands need: cleaning Airflow's database takes its address, a note of a failure the folder of the task logs.
NEEDED_BY = {
    "ALCHEMIST_AIRFLOW_DATABASE_URL": ["maintain airflow"],
    "AIRFLOW_HOME": ["maintain airflow", "note failure"],
}


def alchemist(*words, operand=None, **flags):
    """Return the argument list of `alchemist WORDS --flag=value -- OPERAND`.

    Args:
        words: the verb, which never comes from outside.
        operand: the bare word of the verb; it stands behind `--`, so that it is never read as a flag.
        flags: one flag each; none, empty and false values are left out, a true one stands alone.
    """
    line = [*LAUNCH, "-m", "alchemist_core"] if LAUNCH and words[0] in SEVERAL_DEVICES else ["alchemist"]
    line += words
    for name, value in flags.items():
        if value is None or value is False or value == "":
            continue
        flag = f"--{name.replace('_', '-')}"
        # One word: a value that begins with a dash stays a value.
        line.append(flag if value is True else f"{flag}={value}")
    return line if operand is None else [*line, "--", str(operand)]


def environment_of(line):
    """Return the environment of a command: the variables of this process that the command needs, and no other."""
    verb = " ".join(line[1:3])
    return {name: value for name, value in os.environ.items() if _is_passed(name, verb)}


def _is_passed(name, verb):
    if name in NEEDED_BY:
        return verb in NEEDED_BY[name]
    return name in PASSED or name.startswith(PASSED_PREFIXES)
