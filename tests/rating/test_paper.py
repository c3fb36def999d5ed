"""PAPER.md maps every equation to a function and an oracle; both must exist, and the function must cite the equation."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import alchemist_core

ROOT = Path(alchemist_core.__file__).parent
EQUATIONS = {4, 5, 6, 7, 9, 10, 11}
ROW = re.compile(r"^\| Eq\. (\d+) \| [^|]+ \| `([\w.]+)` \| `([\w.]+)` \| [^|]+ \|$", re.MULTILINE)
ROWS = [
    (int(number), function, oracle) for number, function, oracle in ROW.findall((ROOT / "PAPER.md").read_text("utf-8"))
]


def find(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_equation_of_the_method_has_a_row() -> None:
    assert {number for number, _, _ in ROWS} == EQUATIONS


def test_every_row_of_the_table_is_read() -> None:
    lines = (ROOT / "PAPER.md").read_text("utf-8").splitlines()
    assert len(ROWS) == sum(line.startswith("| Eq.") for line in lines)


@pytest.mark.parametrize(("number", "function", "oracle"), ROWS)
def test_an_equation_s_function_exists_cites_it_and_has_an_oracle(number: int, function: str, oracle: str) -> None:
    assert f"Source: Alchemist Eq. {number}." in (inspect.getdoc(find(function)) or "")
    assert callable(find(oracle))


@pytest.mark.parametrize(("number", "function", "oracle"), ROWS)
def test_an_equation_s_tests_use_its_oracle(number: int, function: str, oracle: str) -> None:
    folder = ROOT.parent / "tests" / function.split(".")[1]
    called = oracle.rpartition(".")[2]
    assert any(re.search(rf"\b{called}\(", path.read_text("utf-8")) for path in folder.glob("test_*.py"))


def test_every_function_that_cites_an_equation_is_in_the_table() -> None:
    listed = {(number, function.rpartition(".")[2]) for number, function, _ in ROWS}
    for path in [*(ROOT / "rating").glob("*.py"), *(ROOT / "selection").glob("*.py")]:
        module = importlib.import_module(f"alchemist_core.{path.parent.name}.{path.stem}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__:
                cited = re.findall(r"Source: Alchemist Eq\. (\d+)\.", inspect.getdoc(value) or "")
                assert all((int(number), name) in listed for number in cited), f"{name} cites {cited}"
