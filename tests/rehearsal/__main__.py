"""`python -m tests.rehearsal star|flux`: see `make rehearsal` and `make rehearsal-flux`."""

import argparse
from pathlib import Path

from tests.rehearsal import flux, star

parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__)
parser.add_argument("model", choices=["star", "flux"])
parser.add_argument(
    "--folder",
    type=Path,
    default=Path(".alchemist/rehearsal"),
    help="where everything is written; default: %(default)s",
)
parser.add_argument("--corpus", type=Path, help="folder of real tars; without it synthetic scenes are drawn")
given = parser.parse_args()
{"star": star, "flux": flux}[given.model].main(given.folder.resolve(), given.corpus)
