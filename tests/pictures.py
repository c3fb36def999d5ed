"""Make the pictures of the documentation that need a store: `python -m tests.pictures`, a part of `make pictures`.

It makes a store of its own: 1,200 samples of the synthetic corpus, a rater that is trained for some hundred steps, their scores, and models
of three seeds on a subset and on random samples. Then it photographs the explorer for the README, and executes the notebooks of
docs/notebooks, so that they hold what a reader would see. Needs Chromium; five minutes on two cores.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from infra.docs import notebooks
from tests.e2e.browser import Browser

CHECKOUT = Path(__file__).parents[1]
PICTURE = CHECKOUT / "docs" / "figures" / "explorer.png"
MOST_BYTES = 150_000
WIDTH, HEIGHT = 1280, 1000
# Whether all pictures that are in the window have come.
SHOWN = "[...document.images].every(one => one.getBoundingClientRect().top > innerHeight || (one.complete && one.naturalWidth > 0))"
COMMANDS = (
    "corpus scenes --out corpus --n-train 1200 --n-validation 900 --n-test 100 --side 64",
    "ingest --dataset scenes --root corpus/train",
    "ingest --dataset good --root corpus/validation --role validation",
    "ingest --dataset test --root corpus/test --role evaluation",
    "train-rater --preset tiny --dataset scenes --validation good --proxy-warmup-steps 100 --max-train-steps 200 --batch-size 32",
    "rater promote --without-acceptance 'trained for a picture'",
    "score --dataset scenes",
    "check --suite shards,samples,scores --dataset scenes",
    "night check-drift --dataset scenes",
    "night publish --dataset scenes",
    "select --dataset scenes --retention 0.2",
    "subset publish scenes-auto-r20",
    "train-downstream scenes-auto-r20 --preset tiny --arms subset,random --seeds 0,1,2 --max-train-steps 60 --batch-size 32",
    "evaluate scenes-auto-r20",
)


def main() -> int:
    """Make the store, the picture and the outputs of the notebooks."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")}
    with tempfile.TemporaryDirectory(prefix="alchemist-picture-") as folder:
        work = Path(folder)
        work.chmod(0o755)  # So that the account that runs Postgres for root can reach it.
        try:
            for command in COMMANDS:
                subprocess.run(f"alchemist {command}", shell=True, cwd=work, env=environment, check=True)
            photograph(work, environment)
            line = [sys.executable, "-c", "from tests.pictures import execute_notebooks; execute_notebooks()"]
            subprocess.run(line, cwd=work, env=environment | {"PYTHONPATH": str(CHECKOUT)}, check=True)
        finally:
            subprocess.run(["alchemist", "db", "stop"], cwd=work, env=environment, check=False)
    return 0


def execute_notebooks() -> None:
    """Execute each notebook against the store of the working directory, and keep what it shows."""
    for path in sorted(notebooks.NOTEBOOKS.glob("*.ipynb")):
        notebooks.write(path, notebooks.execute(notebooks.read(path)))


def photograph(work: Path, environment: dict[str, str]) -> None:
    """Write the explorer's page of samples as a picture of few colours."""
    line = ["alchemist", "explore", "--port", str(free_port())]
    explorer = subprocess.Popen(
        line, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert explorer.stdout is not None
        lines = iter(explorer.stdout.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/\S*", line)))
        with Browser(work / "chromium", width=WIDTH, height=HEIGHT) as browser:
            browser.open(address, until="Samples")
            browser.open(f"{address.partition('/?')[0]}/samples?dataset=scenes&rank_from=0&rank_to=0.2", until="select")
            browser.resize(WIDTH, HEIGHT)
            deadline = time.monotonic() + 60
            while not browser.evaluate(SHOWN):
                assert time.monotonic() < deadline, "the pictures of the samples did not come"
                time.sleep(0.5)
            browser.picture(work / "explorer.png")
    finally:
        explorer.terminate()
        explorer.wait()
    with Image.open(work / "explorer.png") as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    assert PICTURE.stat().st_size < MOST_BYTES, f"{PICTURE} has {PICTURE.stat().st_size:,} bytes"


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
