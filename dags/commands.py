"""One command line of `alchemist`, quoted for the shell: the whole contract between Airflow and the platform."""

import os
import shlex

# What starts a stage that may take several devices at once, for example `accelerate launch --num-processes 4`; empty: plain.
LAUNCH = os.environ.get("ALCHEMIST_LAUNCH", "")
SEVERAL_DEVICES = ("train-rater", "train-downstream")


def alchemist(*words, **flags):
    """Return `alchemist WORDS --flag value`; a flag that is none, empty or false is left out, a true one stands alone."""
    program = ["alchemist"]
    if LAUNCH and words[0] in SEVERAL_DEVICES:
        program = [*shlex.split(LAUNCH), "-m", "alchemist_core"]
    line = [*program, *words]
    for name, value in flags.items():
        if value is None or value is False or value == "":
            continue
        line += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    # The space: Airflow would take a command that ends in .sh for the name of a template file.
    return shlex.join(line) + " "
