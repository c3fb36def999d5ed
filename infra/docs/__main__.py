"""Build the documentation into dist/docs, strictly and without a network: `python -m infra.docs`."""

import os
import sys

# Material's advertisement of its successor; read when the theme is imported.
os.environ["NO_MKDOCS_2_WARNING"] = "1"

from mkdocs.__main__ import cli

if __name__ == "__main__":
    sys.exit(cli(["build", "--strict", "--quiet", *sys.argv[1:]]))
