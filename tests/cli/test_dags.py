"""`alchemist dags` installs the DAG files into a DAG folder, where they work beside files of the same names and overwrite none."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.dags import PACKAGE, RECORD, describe_stale, install_for_stack
from alchemist_core.local.airflow_environment import dags_folder
from alchemist_core.local.processes import StackState, write_state
from alchemist_core.project import load_project
from alchemist_core.resources import resource
from alchemist_core.settings import load_settings

SHIPPED = resource("dags", PACKAGE)
NAMES = {path.name for path in SHIPPED.iterdir() if path.is_file()}
DAGS = {"build_subset", "crawl_arrived", "evaluate_subset", "maintenance", "nightly_rescore", "train_rater"}


def install(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["dags", "install", "--to", str(folder), "--json", *flags]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def refuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["dags", "install", "--to", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / PACKAGE).iterdir() if path.name != RECORD}


def test_the_dags_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dags", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed["dags"]) == DAGS
    assert (
        listed["dags"]["nightly_rescore"]
        == "Ingest, check and score the newest crawl of each dataset, so that samples can be selected from it."
    )
    assert Path(listed["folder"]) == SHIPPED


def test_an_installation_writes_every_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = install(tmp_path, capsys)
    assert set(first["added"]) == NAMES  # type: ignore[call-overload]
    assert (first["updated"], first["removed"], first["n_unchanged"]) == ([], [], 0)
    assert content(tmp_path) == {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()}
    again = install(tmp_path, capsys)
    assert (again["added"], again["updated"], again["removed"], again["n_unchanged"]) == ([], [], [], len(NAMES))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(install(tmp_path, capsys, "--dry-run")["added"]) == NAMES  # type: ignore[call-overload]
    assert list(tmp_path.iterdir()) == []


def test_after_an_upgrade_files_are_replaced_and_those_that_left_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "older"
    shutil.copytree(SHIPPED, older / "dags" / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    (older / "dags" / PACKAGE / "jobs.py").write_text("old = True\n")
    (older / "dags" / PACKAGE / "weekly.py").write_text("gone = True\n")
    target = tmp_path / "airflow"
    target.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("alchemist_core.cli.dags.resource", older.joinpath)
        install(target, capsys)
    (target / PACKAGE / "own.py").write_text("mine = True\n")
    report = install(target, capsys)
    assert (report["added"], report["updated"], report["removed"]) == ([], ["jobs.py"], ["weekly.py"])
    assert (target / PACKAGE / "own.py").read_text() == "mine = True\n"
    assert set(content(target)) == NAMES | {"own.py"}


@pytest.mark.parametrize("is_known", [False, True], ids=["never written by us", "changed since"])
def test_a_file_of_another_program_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_known: bool
) -> None:
    if is_known:
        install(tmp_path, capsys)
    (tmp_path / PACKAGE).mkdir(exist_ok=True)
    (tmp_path / PACKAGE / "people.py").write_text("mine = True\n")
    before = content(tmp_path)
    assert "people.py" in refuse(tmp_path, capsys)
    assert content(tmp_path) == before


def test_a_link_is_not_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PACKAGE).mkdir()
    outside = tmp_path / "outside"
    outside.write_bytes((SHIPPED / "jobs.py").read_bytes())
    (tmp_path / PACKAGE / "jobs.py").symlink_to(outside)
    assert "jobs.py" in refuse(tmp_path, capsys)
    assert (tmp_path / PACKAGE / "jobs.py").is_symlink()


def test_a_record_that_names_files_elsewhere_removes_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, capsys)
    outside = tmp_path / "outside.py"
    outside.write_text("")
    record = tmp_path / PACKAGE / RECORD
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of an empty file
    record.write_text(json.dumps({"version": "0.2.0", "files": {"../outside.py": digest, str(outside): digest}}))
    install(tmp_path, capsys)
    assert outside.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}'])
def test_a_damaged_record_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    install(tmp_path, capsys)
    (tmp_path / PACKAGE / RECORD).write_text(text)
    assert f"{RECORD} is damaged. Delete it" in refuse(tmp_path, capsys)
    (tmp_path / PACKAGE / RECORD).unlink()
    assert install(tmp_path, capsys)["n_unchanged"] == len(NAMES)


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a folder" in refuse(tmp_path / "missing", capsys)
    (tmp_path / PACKAGE).write_text("")
    assert "is not a folder" in refuse(tmp_path, capsys)
    assert "from which the DAG files are installed" in refuse(SHIPPED.parent, capsys)


PROJECT = """
[rater]
preset = "tiny"
dataset = "web"
validation = "goal"
[schedule]
train = "@weekly"
nightly = "30 1 * * *"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """project(text): write the project file of the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def write(given: str) -> Path:
        path = folder / "alchemist.toml"
        path.write_text(given, encoding="utf-8")
        load_project.cache_clear()
        return path

    return write


def note_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    load_project.cache_clear()
    capsys.readouterr()
    assert main(["dags", "list", "--to", str(folder), "--json"]) == 0
    note: str | None = json.loads(capsys.readouterr().out)["note"]
    return note


def test_forms_and_schedules_are_installed_as_the_project_file_says_and_the_package_keeps_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path]
) -> None:
    before = {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()}
    path = project(PROJECT)
    install(tmp_path, capsys)
    installed = content(tmp_path)
    assert {name for name in before if installed[name] != before[name]} == {"forms.py", "schedules.py"}
    assert b"as alchemist.toml says (goal)" in installed["forms.py"]
    assert b'"train_rater": "@weekly"' in installed["schedules.py"]
    assert str(path).encode() in installed["schedules.py"]
    assert {path.name: path.read_bytes() for path in SHIPPED.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_a_file_that_changed_after_the_installation_is_reported_until_it_is_installed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path]
) -> None:
    project(PROJECT)
    install(tmp_path, capsys)
    assert note_of(tmp_path, capsys) is None
    project(PROJECT + "# a remark changes nothing\n")
    assert note_of(tmp_path, capsys) is None
    project(PROJECT.replace("@weekly", "@monthly").replace("goal", "better"))
    said = note_of(tmp_path, capsys)
    assert said is not None
    assert said.endswith(f"Run: alchemist dags install --to {tmp_path}.")
    install(tmp_path, capsys)
    assert note_of(tmp_path, capsys) is None
    installed = content(tmp_path)
    assert b"as alchemist.toml says (better)" in installed["forms.py"]
    assert b"as alchemist.toml says (goal)" not in installed["forms.py"]
    assert b'"train_rater": "@monthly"' in installed["schedules.py"]
    project("[rater\n")
    assert "is not valid TOML" in str(note_of(tmp_path, capsys))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rater]\npresett = 'tiny'\n", "Did you mean preset?"),
        (
            "[schedule]\ntrain = '@weekly'\n",
            "[schedule] train = '@weekly' requires preset, dataset, validation in [rater].",
        ),
    ],
)
def test_a_file_that_is_not_valid_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path], text: str, said: str
) -> None:
    project(text)
    assert said in refuse(tmp_path, capsys)
    assert not (tmp_path / PACKAGE).exists()


def test_the_local_stack_gets_the_dags_of_the_project_file_and_its_status_says_when_they_are_older(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.environ["ALCHEMIST_HOME"])
    project(PROJECT)
    install_for_stack(home)
    folder = home / "airflow" / "dags"
    assert dags_folder(home) == folder
    assert b"as alchemist.toml says (web)" in (folder / PACKAGE / "forms.py").read_bytes()
    assert describe_stale(folder / PACKAGE) is None
    project(PROJECT.replace("goal", "better"))
    capsys.readouterr()
    assert main(["stack", "status"]) == 0
    assert "The project file has changed since the DAGs were installed" in capsys.readouterr().err
    assert str(describe_stale(folder / PACKAGE)).endswith("Run: alchemist stack up.")
    install_for_stack(home)
    assert describe_stale(folder / PACKAGE) is None
    monkeypatch.setenv("ALCHEMIST_DAGS", str(tmp_path))
    load_settings.cache_clear()
    assert dags_folder(home) == tmp_path


def test_stack_up_where_its_project_file_is_not_found_changes_no_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.environ["ALCHEMIST_HOME"])
    used = project(PROJECT)
    install_for_stack(home)
    before = content(home / "airflow" / "dags")
    write_state(home, StackState(project=str(used)))
    monkeypatch.chdir("/")
    load_project.cache_clear()
    # Without Airflow, so that nothing is started.
    monkeypatch.setattr("alchemist_core.local.stack.PROGRAMS", tmp_path)
    capsys.readouterr()
    code, said = main(["stack", "up"]), capsys.readouterr().err
    assert content(home / "airflow" / "dags") == before
    assert code == 2
    assert f"export ALCHEMIST_PROJECT={used}" in said


@pytest.mark.slow
def test_the_installed_dags_of_a_project_file_are_loaded_by_airflow_with_its_schedules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Callable[[str], Path]
) -> None:
    """A training that starts by itself has a form without required fields, which Airflow demands."""
    project(PROJECT)
    target = tmp_path / "dags"
    target.mkdir()
    install(target, capsys)
    loaded = load_by_airflow(target, tmp_path / "home")
    assert loaded["errors"] == {}
    assert set(loaded["dags"]) == DAGS
    assert loaded["dags"]["nightly_rescore"] == "30 1 * * *"


def load_by_airflow(folder: Path, home: Path) -> dict[str, Any]:
    """The DAGs of a folder with their schedules, by Airflow's own loader in a process of its own."""
    program = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "from pathlib import Path\n"
        "from airflow.dag_processing.dagbag import BundleDagBag\n"
        "bag = BundleDagBag(dag_folder=sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name='own')\n"
        "times = {name: getattr(dag.timetable, 'expression', None) for name, dag in bag.dags.items()}\n"
        "print(json.dumps({'dags': times, 'errors': bag.import_errors}))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_dags_load_in_a_folder_that_has_files_of_the_same_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Airflow's own loader, which puts the root of the bundle on sys.path, in another process."""
    for name in ("commands", "forms", "jobs", "people", "pods", "schedules"):
        (tmp_path / f"{name}.py").write_text(
            "raise RuntimeError('airflow: this is not the dag module that was meant')\n"
        )
    (tmp_path / "own.py").write_text("from airflow.sdk import dag\n@dag(schedule=None)\ndef own():\n    pass\nown()\n")
    (tmp_path / ".airflowignore").write_text("commands.py\nforms.py\njobs.py\npeople.py\npods.py\nschedules.py\n")
    install(tmp_path, capsys)
    loaded = load_by_airflow(tmp_path, tmp_path / "home")
    assert (set(loaded["dags"]), loaded["errors"]) == (DAGS | {"own"}, {})
