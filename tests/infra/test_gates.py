"""The gates of a change: `make check` runs all of them, and the hooks of a commit run the fast ones on the changed files."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
HOOKS: list[dict[str, Any]] = [
    hook
    for repo in yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
]
NAMES = [hook["id"] for hook in HOOKS]
FAULTS = {
    "ruff-format": ("alchemist_core/config.py", "x  =  1\n"),
    "ruff-check": ("alchemist_core/config.py", "import os\n"),
    "sqruff": ("sql/queries/list_datasets.sql", "select a from b\n"),
}


def run(hook: dict[str, Any], *files: Path) -> subprocess.CompletedProcess[str]:
    """Run a hook as pre-commit does, with the tools of the environment that runs the tests."""
    program, *arguments = shlex.split(hook["entry"])
    assert program.startswith(".venv/bin/")
    tool = Path(sys.executable).parent / Path(program).name
    command = [tool, *arguments, *files]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def make(target: str) -> str:
    """Return the commands of a target, without running them."""
    return subprocess.run(
        ["make", "--dry-run", target], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout


def test_make_check_runs_every_gate() -> None:
    commands = make("check")
    for tool in ("ruff format --check", "ruff check", "mypy", "sqruff lint", "pytest"):
        assert f".venv/bin/{tool}" in commands


def test_the_hooks_need_no_network() -> None:
    repos = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    assert {hook["language"] for hook in HOOKS} == {"system"}
    assert list(FAULTS) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS, ids=NAMES)
def test_a_hook_accepts_a_file_of_the_checkout_and_refuses_a_fault(hook: dict[str, Any], tmp_path: Path) -> None:
    good, fault = FAULTS[hook["id"]]
    assert "types" in hook or re.search(hook["files"], good)
    assert run(hook, CHECKOUT / good).returncode == 0
    # sqruff reads the settings beside a file.
    shutil.copy(CHECKOUT / ".sqruff", tmp_path)
    bad = tmp_path / f"bad{Path(good).suffix}"
    bad.write_text(fault)
    assert run(hook, bad).returncode != 0


@pytest.mark.parametrize("hook", HOOKS, ids=NAMES)
def test_a_hook_runs_a_command_of_make_lint(hook: dict[str, Any]) -> None:
    command = hook["entry"].removesuffix(" --force-exclude")
    assert command in make("lint")
