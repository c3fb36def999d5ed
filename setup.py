"""Copy the files that the package reads from outside of it into the wheel; pyproject.toml configures the rest of the build.

sql/, dags/ and infra/ stay at the top of the repository, where people look for them. `alchemist_core.resources` finds both places.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKED = (
    "sql", "dags", "infra/grafana/dashboards", "infra/grafana/provisioning", "infra/kubernetes", "infra/chart", "infra/prometheus",
    "infra/README.md", "infra/RUNBOOK.md", "infra/SECURITY.md", "infra/VARIABLES.md",
)  # fmt: skip
BUILT = "dist/docs"
"""The documentation, which `make docs` builds; `make wheel` puts it here. A wheel that is built otherwise has none."""
HERE = Path(__file__).parent


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


setup(cmdclass={"build_py": BuildWithResources})
