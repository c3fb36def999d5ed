"""Settings say *where*: servers, folders, secrets. Read once, from `ALCHEMIST_` variables of the environment.

What a stage does is never here: that is its config model.
"""

from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


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
    dags: Path | None = Field(None, description="Folder of the DAG files; unset: dags/ of the clone")
    lease_ttl_s: float = Field(
        30.0, gt=1, le=3600, description="Seconds without a heartbeat after which a lease expires"
    )
    score_slots: int = Field(1, ge=1, le=256, description="Worker slots of a scoring night: one per GPU, 1 on a CPU")
    decode_workers: int | None = Field(
        None, ge=0, le=1024, description="Processes that decode or read shards; 0: none beside; unset: one a core"
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
        None, description="Program that is given each failed task and each question on its standard input; unset: none"
    )
    openlineage: bool = Field(
        False,
        description="Whether stages send OpenLineage events; where to stands in the OPENLINEAGE_ variables of its client",
    )
    airflow_database_url: SecretStr | None = Field(
        None, description="Airflow's own database, for its cleaning; unset: it is not cleaned"
    )

    @property
    def artifacts(self) -> Path:
        """Folder of raters, subsets, models and reports; every artifact is found by its hash."""
        return self.home.resolve() / "artifacts"


@cache
def load_settings() -> Settings:
    """Read the environment once a process."""
    return Settings()
