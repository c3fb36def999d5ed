"""Settings of the installation: servers, folders, secrets. They are read once from environment variables `ALCHEMIST_…`.

Settings never change what a stage does: its config model does.
"""

import os
import shlex
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alchemist_core import __version__
from alchemist_core.config import bounds_of
from alchemist_core.errors import ConfigError

PREFIX = "ALCHEMIST_"
SITE = "https://alchemist.example/docs"
"""Address of the published documentation, which has a folder for each minor version; a reserved name until there is one. The rules of
Prometheus, `pyproject.toml` and `mkdocs.yml` name it too; tests compare them."""
SITE_OF_VERSION = f"{SITE}/{'.'.join(__version__.split('.')[:2])}"


def file_variable(field: str) -> str:
    """Return the variable that names the file of a secret."""
    return f"{PREFIX}{field.upper()}_FILE"


def _is_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation)


class Settings(BaseModel):
    """Paths, addresses, credentials and limits of this installation."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    home: Path = Field(Path(".alchemist"), description="Folder of the embedded database, artifacts and logs")
    database_url: SecretStr | None = Field(
        None,
        description="libpq or SQLAlchemy URL of a Postgres server; unset: the embedded server under the home is started",
    )
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible object store; unset: AWS")
    project: Path | None = Field(
        None, description="Project file; unset: alchemist.toml in the working directory or the nearest folder above it"
    )
    dags: Path | None = Field(
        None,
        description="DAG folder of the local Airflow; unset: airflow/dags in the home, into which `alchemist stack up` installs them",
    )
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
        description="Names of the devices of this machine in CUDA's order, separated by commas; unset: the UUIDs of its GPUs, or its CPU",
    )
    rendezvous: str | None = Field(
        None,
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="HOST:PORT at which the nodes of a training meet; unset: [launch] rendezvous of the project file",
    )
    decode_workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Processes that read, decode and copy shards; 0: in the main process; unset: one per core, two for copies",
    )
    upload_settle_s: float = Field(
        3600.0,
        ge=0,
        description="Seconds for which a tar without an end mark, or with an unwritten end, must stay unchanged before it is read; until "
        "then it counts as still being uploaded",
    )
    decode_limit_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds of CPU time for decoding one image; above that it is quarantined as too_slow",
    )
    aesthetic_clip: Path | None = Field(
        None, description="Folder of the CLIP model for aesthetic scores; unset: no aesthetic scores"
    )
    aesthetic_head: Path | None = Field(
        None, description="safetensors file of the linear aesthetic head (weight and bias); unset: no aesthetic scores"
    )
    price_per_gpu_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one GPU hour; unset: [prices] gpu_hour of the project file, else costs are unknown",
    )
    price_per_core_hour: float | None = Field(
        None,
        ge=0,
        description="Price of one CPU core hour; unset: [prices] core_hour of the project file, else costs are unknown",
    )

    budget_per_day: float | None = Field(
        None,
        ge=0,
        description="Budget per day; unset: [prices] budget_per_day of the project file, else no alert about costs",
    )
    statsd_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        description="UDP port on which the exporter receives Airflow's statsd metrics; unset: it receives none",
    )
    notify_command: str | None = Field(
        None,
        description="Program that receives each notification as JSON on its standard input; unset: [notifications] command of the project "
        "file, else no program",
    )
    notify_url: SecretStr | None = Field(
        None,
        description="Addresses that receive each notification, separated by spaces: slack://, msteams://, mailto://, "
        "json://HOST/PATH or any other that Apprise supports; unset: no address",
    )
    vlm_api_key: SecretStr | None = Field(
        None,
        description="Key of the server that the scorer vlm asks, by https or on this machine; unset: requests carry none",
    )
    vlm_api_key_host: str | None = Field(
        None, description="Host that alone may get ALCHEMIST_VLM_API_KEY; unset: that of the scorer's endpoint"
    )
    airflow_users: str = Field(
        "admin:admin",
        pattern=r"^[A-Za-z0-9._-]+:(viewer|user|op|admin)(,[A-Za-z0-9._-]+:(viewer|user|op|admin))*$",
        description="Users of the local Airflow, as NAME:ROLE, separated by commas; "
        "roles: viewer (read), user (also start runs), op (also change pools), admin. Contains admin:admin, as whom "
        "`alchemist stack` logs in",
    )
    airflow_url: str | None = Field(
        None, description="URL of Airflow's web page, for links; unset: links lead to the runbook"
    )
    explorer_url: str | None = Field(
        None,
        description="URL of the explorer, for links in notifications and questions; none: no such links; unset: its tab in Airflow "
        "(ALCHEMIST_AIRFLOW_URL)",
    )
    metrics_url: str | None = Field(
        None,
        description="URL of the exporter's page /metrics, which `alchemist doctor` reads; unset: that of the local stack",
    )
    prometheus_url: str | None = Field(
        None, description="URL of Prometheus, which `alchemist doctor` asks; unset: that of the local stack"
    )
    reports_url: str | None = Field(
        None, description="URL of the pages of artifacts/reports, for links; unset: their paths"
    )
    search_url: str | None = Field(
        None,
        description="URL of `alchemist scorer serve`, which embeds the texts of searches in the explorer; unset: no search by text there",
    )
    docs_url: str = Field(
        SITE_OF_VERSION,
        description="URL of a published copy of the documentation, for links of alerts and notifications to the runbook",
    )
    openlineage: bool = Field(
        False,
        description="Send OpenLineage events from stages; the OPENLINEAGE_ variables of its client set the address",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="Format of the log lines; text: for people; json: one object per line with time, level, message, stage and run_id",
    )
    log_max_mib: int = Field(
        50, ge=1, le=100_000, description="Size in MiB at which the log of a process of the local stack is rotated"
    )
    task_log_keep_days: float = Field(
        30.0, gt=0, le=36_500, description="Days for which `alchemist maintain logs` keeps the logs of Airflow's tasks"
    )
    task_log_max_mib: int = Field(
        2_000, ge=1, le=100_000_000,
        description="Total size in MiB of the logs of Airflow's tasks, above which `alchemist maintain logs` removes the oldest",
    )  # fmt: skip
    task_logs: Path | None = Field(
        None, description="Folder of the logs of Airflow's tasks; unset: airflow/logs under home"
    )
    airflow_database_url: SecretStr | None = Field(
        None,
        description="URL of Airflow's database, from which `alchemist maintain airflow` deletes old history; unset: nothing is deleted",
    )

    @field_validator("airflow_users")
    @classmethod
    def _require_admin(cls, users: str) -> str:
        if "admin:admin" not in users.split(","):
            raise ValueError("must contain admin:admin, as whom `alchemist stack` logs in")
        return users

    @property
    def artifacts(self) -> Path:
        """Folder of raters, subsets, models and reports; artifacts are addressed by their hash."""
        return self.home.resolve() / "artifacts"


DAG_VARIABLES = {
    "ALCHEMIST_JOB_RUNNER": "Where tasks that use a device run; `local`: on the Airflow worker; `kubernetes`: in a pod (default: local)",
    "ALCHEMIST_POD_TEMPLATE": "Name of the PodTemplate of these pods in Airflow's namespace (default: alchemist-device-job)",
}
"""Variables that Airflow's processes read when they load the DAG files."""
FILE_VARIABLES = {
    file_variable(
        name
    ): f"File with the value of `{PREFIX}{name.upper()}`, which is then in no environment; that variable has precedence"
    for name, field in Settings.model_fields.items()
    if _is_secret(field)
}
"""Variables that name the file of a secret."""
OTHER_VARIABLES = {
    "ALCHEMIST_CODE_VERSION": "Version stored with runs and scores, set in container images; unset: version and, in a checkout, commit",
    "ALCHEMIST_TRACEBACK": "`1`: print the traceback of a defect of Alchemist; unset: write it to the error log of the home",
}
"""Variables that are read elsewhere."""


class About(NamedTuple):
    """What an environment variable means; `field` is its setting, None if it is read elsewhere."""

    meaning: str
    field: str | None = None

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.field is not None and _is_secret(Settings.model_fields[self.field])

    @property
    def full_text(self) -> str:
        """The meaning with bounds and default."""
        if self.field is None:
            return self.meaning
        default = Settings.model_fields[self.field].get_default()
        remarks = [
            "secret" if self.is_secret else "",
            bounds_of(Settings.model_fields[self.field]),
            "" if default is None else f"default: {default}",
        ]
        remark = "; ".join(filter(None, remarks))
        return f"{self.meaning} ({remark})" if remark else self.meaning


VARIABLES = {
    f"ALCHEMIST_{name.upper()}": About(str(field.description), name) for name, field in Settings.model_fields.items()
} | {name: About(text) for name, text in (DAG_VARIABLES | FILE_VARIABLES | OTHER_VARIABLES).items()}
"""Every environment variable."""


def absolute_variables() -> dict[str, str]:
    """Return the variables that name files and folders, with absolute paths: for a process that works in another folder."""
    names = [
        f"{PREFIX}{name.upper()}" for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)
    ]
    return {name: str(Path(os.environ[name]).absolute()) for name in (*names, *FILE_VARIABLES) if os.environ.get(name)}


PROJECT_FILE = "alchemist.toml"


def find_project_file() -> Path | None:
    """Return the absolute path of the project file; none if there is no project file.

    A file that was found and not given must belong to this user or to root: it names code that checks run, and other users may
    be able to write into a folder above this one, such as /tmp.

    Raises:
        ConfigError: `ALCHEMIST_PROJECT` is not a file, or the file that was found belongs to another user.
    """
    named = load_settings().project
    if named is not None:
        if not named.is_file():
            raise ConfigError(
                f"ALCHEMIST_PROJECT is {str(named)!r}, which is not a file. Give the path of an {PROJECT_FILE}."
            )
        return named.resolve()
    here = Path.cwd()
    found = next((path for folder in (here, *here.parents) if (path := folder / PROJECT_FILE).is_file()), None)
    if found is not None and found.stat().st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{found} belongs to another user. To use it anyway, set ALCHEMIST_PROJECT={shlex.quote(str(found))}."
        )
    return found


@cache
def load_settings() -> Settings:
    """Read the environment, once per process.

    Raises:
        ConfigError: A variable is not valid; the message names it, and its value unless it is a secret.
    """
    try:
        return Settings.model_validate(_read_files() | _read_variables())
    except ValidationError as error:
        raise ConfigError("; ".join(_explain_fault(fault) for fault in error.errors())) from None


def _read_variables() -> dict[str, str]:
    """Return the values of the variables by the names of their settings; the case of a variable's name does not matter."""
    given = {name.upper(): value for name, value in os.environ.items()}
    names = {name: f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return {name: given[variable] for name, variable in names.items() if variable in given}


def _read_files() -> dict[str, str]:
    """Return the secrets in files: `ALCHEMIST_DATABASE_URL_FILE` names the file that holds the value of `ALCHEMIST_DATABASE_URL`.

    So container engines and Kubernetes can mount secrets, and no environment contains them. The variable itself has precedence.
    """
    secrets = [name for name, field in Settings.model_fields.items() if _is_secret(field)]
    found = {name: _read_file(file_variable(name)) for name in secrets if os.environ.get(file_variable(name))}
    return {name: value for name, value in found.items() if value}


def _read_file(variable: str) -> str:
    path = os.environ[variable]
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"{variable} is {path!r}, which cannot be read: {reason}. Name a file that this user can read, or unset the variable."
        ) from None


def _explain_fault(fault: ErrorDetails) -> str:
    name = str(fault["loc"][0])
    field = Settings.model_fields.get(name)
    is_secret = field is None or _is_secret(field)
    given = "" if is_secret else f", not {fault['input']!r}"
    described = "" if field is None else f" ({field.description})"
    return f"{PREFIX}{name.upper()}{described}: {fault['msg']}{given}. Correct the variable or unset it."
