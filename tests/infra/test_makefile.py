"""The Makefile installs programs that tests need, and says what it installs and what it cannot install."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = "probe: ; $(call install_missing,{tools})\n"


@pytest.fixture
def install(tmp_path: Path) -> "Install":
    if shutil.which("make") is None:
        pytest.skip("apt-get install make")
    return Install(tmp_path)


class Install:
    """Runs the recipe with an apt-get that only writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked = folder / "asked"
        self.asked.touch()

    def __call__(self, tools: str, *, exit_code: int = 0) -> str:
        program = self._folder / "apt-get"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.asked}\nexit {exit_code}\n')
        program.chmod(0o755)
        probe = self._folder / "probe.mk"
        probe.write_text(PROBE.format(tools=tools))
        done = subprocess.run(
            ["make", "--no-print-directory", "-f", "Makefile", "-f", str(probe), "probe"],
            cwd=ROOT, env=os.environ | {"PATH": f"{self._folder}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout


def test_a_missing_program_is_named_and_installed(install: Install) -> None:
    assert install("no-such-program=its-package sh=dash") == "its-package is missing: installing it with apt-get.\n"
    assert install.asked.read_text() == "update -qq\ninstall -y -qq --no-install-recommends its-package\n"


def test_one_of_several_programs_for_the_same_purpose_is_enough(install: Install) -> None:
    assert install("no-such-program/sh=its-package") == ""
    assert install.asked.read_text() == ""


def test_what_cannot_be_installed_is_named_with_the_command_and_the_tests_run_without_it(install: Install) -> None:
    told = install("no-such-program=its-package no-other-program=another", exit_code=100).splitlines()
    assert told == [
        "its-package is missing: installing it with apt-get.",
        "its-package cannot be installed here, so its tests are skipped. To run them: apt-get install its-package",
        "another is missing: installing it with apt-get.",
        "another cannot be installed here, so its tests are skipped. To run them: apt-get install another",
    ]
