"""Shorten an SBOM from standard input, and write it to a file: keep the name, version, address and licences of each component.

python infra/sbom.py dist/sbom.cdx.json
"""

import json
import sys
from pathlib import Path
from typing import Any

KEPT = ("type", "bom-ref", "name", "version", "purl", "licenses")


def shorten(bom: dict[str, Any]) -> dict[str, Any]:
    """Return the SBOM without what describes the machine or the tool that made it."""
    components = [
        {name: component[name] for name in KEPT if name in component and is_short(component[name])}
        for component in bom["components"]
        # The installer is not part of the platform.
        if component["name"] not in {"pip", "setuptools", "wheel"}
    ]
    metadata = {name: value for name, value in bom["metadata"].items() if name != "tools"}
    return {name: value for name, value in bom.items() if name != "dependencies"} | {
        "components": components,
        "metadata": metadata,
    }


def is_short(value: object) -> bool:
    """Return whether a value is shorter than a licence text, which stays in the package."""
    return len(json.dumps(value)) < 2_000


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(shorten(json.load(sys.stdin)), indent=1) + "\n")
