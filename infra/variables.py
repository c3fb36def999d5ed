"""Write VARIABLES.md, the list of all environment variables: `python infra/variables.py`; a test checks that it is current.

The first table comes from the fields of `alchemist_core.settings.Settings`. The variables of the other tables are read elsewhere.
"""

from pathlib import Path

from pydantic.fields import FieldInfo

from alchemist_core.config import bounds_of
from alchemist_core.settings import Settings

PAGE = Path(__file__).parent / "VARIABLES.md"
HEAD = """<!-- Written by infra/variables.py (make generate); do not edit. -->

# Environment variables

Alchemist's own variables begin with `ALCHEMIST_`. They set addresses, folders, secrets and limits of an installation; what a stage
computes is set by its options. Export them in the shell, or set them for the containers (`compose.yaml`, `kubernetes/`). The next command
refuses a value that is not valid. Keys of an object store are read from the `AWS_` variables of Amazon's SDK. [README.md](README.md) lists
the passwords that compose needs.

## Settings

Read once, when a command starts. Values of secrets never appear in messages.
"""
DAG_HEAD = """
## DAGs

Airflow's processes read these when they load the DAG files.
"""
OF_DAGS = {
    "ALCHEMIST_JOB_RUNNER": "Where tasks that use a device run; `local`: on the Airflow worker; `kubernetes`: in a pod (default: local)",
    "ALCHEMIST_POD_TEMPLATE": "File with the template of these pods (default: /etc/alchemist/gpu-job.yaml)",
    "ALCHEMIST_LAUNCH": "Launcher of trainings on several devices, such as `accelerate launch --num-processes 4`; unset: one process",
    "ALCHEMIST_TRAIN_WEEKLY": "JSON object with values of the form of `train_rater`, to run it every Sunday; unset: only by hand",
    "ALCHEMIST_EVALUATE": "JSON object with values of the form of `evaluate_subset`, for published subsets; unset: the form's defaults",
}
OTHER_HEAD = """
## Others
"""
OTHERS = {
    "ALCHEMIST_CODE_VERSION": "Version stored with runs and scores, set in container images; unset: version and, in a checkout, commit",
    "ALCHEMIST_TRACEBACK": "`1`: print the traceback of a defect of Alchemist; unset: write it to the error log of the home",
}
TABLE = "| variable | meaning |\n| --- | --- |"


def describe(name: str, field: FieldInfo) -> str:
    """Return the row of one setting."""
    default = field.get_default()
    remarks = [
        "secret" if "SecretStr" in str(field.annotation) else "",
        bounds_of(field),
        "" if default is None else f"default: {default}",
    ]
    remark = "; ".join(filter(None, remarks))
    text = f"{field.description} ({remark})" if remark else str(field.description)
    return row(f"ALCHEMIST_{name.upper()}", text.replace("|", "\\|"))


def row(name: str, text: str) -> str:
    """Return one row of a table."""
    return f"| `{name}` | {text} |"


def render() -> str:
    """Return the page."""
    settings = [describe(name, field) for name, field in sorted(Settings.model_fields.items())]
    dags, others = ([row(*variable) for variable in variables.items()] for variables in (OF_DAGS, OTHERS))
    return "\n".join([HEAD, TABLE, *settings, DAG_HEAD, TABLE, *dags, OTHER_HEAD, TABLE, *others, ""])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
