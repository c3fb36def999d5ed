"""Shorten an SBOM from standard input: keep the name, version, address and licences of each component."""

import json
import sys

KEPT = ("type", "bom-ref", "name", "version", "purl", "licenses")


def main() -> None:
    """Print the shortened SBOM."""
    bom = json.load(sys.stdin)
    bom["components"] = [
        {name: component[name] for name in KEPT if name in component and is_short(component[name])}
        for component in bom["components"]
        # The installer is not part of the platform.
        if component["name"] not in {"pip", "setuptools", "wheel"}
    ]
    bom.pop("dependencies", None)
    # The tool that made the list, and its addresses.
    bom["metadata"].pop("tools", None)
    sys.stdout.write(json.dumps(bom, indent=1) + "\n")


def is_short(value: object) -> bool:
    """Return whether a value is shorter than a licence text, which stays in the package."""
    return len(json.dumps(value)) < 2_000


if __name__ == "__main__":
    main()
