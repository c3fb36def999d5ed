"""For a missing library the error names the extra that installs it, and each extra exists and installs it."""

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions

import pytest

import alchemist_core.cli.command_line
from alchemist_core.__main__ import main
from alchemist_core.errors import MissingDependencyError
from alchemist_core.extras import EXTRA_OF
from alchemist_core.resources import resource

PROJECT = tomllib.loads((resource("sql").parent / "pyproject.toml").read_text())["project"]
# A distribution that another one, which the extra names, depends on.
BROUGHT_BY = {
    "pandas": "great-expectations",
    "apache-airflow-core": "apache-airflow",
    "celery": "apache-airflow-providers-celery",
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(lines: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in lines}


# Reads the list of files of every installed distribution.
distributions = cache(packages_distributions)


@pytest.mark.parametrize("library", sorted(EXTRA_OF))
def test_the_extra_of_a_library_brings_it(library: str) -> None:
    found = {normal(name) for name in distributions().get(library, [])}
    assert found, f"{library} is installed by no distribution"
    brought = declared(PROJECT["optional-dependencies"][EXTRA_OF[library]])
    assert (found | {BROUGHT_BY[name] for name in found & BROUGHT_BY.keys()}) & brought
    assert not found & declared(PROJECT["dependencies"]), "the base brings it already"


def test_the_extras_are_those_that_the_documentation_names() -> None:
    named = (
        "train metrics flux airflow server celery kubernetes local checks embeddings explorer offline lineage docs dev"
    )
    assert set(PROJECT["optional-dependencies"]) == set(named.split())


def test_a_command_that_misses_a_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_words: str) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        import torch.nn  # noqa: F401

    monkeypatch.setattr(alchemist_core.cli.command_line, "load_commands", load)
    assert main(["score"]) == MissingDependencyError.exit_code
    assert capsys.readouterr().err.splitlines() == [
        "error: torch is not installed. Install the extra train: pip install 'alchemist-platform[train]'."
    ]


def test_a_library_of_no_extra_is_a_defect_and_not_an_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_words: str) -> None:
        import no_such_library  # noqa: F401

    monkeypatch.setattr(alchemist_core.cli.command_line, "load_commands", load)
    assert main(["score"]) == 1
    assert "no_such_library" in capsys.readouterr().err
