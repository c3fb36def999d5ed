"""Reading data cannot run code: no pickle, no eval, no shell anywhere in the platform."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import alchemist_core

ROOT = Path(alchemist_core.__file__).parent
BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "torch.jit.load",
    "runpy.run_path",
    "runpy.run_module",
}
# A Python suite of expectations is the operator's own code.
ALLOWED = {("quality/validation.py", "runpy.run_path")}


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Every node of the syntax of every file."""
    files = sorted(ROOT.rglob("*.py"))
    return [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


@cache
def calls() -> list[tuple[str, str, dict[str, ast.expr]]]:
    """File and line, dotted name and keywords of every call."""
    return list(read_calls())


def read_calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    for path, node in nodes():
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), keywords


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_checkpoints_of_torch_are_read_as_weights_only() -> None:
    loads = [(place, keywords) for place, name, keywords in calls() if name == "torch.load"]
    assert loads
    assert [place for place, keywords in loads if not is_true(keywords.get("weights_only"))] == []


def test_arrays_are_never_unpickled() -> None:
    assert [place for place, _, keywords in calls() if is_true(keywords.get("allow_pickle"))] == []


def test_nothing_is_evaluated_and_no_shell_is_started() -> None:
    found = {(place.partition(":")[0], name) for place, name, _ in calls() if name in BANNED_CALLS}
    assert found == ALLOWED
    assert [place for place, _, keywords in calls() if is_true(keywords.get("shell"))] == []


def test_no_module_that_runs_what_it_reads_is_imported() -> None:
    found = []
    for path, node in nodes():
        if isinstance(node, ast.Import):
            found += [(path.name, alias.name) for alias in node.names]
        # To name the error is harmless.
        elif isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] != ["UnpicklingError"]:
            found.append((path.name, node.module or ""))
    assert [(path, module) for path, module in found if module.split(".")[0] in BANNED_MODULES] == []
