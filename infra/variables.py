"""Write VARIABLES.md, the list of all environment variables: `python infra/variables.py`; a test checks that it is current.

All tables come from `alchemist_core.settings`.
"""

from pathlib import Path

from alchemist_core.settings import DAG_VARIABLES, FILE_VARIABLES, OTHER_VARIABLES, VARIABLES

PAGE = Path(__file__).parent / "VARIABLES.md"
HEAD = """<!-- Written by infra/variables.py (make generate); do not edit. -->

# Environment variables

Alchemist's own variables begin with `ALCHEMIST_`. They set addresses, folders, secrets and limits of an installation; what a stage
computes is set by its options. Export them in the shell, or set them for the containers (`compose.yaml`, `kubernetes/`). The next command
refuses a value that is not valid. Keys of an object store are read from the `AWS_` variables of Amazon's SDK, such as
`AWS_SHARED_CREDENTIALS_FILE`. [README.md](README.md) lists the secrets that compose needs.

## Settings

Read once, when a command starts. Values of secrets never appear in messages.
"""
FILE_HEAD = """
## Secrets in files

Container engines and Kubernetes mount secrets as files. These variables name such files; white space around the value is removed.
"""
DAG_HEAD = """
## DAGs

Airflow's processes read these when they load the DAG files.
"""
OTHER_HEAD = """
## Others
"""
TABLE = "| variable | meaning |\n| --- | --- |"


def row(name: str, text: str) -> str:
    """Return one row of a table."""
    return f"| `{name}` | {text.replace('|', chr(92) + '|')} |"


def render() -> str:
    """Return the page."""
    settings = [row(name, about.full_text) for name, about in sorted(VARIABLES.items()) if about.field is not None]
    files, dags, others = (
        [row(*variable) for variable in variables.items()]
        for variables in (FILE_VARIABLES, DAG_VARIABLES, OTHER_VARIABLES)
    )
    tables = [FILE_HEAD, TABLE, *files, DAG_HEAD, TABLE, *dags, OTHER_HEAD, TABLE, *others]
    return "\n".join([HEAD, TABLE, *settings, *tables, ""])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
