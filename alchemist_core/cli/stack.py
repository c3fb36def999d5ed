"""The local stack: start it, stop it, show what runs, read a log, and run Airflow's own command line on it."""

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import Field

from alchemist_core.cli.dags import PACKAGE, describe_stale, install_for_stack
from alchemist_core.config import BARE_WORD, Command, Config, Formerly, Result
from alchemist_core.errors import ConfigError
from alchemist_core.local import stack
from alchemist_core.local.airflow_environment import dags_folder
from alchemist_core.local.processes import OTHER_INSTALLATION_REMEDY, describe_other_installation, forgotten_project
from alchemist_core.project import NEVER, load_project
from alchemist_core.settings import load_settings
from alchemist_core.stages.devices import describe_held_devices
from alchemist_core.store.engine import DatabaseError, database_url, make_engine
from alchemist_core.store.postgres import is_running
from alchemist_core.telemetry import say, warn


class StackConfig(Config):
    """No options."""


class LogsConfig(Config):
    """Which log to print."""

    process: str = Field(
        "scheduler",
        description="Process of the stack, by its name in `alchemist stack status`",
        json_schema_extra=BARE_WORD,
    )
    tail: Annotated[int, Formerly("lines")] = Field(100, ge=1, le=100_000, description="Lines to print, from the end")


class AirflowConfig(Config):
    """Arguments for Airflow."""

    arguments: list[str] = Field(
        default_factory=list, description="Arguments of the airflow command, for example dags list"
    )


class StackResult(Result):
    """State of the stack, for programs; people read it as messages."""

    is_running: bool
    is_postgres_running: bool
    airflow_url: str | None
    metrics_url: str | None
    prometheus_url: str | None
    # The pid of each process; None: it does not run.
    processes: dict[str, int | None]
    # What a process that is starting waits for, or what is wrong with one that runs.
    waits: dict[str, str]
    import_errors: list[str]

    def summary(self) -> str:
        """Return nothing: the messages say it all."""
        return ""


def _result_of(found: stack.StackStatus) -> StackResult:
    return StackResult(
        is_running=found.is_running, is_postgres_running=found.is_postgres_running, airflow_url=found.url,
        metrics_url=found.metrics_url, prometheus_url=found.prometheus_url, processes=found.processes, waits=dict(found.waits),
        import_errors=list(found.import_errors),
    )  # fmt: skip


def up(_config: StackConfig) -> StackResult:
    """Start the stack with the forms and schedules of the project file, and wait until Airflow schedules tasks; reuse a running one.

    Raises:
        ConfigError: No project file is found, and the stack was started with one: its forms and schedules would be lost.
    """
    home = _home()
    if used := forgotten_project(home):
        raise ConfigError(
            f"There is no project file here or in a folder above, and the stack of this home was started with {used}. Nothing was "
            f"changed. To use that file here too: export ALCHEMIST_PROJECT={shlex.quote(used)}; to start with another one: alchemist init."
        )
    install_for_stack(home)
    started = stack.up(home)
    say(started.describe())
    _say_note(home)
    say(_describe_nights(started.url))
    return _result_of(started)


def _describe_nights(url: str | None) -> str:
    """Return when nights start, and how a person starts one."""
    schedule = load_project().schedule
    own = "No night starts by itself ([schedule] nightly of the project file is none)."
    if schedule.nightly != NEVER:
        when = f"{schedule.nightly}, {schedule.timezone}"
        own = f"nightly_rescore starts by itself ({when}) for the crawl date of the day before; it does not start now."
    conf = json.dumps({"crawl_date": "YYYY-MM-DD"})
    return (
        f"\n{own} To start it now, for yesterday or another date: alchemist stack airflow dags trigger nightly_rescore --conf '{conf}', "
        f"or the form of {url}/dags/nightly_rescore. New subsets: {url}/dags/build_subset"
    )


def down(_config: StackConfig) -> None:
    """Stop Airflow, the metrics exporter and the embedded Postgres; data and logs are kept."""
    stack.down(_home())
    say("The stack is stopped. Its data is kept; alchemist stack up starts it again.")


def status(_config: StackConfig) -> StackResult:
    """Print the addresses, the login and the processes of the stack: what a starting one waits for, how often each was restarted.

    Also prints which run holds which device.
    """
    home = _home()
    found = stack.status(home)
    say(found.describe())
    _say_note(home)
    for line in _describe_devices(home):
        say(line)
    return _result_of(found)


def _say_note(home: Path) -> None:
    """Print what to do if the stack does not run this version, or does not use the project file as it is now."""
    if other := describe_other_installation(home):
        warn(f"{other} Its tasks may fail. To start it with this version: {OTHER_INSTALLATION_REMEDY}.")
    if note := stack.describe_other_project(home) or describe_stale(dags_folder(home) / PACKAGE):
        say(note)


def _describe_devices(home: Path) -> list[str]:
    """Return a line for each held device; no lines if the server does not run, because `status` must not start it."""
    if load_settings().database_url is None and not is_running(home):
        return []
    engine = make_engine(database_url())
    try:
        return describe_held_devices(engine)
    except DatabaseError:
        return []
    finally:
        engine.dispose()


def logs(config: LogsConfig) -> None:
    """Print the end of the log of one process."""
    say(stack.logs(_home(), config.process, n_lines=config.tail))


def airflow(config: AirflowConfig) -> None:
    """Run Airflow's own command line on the stack; all arguments are passed to Airflow unchanged."""
    program, environment = stack.airflow_command(_home())
    # Airflow prints warnings to stdout, where programs read the answer.
    warnings = filter(None, [environment.get("PYTHONWARNINGS"), "ignore:Could not import graphviz"])
    environment["PYTHONWARNINGS"] = ",".join(warnings)
    # Airflow replaces this process, so that it controls the terminal and its exit code is returned.
    os.execve(program, ["airflow", *config.arguments], environment)  # noqa: S606  no shell is meant


def _home() -> Path:
    return load_settings().home.resolve()


COMMANDS = {
    "up": Command(StackConfig, up),
    "down": Command(StackConfig, down),
    "status": Command(StackConfig, status),
    "logs": Command(LogsConfig, logs),
    "airflow": Command(AirflowConfig, airflow),
}
