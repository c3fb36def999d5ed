"""Run Airflow's own command line with the environment of the local stack."""

import os

from pydantic import Field

from alchemist_core.config import Command, Config
from alchemist_core.local.stack import airflow_command
from alchemist_core.settings import load_settings


class AirflowConfig(Config):
    """What Airflow gets."""

    arguments: list[str] = Field(
        default_factory=list, description="Everything after `airflow` is Airflow's own, for example dags list"
    )


def run(config: AirflowConfig) -> None:
    """Run Airflow's own command line on the local stack; all arguments go to Airflow unchanged."""
    program, environment = airflow_command(load_settings().home.resolve())
    # Replaces this process, so that Airflow owns the terminal and its exit code is ours.
    os.execve(program, ["airflow", *config.arguments], environment)  # noqa: S606  no shell is meant


COMMANDS = {"": Command(AirflowConfig, run)}
