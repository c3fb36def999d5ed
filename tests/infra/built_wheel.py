"""The wheel of the tracked files, built and installed without a network, in an environment that hides the libraries of extras."""

import os
import subprocess
import sys
from pathlib import Path

from alchemist_core.extras import EXTRA_OF

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


def build_wheel(source: Path, out: Path) -> Path:
    """Build a wheel by the installed setuptools, from a copy of the tracked files."""
    copy_tracked(source)
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source]
    subprocess.run([sys.executable, *command], check=True, cwd=out, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def install_wheel(wheel: Path, target: Path) -> dict[str, str]:
    """Install a wheel into a folder that its programs, in target/bin, import first; return their environment."""
    # The programs compile what they import.
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", target, wheel]
    subprocess.run([sys.executable, *command], check=True, cwd=target, capture_output=True)
    (target / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")}
    return {**kept, "PYTHONPATH": str(target)}
