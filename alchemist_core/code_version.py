"""The version of the running code, which every run and ledger row records."""

import os
import subprocess
from functools import cache
from pathlib import Path

from alchemist_core import __version__


@cache
def code_version() -> str:
    """Return the version and, in a checkout, the commit; images set `ALCHEMIST_CODE_VERSION` when they are built."""
    if given := os.environ.get("ALCHEMIST_CODE_VERSION"):
        return given
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return __version__
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return __version__
    return f"{__version__}+{done.stdout.strip()}" if done.returncode == 0 else __version__
