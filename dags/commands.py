"""One command line of `alchemist`, quoted for the shell: the whole contract between Airflow and the platform."""

import shlex


def alchemist(*words, **flags):
    """Return `alchemist WORDS --flag value`; a flag that is none, empty or false is left out, a true one stands alone."""
    line = ["alchemist", *words]
    for name, value in flags.items():
        if value is None or value is False or value == "":
            continue
        line += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    # The space: Airflow would take a command that ends in .sh for the name of a template file.
    return shlex.join(line) + " "
