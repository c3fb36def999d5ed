"""`alchemist dags` installs the DAG files into a DAG folder, where they work beside files of the same names and overwrite none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.dags import PACKAGE, RECORD
from alchemist_core.resources import resource

SHIPPED = resource("dags", PACKAGE)
NAMES = {path.name for path in SHIPPED.iterdir() if path.is_file()}
DAGS = {"build_subset", "evaluate_subset", "maintenance", "nightly_rescore", "train_rater"}


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


@pytest.mark.timeout(120)
def test_the_dags_load_in_a_folder_that_has_files_of_the_same_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Airflow's own loader, which puts the root of the bundle on sys.path, in another process."""
    for name in ("commands", "forms", "jobs", "people", "pods"):
        (tmp_path / f"{name}.py").write_text(
            "raise RuntimeError('airflow: this is not the dag module that was meant')\n"
        )
    (tmp_path / "own.py").write_text("from airflow.sdk import dag\n@dag(schedule=None)\ndef own():\n    pass\nown()\n")
    (tmp_path / ".airflowignore").write_text("commands.py\nforms.py\njobs.py\npeople.py\npods.py\n")
    install(tmp_path, capsys)
    program = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "from pathlib import Path\n"
        "from airflow.dag_processing.dagbag import BundleDagBag\n"
        "bag = BundleDagBag(dag_folder=sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name='own')\n"
        "print(json.dumps({'dags': sorted(bag.dags), 'errors': bag.import_errors}))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"AIRFLOW_HOME": str(tmp_path / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"dags": sorted(DAGS | {"own"}), "errors": {}}
