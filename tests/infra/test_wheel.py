"""The wheel contains every file that commands read, and its base works outside the checkout without any extra."""

import csv
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alchemist_core import __version__
from alchemist_core.errors import MissingDependencyError
from alchemist_core.extras import EXTRA_OF
from alchemist_core.store.engine import make_engine
from tests.infra.built_wheel import ROOT, build_wheel, copy_tracked, git, install_wheel, tracked
from tests.selectable_store import N_BOOKS, N_WEB, fill

Program = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = [pytest.mark.db, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel() -> Path:
    return build_wheel()


@pytest.fixture(scope="module")
def alchemist(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program of the wheel, in an environment without the libraries of extras."""
    (target, kept), folder = install_wheel(), tmp_path_factory.mktemp("elsewhere")

    def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        environment = {**kept, "ALCHEMIST_HOME": str(folder / "home"), **environment}
        program = [target / "bin" / "alchemist", *words]
        return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_wheel_holds_all_that_the_package_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    packed = tracked(
        "sql", "dags", "infra/grafana/dashboards", "infra/grafana/provisioning", "infra/prometheus", "infra/kubernetes"
    )
    assert {f"alchemist_core/_data/{name}" for name in {*packed, "infra/RUNBOOK.md"}} <= held
    assert tracked("alchemist_core") <= held
    assert not {name for name in held if name.startswith("tests/") or "__pycache__" in name}


def test_the_wheel_has_complete_metadata(wheel: Path) -> None:
    about = f"alchemist_platform-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{about}/METADATA").decode()
        assert archive.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "alchemist = alchemist_core.__main__:main" in archive.read(f"{about}/entry_points.txt").decode()
    head = metadata.partition("\n\n")[0].splitlines()
    assert {f"Version: {__version__}", "License-Expression: Apache-2.0", "Requires-Python: >=3.11"} <= set(head)
    assert {line.split(": ")[1] for line in head if line.startswith("Provides-Extra")} >= set(EXTRA_OF.values())


@pytest.fixture(scope="module")
def store(alchemist: Program, make_database: Callable[..., str]) -> str:
    """The address of an empty database that the wheel's own migrations have filled."""
    url = make_database(template=None)
    done = alchemist("db", "migrate", ALCHEMIST_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    return url


@pytest.fixture(scope="module")
def scored_store(make_database: Callable[..., str]) -> str:
    """The address of a database with scored samples."""
    engine = make_engine(url := make_database())
    fill(engine)
    engine.dispose()
    return url


def report_of(alchemist: Program, store: str, *words: str) -> dict[str, Any]:
    """Run a command that must succeed, and return its report."""
    done = alchemist(*words, "--json", ALCHEMIST_DATABASE_URL=store)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_the_program_starts_elsewhere_and_knows_its_commit(alchemist: Program) -> None:
    done = alchemist("--help")
    assert done.returncode == 0
    assert "train-rater" in done.stdout
    assert alchemist("--version").stdout == f"alchemist {__version__}+{git('rev-parse', '--short=12', 'HEAD')}\n"


@pytest.mark.slow
def test_shards_are_ingested_without_an_extra(alchemist: Program, store: str, tmp_path: Path) -> None:
    scenes = str(tmp_path / "scenes")
    report_of(alchemist, store, "corpus", "scenes", "--out", scenes, "--n-train=40", "--n-validation=1", "--n-test=1")
    assert report_of(alchemist, store, "ingest", "--dataset=web", "--root", f"{scenes}/train")["n_locations"] == 40
    assert report_of(alchemist, store, "dataset", "show", "web")["n_samples"] == 40


@pytest.mark.slow
def test_a_subset_is_selected_published_and_exported_without_an_extra(
    alchemist: Program, scored_store: str, tmp_path: Path
) -> None:
    selected = report_of(alchemist, scored_store, "select", "--dataset=web,books", "--retention=0.5", "--name=half")
    assert report_of(alchemist, scored_store, "subset", "publish", "half")["version"] == selected["version"]
    report_of(alchemist, scored_store, "export", "subset", "half", "--out", str(tmp_path / "half.csv"))
    with (tmp_path / "half.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + (N_WEB + N_BOOKS) // 2


@pytest.mark.slow
def test_the_dags_of_the_wheel_are_installed(alchemist: Program, store: str, tmp_path: Path) -> None:
    report_of(alchemist, store, "dags", "install", "--to", str(tmp_path))
    installed = {f"dags/{path.relative_to(tmp_path).as_posix()}" for path in tmp_path.rglob("*.py")}
    assert installed == {name for name in tracked("dags") if name.endswith(".py")}


def test_a_command_of_an_extra_names_it(alchemist: Program, scored_store: str) -> None:
    done = alchemist("check", "--suite=samples", "--dataset=web", ALCHEMIST_DATABASE_URL=scored_store)
    assert done.returncode == MissingDependencyError.exit_code, done.stderr
    assert "pip install 'alchemist-platform[checks]'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_source_distribution_holds_no_secret_and_no_part_of_the_tests(tmp_path: Path) -> None:
    """Tests without their helpers cannot run, and a folder of secrets may be in the checkout."""
    source = tmp_path / "source"
    copy_tracked(source)
    (source / "infra/secrets").mkdir()
    (source / "infra/secrets/postgres_password").write_text("secret")
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "COMMIT", "constraints.txt", "infra/RUNBOOK.md", "sql/roles.sql"} <= names
    assert not [name for name in names if name.startswith(("infra/secrets/", "tests/"))]
