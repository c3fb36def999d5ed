"""One command line of `alchemist`, quoted for the shell: the whole contract between Airflow and the platform."""

import shlex


def alchemist(*words: str, **flags: object) -> str:
    """Return `alchemist WORDS --flag value …`; a flag that is empty or false is left out, a true one stands alone."""
    given = [(f"--{name.replace('_', '-')}", value) for name, value in flags.items() if value not in (None, "", False)]
    return shlex.join(
        [
            "alchemist",
            *words,
            *(part for flag, value in given for part in ([flag] if value is True else [flag, str(value)])),
        ]
    )
