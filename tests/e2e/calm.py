"""The DAGs' work as commands of one uninterrupted shell: the tables that a disturbed platform must end with."""

import os
import subprocess
import sys
from pathlib import Path

NIGHTS = ("2026-01-01", "2026-01-02")
# The fewest hundreds with which a rater of one synthetic night was certified: 150 gave an AUC of 0.677 (0.7 is required), 350 gave 0.749.
N_STEPS = 350


def alchemist(url: str, home: Path, *words: str) -> None:
    """Run one command on its own store."""
    environment = os.environ | {"ALCHEMIST_DATABASE_URL": url, "ALCHEMIST_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "alchemist_core", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"


def run_first_days(url: str, home: Path, corpus: Path) -> None:
    """The validation dataset, a night with no rater, and the first rater with its scores."""
    train = ("--dataset", "scenes", "--root", str(corpus / "train"))
    alchemist(url, home, "db", "migrate")
    alchemist(url, home, "ingest", "--dataset", "v", "--root", str(corpus / "validation"), "--role", "validation")
    alchemist(url, home, "ingest", *train, "--crawl-date", NIGHTS[0])
    alchemist(url, home, "duplicates", "find")
    rater = ("--dataset", "scenes", "--validation", "v", "--max-train-steps", str(N_STEPS))
    alchemist(url, home, "train-rater", "--preset", "tiny", *rater)
    alchemist(url, home, "score", "--dataset", "scenes", "--rater", "newest")
    alchemist(url, home, "rater", "certify")
    alchemist(url, home, "rater", "promote")
    alchemist(url, home, "night", "publish", "--dataset", "scenes")


def run_second_night(url: str, home: Path, corpus: Path) -> None:
    """A night with a rater."""
    alchemist(url, home, "ingest", "--dataset", "scenes", "--root", str(corpus / "train"), "--crawl-date", NIGHTS[1])
    alchemist(url, home, "duplicates", "find")
    alchemist(url, home, "score", "--dataset", "scenes", "--crawl-date", NIGHTS[1])
    alchemist(url, home, "night", "check-drift", "--dataset", "scenes")
    alchemist(url, home, "night", "publish", "--dataset", "scenes")
