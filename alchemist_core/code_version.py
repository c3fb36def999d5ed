"""The version of the running code, which every run and ledger row records."""

import os
import subprocess
from functools import cache
from pathlib import Path

from alchemist_core import __version__
from alchemist_core.resources import resource


@cache
def code_version() -> str:
    """Return the version, with the commit in a checkout, and in a wheel that was built in one.

    Images set `ALCHEMIST_CODE_VERSION` when they are built.
    """
    if given := os.environ.get("ALCHEMIST_CODE_VERSION"):
        return given
    root = Path(__file__).parent.parent
    if (written := resource("COMMIT")).is_file():
        commit = written.read_text(encoding="ascii")
    elif (root / ".git").exists():
        commit = _head(root)
    else:
        commit = ""
    return f"{__version__}+{commit}" if commit else __version__


def _head(root: Path) -> str:
    """Return the commit of a checkout; empty without git."""
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
