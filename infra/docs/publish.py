"""Add the built documentation to a folder that a web server serves: `python -m infra.docs.publish FOLDER`.

Each minor version has a folder of its own. A patch version replaces its predecessor's folder; addresses of other versions stay as they
are, so that links of older alerts work.
"""

import json
import shutil
import sys
from pathlib import Path

from alchemist_core import __version__

BUILT = Path(__file__).parents[2] / "dist" / "docs"
REDIRECT = '<!doctype html><meta charset="utf-8"><title>Alchemist</title><meta http-equiv="refresh" content="0; url={0}/index.html">\n'


def main(arguments: list[str]) -> int:
    """Publish this version."""
    if len(arguments) != 1 or not (BUILT / "index.html").is_file():
        sys.stderr.write("Run `make docs` first, then: python -m infra.docs.publish FOLDER\n")
        return 2
    sys.stdout.write(f"{publish(BUILT, Path(arguments[0]), __version__)}\n")
    return 0


def publish(built: Path, folder: Path, version: str) -> Path:
    """Copy a built site into the folder of its minor version, and list the versions; return that folder."""
    minor = ".".join(version.split(".")[:2])
    target, unfinished = folder / minor, folder / f".{minor}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(built, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    listed = folder / "versions.json"
    # The format of mike, which Material's menu of versions reads.
    known = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    others = [one for one in known if one["version"] != minor]
    versions = [*others, {"version": minor, "title": version, "aliases": []}]
    versions.sort(key=lambda one: [int(part) for part in one["version"].split(".")], reverse=True)
    listed.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(REDIRECT.format(versions[0]["version"]), encoding="utf-8")
    return target


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
