"""Keep of an SBOM what a reader compares: each component's name, version, address and licences. From standard input to standard output."""

import json
import sys

KEPT = ("type", "bom-ref", "name", "version", "purl", "licenses")


def main() -> None:
    """Shorten the list."""
    bom = json.load(sys.stdin)
    bom["components"] = [
        {name: component[name] for name in KEPT if name in component and is_short(component[name])}
        for component in bom["components"]
        # The installer is no part of the platform.
        if component["name"] not in {"pip", "setuptools", "wheel"}
    ]
    bom.pop("dependencies", None)
    # What made the list, with addresses of its own.
    bom["metadata"].pop("tools", None)
    sys.stdout.write(json.dumps(bom, indent=1) + "\n")


def is_short(value: object) -> bool:
    """Licence texts are left to the packages."""
    return len(json.dumps(value)) < 2_000


if __name__ == "__main__":
    main()
