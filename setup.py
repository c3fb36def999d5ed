"""Copy the files that the package reads from outside of it into the wheel; pyproject.toml configures the rest of the build.

sql/, dags/ and infra/ stay at the top of the repository, where people look for them. `alchemist_core.resources` finds both places.
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

PACKED = (
    "sql", "dags", "infra/grafana/dashboards", "infra/grafana/provisioning", "infra/kubernetes", "infra/chart", "infra/prometheus",
    "infra/README.md", "infra/RUNBOOK.md", "infra/SECURITY.md", "infra/VARIABLES.md",
)  # fmt: skip
BUILT = "dist/docs"
"""The documentation, which `make docs` builds; `make wheel` puts it here. A wheel that is built otherwise has none."""
COMMIT = "COMMIT"
"""File with the commit: in a wheel beside the package data, in a source distribution at the top."""
HERE = Path(__file__).parent


def commit() -> str:
    """Return the commit of this checkout, or of the one that this source distribution was made from; empty if it is not known."""
    if (HERE / COMMIT).is_file():
        return (HERE / COMMIT).read_text()
    # Without .git here, git would find a repository that merely contains this folder.
    if not (HERE / ".git").exists() or shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class BuildWithResources(build_py):
    """Build the package and put the resources into its folder `_data`; an editable installation reads them in place."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        packed = Path(self.build_lib) / "alchemist_core" / "_data"
        shutil.rmtree(packed, ignore_errors=True)
        for name in (*PACKED, *([BUILT] if (HERE / BUILT).is_dir() else [])):
            source, target = HERE / name, packed / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        (packed / COMMIT).write_text(commit())


class SourceWithCommit(sdist):
    """A source distribution that holds its commit, for the wheels that are built from it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, then add the commit."""
        super().make_release_tree(base_dir, files)
        (Path(base_dir) / COMMIT).write_text(commit())


setup(cmdclass={"build_py": BuildWithResources, "sdist": SourceWithCommit})
