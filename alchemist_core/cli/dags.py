"""DAGs: list them, and install them with the forms and schedules of the project file into a DAG folder of Airflow."""

import ast
import hashlib
import json
import shlex
from pathlib import Path

from pydantic import Field

from alchemist_core import __version__
from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write, file_sha256
from alchemist_core.local.airflow_environment import dags_folder, stack_dags_folder
from alchemist_core.local.processes import forgotten_project
from alchemist_core.project import load_project
from alchemist_core.resources import resource
from alchemist_core.settings import load_settings

PACKAGE = "alchemist_dags"
DAG_MARK = "\n@dag("
"""Text of a file that declares a DAG; the other files of the package do not contain it."""
RECORD = ".installed.json"
"""Hashes of the installed files, so that a later installation recognises which files it may replace."""


class DagsListConfig(Config):
    """Which DAGs to list."""

    to: Path | None = Field(
        None,
        description="DAG folder into which they were installed; none: that of the local stack, else of this installation",
    )


class DagsInstallConfig(Config):
    """The folder to install into."""

    to: Path = Field(
        ..., description=f"Airflow's DAG folder, or the root of a DAG bundle; the package {PACKAGE} is written into it"
    )
    dry_run: bool = Field(False, description="Only list the changes")


class DagsListResult(Result):
    """The DAGs, and the folder of their files."""

    folder: str
    dags: dict[str, str]
    note: str | None = None
    """What to do if forms and schedules are not those of the project file."""


class DagsInstallResult(Result):
    """Changes of an installation."""

    folder: str
    version: str
    added: list[str]
    updated: list[str]
    removed: list[str]
    n_unchanged: int
    is_dry_run: bool


def list_dags(config: DagsListConfig) -> DagsListResult:
    """List the DAGs: name, purpose, the folder of their files, and whether their forms are those of the project file."""
    folder = (config.to or dags_folder(load_settings().home.resolve())) / PACKAGE
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder. Install the DAGs: alchemist dags install --to {shlex.quote(str(folder.parent))}."
        )
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    purposes = {
        name: (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        for name, source in sources.items()
        if DAG_MARK in source
    }
    return DagsListResult(folder=str(folder), dags=purposes, note=describe_stale(folder))


def install(config: DagsInstallConfig) -> DagsInstallResult:
    """Install the DAG files with the forms and schedules of the project file. Safe to run again: an upgrade replaces older files.

    Raises:
        ConfigError: The project file is not valid, or the folder contains files that this command did not write.
    """
    shipped, folder = _shipped_files(), _target(config.to)
    written = _read_record(folder)
    present = {name: digest for name in shipped.keys() | written.keys() if (digest := _digest_of(folder / name))}
    wanted = {name: _sha256(content) for name, content in shipped.items()}
    _refuse_files_of_others(folder, present, written, wanted)
    result = DagsInstallResult(
        folder=str(folder),
        version=__version__,
        added=sorted(wanted.keys() - present.keys()),
        updated=sorted(name for name in wanted.keys() & present.keys() if wanted[name] != present[name]),
        removed=sorted(present.keys() - wanted.keys()),
        n_unchanged=sum(wanted.get(name) == digest for name, digest in present.items()),
        is_dry_run=config.dry_run,
    )
    if not config.dry_run:
        _write(folder, result, shipped, wanted)
    return result


def shipped_dags() -> frozenset[str]:
    """Return the ids of the DAGs of this version."""
    files = resource("dags", PACKAGE).glob("*.py")
    return frozenset(path.stem for path in files if DAG_MARK in path.read_text(encoding="utf-8"))


def differing_files(folder: Path) -> list[str]:
    """Return the files of an installed package that are missing, or differ from this version and the project file.

    Args:
        folder: The package of the DAGs.
    """
    shipped = _shipped_files()
    return sorted(name for name, content in shipped.items() if _digest_of(folder / name) != _sha256(content))


def install_for_stack(home: Path) -> None:
    """Install the DAGs into the folder of the local stack, unless ALCHEMIST_DAGS names another one."""
    if load_settings().dags is not None:
        return
    folder = stack_dags_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    install(DagsInstallConfig(to=folder))


def describe_stale(folder: Path) -> str | None:
    """Return what to do if the forms and schedules of installed DAGs are not those of the project file; None if they are.

    Args:
        folder: The package of the DAGs.
    """
    if folder == resource("dags", PACKAGE):
        return (
            None
            if load_project().path is None
            else "These DAGs know no project file. Run: alchemist dags install --to FOLDER."
        )
    try:
        wanted = _generated_files()
    except ConfigError as error:
        return f"The project file is not valid: {error}"
    if all((folder / name).exists() and (folder / name).read_bytes() == content for name, content in wanted.items()):
        return None
    home = load_settings().home.resolve()
    is_stack = folder.parent == stack_dags_folder(home)
    if is_stack and (used := forgotten_project(home)):
        return f"The DAGs were installed with {used}, and here is no project file. Run: export ALCHEMIST_PROJECT={shlex.quote(used)}."
    command = "alchemist stack up" if is_stack else f"alchemist dags install --to {shlex.quote(str(folder.parent))}"
    return f"The project file has changed since the DAGs were installed: their forms and schedules are older. Run: {command}."


def _shipped_files() -> dict[str, bytes]:
    folder = resource("dags", PACKAGE)
    # Includes .airflowignore, but not Python's cache folders.
    shipped = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != RECORD}
    return shipped | _generated_files()


def _generated_files() -> dict[str, bytes]:
    """Return the forms and schedules of the project file, or of an installation without one."""
    # What generates them imports every stage.
    from alchemist_core.cli.effective import check_project  # noqa: PLC0415
    from alchemist_core.cli.forms import RENDERED  # noqa: PLC0415

    project = load_project()
    check_project(project)
    known = None if project.path is None else project
    return {name: render(known).encode() for name, render in RENDERED.items()}


def _target(to: Path) -> Path:
    if not to.is_dir():
        raise ConfigError(
            f"--to {to} is not a folder. Give the DAG folder of Airflow: airflow config get-value core dags_folder."
        )
    folder = to.resolve() / PACKAGE
    if folder.resolve() == resource("dags", PACKAGE).resolve():
        raise ConfigError(
            f"--to {to} is the folder from which the DAG files are installed. Give the DAG folder of the other Airflow."
        )
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ConfigError(f"{folder} exists and is not a folder. Move it away, then run the command again.")
    return folder


def _read_record(folder: Path) -> dict[str, str]:
    """Return the hash of each file that an earlier installation wrote; names with a path are ignored."""
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in files.items() if Path(name).name == name}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{folder / RECORD} is damaged. Delete it, then run the command again.") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str | None:
    # A link counts as a file that this command did not write: its hash equals that of no file.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return "not a file"
    return file_sha256(path).hex() if path.exists() else None


def _refuse_files_of_others(
    folder: Path, present: dict[str, str], written: dict[str, str], wanted: dict[str, str]
) -> None:
    foreign = sorted(name for name, digest in present.items() if digest not in {written.get(name), wanted.get(name)})
    if foreign:
        raise ConfigError(
            f"{folder} contains files that this command did not write, or that were edited since: {', '.join(foreign)}. "
            "Nothing was changed. Move these files away, then run the command again."
        )


def _write(folder: Path, result: DagsInstallResult, shipped: dict[str, bytes], wanted: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in [*result.added, *result.updated]:
        _write_whole(folder / name, shipped[name])
    for name in result.removed:
        (folder / name).unlink()
    _write_whole(folder / RECORD, json.dumps({"version": __version__, "files": wanted}, indent=1).encode() + b"\n")


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file atomically, because Airflow may read the folder at any moment."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def _next_step(config: DagsInstallConfig, result: DagsInstallResult) -> str | None:
    """Return the command that creates the pool of device tasks; without it Airflow never starts them."""
    is_first = "jobs.py" in result.added and not config.dry_run
    return "airflow pools set --include-deferred gpu 1 'One slot per device'" if is_first else None


COMMANDS = {
    "list": Command(DagsListConfig, list_dags),
    "install": Command(DagsInstallConfig, install, _next_step),
}
