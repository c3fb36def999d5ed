"""Settings say *where*: servers, folders, secrets. Read once, from `ALCHEMIST_` variables of the environment.

What a stage does is never here: that is its config model.
"""

import os
from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from alchemist_core.errors import ConfigError


class Settings(BaseSettings):
    """Where this installation keeps its things."""

    model_config = SettingsConfigDict(env_prefix="ALCHEMIST_", frozen=True, extra="ignore")

    home: Path = Field(
        Path(".alchemist"), description="Folder of the embedded database, artifacts, logs and benchmarks"
    )
    database_url: SecretStr | None = Field(
        None, description="libpq or SQLAlchemy URL of a Postgres server; unset: the embedded one under home is started"
    )
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible store; unset: AWS")
    project: Path | None = Field(
        None, description="Project file; unset: alchemist.toml in the working directory or the nearest folder above it"
    )
    dags: Path | None = Field(None, description="DAG folder of the local Airflow; unset: the DAGs of this installation")
    lease_ttl_s: float = Field(
        30.0, gt=1, le=3600, description="Seconds without a heartbeat after which a lease expires"
    )
    score_slots: int = Field(1, ge=1, le=256, description="Worker slots of a scoring night: one per GPU, 1 on a CPU")
    jobs_per_device: int | None = Field(
        None, ge=1, le=64,
        description="Jobs that may use one device at a time; unset: one on a GPU, any number on a CPU",
    )  # fmt: skip
    devices: str | None = Field(
        None,
        description="Names of this machine's devices in CUDA's order, comma between them; unset: the UUIDs of its GPUs, or its CPU",
    )
    decode_workers: int | None = Field(
        None, ge=0, le=1024, description="Processes that decode or read shards; 0: none beside; unset: one a core"
    )
    upload_settle_s: float = Field(
        3600.0,
        ge=0,
        description="Seconds for which a tar without an end mark must stay unchanged before it is read as it is: a younger one is an "
        "upload under way",
    )
    decode_limit_s: float = Field(
        10.0, gt=0, le=3600, description="Seconds of processor time that one image may take to read; past it: too_slow"
    )
    aesthetic_clip: Path | None = Field(
        None, description="Folder of the CLIP model that aesthetic scores are made with; unset: there are none"
    )
    aesthetic_head: Path | None = Field(None, description="safetensors file of the linear head on it: weight and bias")
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="What an hour of one GPU costs, in your currency; unset: costs are unknown"
    )
    price_per_core_hour: float | None = Field(
        None, ge=0, description="What an hour of one CPU core costs, in your currency; unset: costs are unknown"
    )

    budget_per_day: float | None = Field(
        None, ge=0, description="What a day may cost, in your currency; unset: no alert about costs"
    )
    statsd_port: int | None = Field(
        None, ge=1024, le=65535, description="UDP port where the exporter hears Airflow's statsd; unset: it does not"
    )
    notify_command: str | None = Field(
        None,
        description="Program that is given each event a person should hear of, as JSON on its standard input; unset: none",
    )
    notify_url: SecretStr | None = Field(
        None,
        description="Addresses that are sent the same events, a space between them: slack://, msteams://, mailto://, "
        "json://HOST/PATH or any other that Apprise knows; unset: none",
    )
    airflow_users: str = Field(
        "admin:admin",
        pattern=r"^[A-Za-z0-9._-]+:(viewer|user|op|admin)(,[A-Za-z0-9._-]+:(viewer|user|op|admin))*$",
        description="Who may log in to the local Airflow, as NAME:ROLE with commas between them; "
        "roles: viewer (sees), user (also starts runs), op (also changes pools), admin",
    )
    airflow_url: str | None = Field(
        None, description="Address of Airflow's page as people open it, for links; unset: links lead to the runbook"
    )
    reports_url: str | None = Field(
        None, description="Address where people open the pages of artifacts/reports, for links; unset: their paths"
    )
    docs_url: str | None = Field(
        None,
        description="Address of the folder where people read RUNBOOK.md, for links; unset: the folder beside the code",
    )
    openlineage: bool = Field(
        False,
        description="Whether stages send OpenLineage events; where to stands in the OPENLINEAGE_ variables of its client",
    )
    log_max_mib: int = Field(
        50, ge=1, le=100_000, description="Size in MiB at which the log of a process of the local stack is rotated"
    )
    task_log_keep_days: float = Field(
        30.0, gt=0, le=36_500, description="Days that `alchemist maintain logs` keeps the logs of Airflow's tasks"
    )
    task_log_max_mib: int = Field(
        2_000, ge=1, le=100_000_000,
        description="Size in MiB of all logs of Airflow's tasks, above which `alchemist maintain logs` removes the oldest",
    )  # fmt: skip
    task_logs: Path | None = Field(
        None, description="Folder of the logs of Airflow's tasks; unset: airflow/logs under home"
    )
    airflow_database_url: SecretStr | None = Field(
        None, description="Airflow's own database, for its cleaning; unset: it is not cleaned"
    )

    @property
    def artifacts(self) -> Path:
        """Folder of raters, subsets, models and reports; every artifact is found by its hash."""
        return self.home.resolve() / "artifacts"


PROJECT_FILE = "alchemist.toml"


def find_project_file() -> Path | None:
    """Return the absolute path of the project file; none where there is none.

    A file that was only found, not named, must belong to this user or to root: it names code that checks run, and whoever
    may write into a folder above this one, such as /tmp, could leave one there.

    Raises:
        ConfigError: `ALCHEMIST_PROJECT` is not a file, or the file that was found belongs to somebody else.
    """
    named = load_settings().project
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"ALCHEMIST_PROJECT is {str(named)!r}, which is not a file. Name an {PROJECT_FILE}.")
        return named.resolve()
    here = Path.cwd()
    found = next((path for folder in (here, *here.parents) if (path := folder / PROJECT_FILE).is_file()), None)
    if found is not None and found.stat().st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{found} belongs to another user. To use it all the same, set ALCHEMIST_PROJECT={found}.")
    return found


@cache
def load_settings() -> Settings:
    """Read the environment once a process.

    Raises:
        ConfigError: A variable breaks a bound; the text names the variable, and its value unless that is a secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError("; ".join(_explain_fault(fault) for fault in error.errors())) from None


def _explain_fault(fault: ErrorDetails) -> str:
    name = str(fault["loc"][0])
    field = Settings.model_fields.get(name)
    is_secret = field is None or "Secret" in str(field.annotation)
    given = "" if is_secret else f", not {fault['input']!r}"
    described = "" if field is None else f" ({field.description})"
    return f"{Settings.model_config['env_prefix']}{name.upper()}{described}: {fault['msg']}{given}. Correct the variable or unset it."
