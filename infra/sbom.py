"""Print the packages of this environment as a CycloneDX document, with versions and licences; `--debian` adds those of Debian.

    python infra/sbom.py > dist/sbom.cdx.json

With the standard library only: an image runs it to list what it contains. Names no machine, no path and no time.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import Any

LONGEST_LICENCE = 200  # characters: some packages put the text of their licence there
DPKG = ("dpkg-query", "--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n")


def python_packages() -> Iterator[dict[str, Any]]:
    """Yield each installed distribution."""
    for found in distributions():
        name, version = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version
        # A local version, such as that of torch for CPUs, contains a plus sign.
        purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        yield component | ({"licenses": licences} if (licences := licences_of(found)) else {})


def licences_of(found: Distribution) -> list[dict[str, Any]]:
    """Return what a distribution declares: an SPDX expression, else its classifiers, else a short text."""
    if expression := found.metadata.get("License-Expression"):
        return [{"expression": expression}]
    classified = [
        line.rsplit(" :: ", 1)[-1]
        for line in found.metadata.get_all("Classifier", [])
        if line.startswith("License ::") and " :: " in line.removeprefix("License :: ")
    ]
    text = found.metadata.get("License", "").strip()
    names = classified or ([text] if text and len(text) <= LONGEST_LICENCE and "\n" not in text else [])
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def debian_packages() -> Iterator[dict[str, Any]]:
    """Yield each package of dpkg."""
    for line in subprocess.run(DPKG, check=True, capture_output=True, text=True).stdout.splitlines():
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={architecture}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    """Print the document, sorted, so that equal environments give equal bytes."""
    found = [*python_packages(), *(debian_packages() if "--debian" in sys.argv[1:] else ())]
    components = {component["bom-ref"]: component for component in found}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "alchemist-platform"}},
        "components": [components[key] for key in sorted(components)],
    }
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
