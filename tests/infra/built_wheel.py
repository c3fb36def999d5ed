"""The wheel of the tracked files, built and installed without a network, in an environment that hides the libraries of extras."""

import os
import subprocess
import sys
from pathlib import Path

from alchemist_core.extras import EXTRA_OF
from tests.conftest import folder_of_run, once

ROOT = Path(__file__).parents[2]
# The libraries of extras are installed, so processes of the wheel hide them, apart from those of the extra HAS_EXTRA.
WITHOUT_EXTRAS = f"""
import os
import sys

HIDDEN = {{name for name, extra in {EXTRA_OF}.items() if extra != os.environ.get("HAS_EXTRA")}}


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, NotInstalled())
"""


def tracked(*folders: str) -> set[str]:
    """Files of the repository, also those that are not committed yet."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


def copy_tracked(source: Path) -> None:
    """Copy the tracked files, so that a build leaves nothing in the checkout."""
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / ".git").write_text(f"gitdir: {git('rev-parse', '--absolute-git-dir')}\n")


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()


def build_wheel() -> Path:
    """Build a wheel by the installed setuptools, from a copy of the tracked files, once in a test run."""

    def make() -> str:
        source, out = folder_of_run("source"), folder_of_run("dist")
        copy_tracked(source)
        command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
        subprocess.run([sys.executable, *command], check=True, cwd=source, capture_output=True)
        (built,) = out.glob("*.whl")
        return str(built)

    return Path(once("wheel", make))


def install_wheel() -> tuple[Path, dict[str, str]]:
    """Install the wheel into a folder, once in a test run; return the folder, with programs in bin/, and their environment."""

    def make() -> str:
        target = folder_of_run("installed")
        # The programs compile what they import.
        command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", target, build_wheel()]
        subprocess.run([sys.executable, *command], check=True, cwd=target.parent, capture_output=True)
        (target / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
        return str(target)

    target = once("installed-wheel", make)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")}
    return Path(target), {**kept, "PYTHONPATH": target}
