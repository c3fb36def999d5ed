"""An upgrade while a night runs: from images and a store of an earlier commit to those of today, with the command that starts compose."""

import itertools
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from alchemist_core import __version__
from alchemist_core.telemetry import say

from .compose import ROOT, Compose, get
from .stand_ins import build_options, podman

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
BEFORE = "81d217b"
"""Its schema (revision 0041) is that of the last commit before images, Celery and Kubernetes were tried; 0042 to 0050 are new."""
REGISTRY = "before.example/"
# Long enough that a fast machine still scores when the containers stop.
N_SAMPLES, SHARD_SIZE, NIGHT = 49_152, 256, "2026-01-01"
N_SHARDS = N_SAMPLES // SHARD_SIZE
CORPUS = "/var/lib/alchemist/corpora/scenes"
PROJECT_FILE = f"""
[datasets.scenes]
root = "{CORPUS}/train"
[datasets.v]
role = "validation"
root = "{CORPUS}/validation"
[schedule]
nightly = "none"
maintenance = "none"
evaluate = "none"
"""
SERVICES = (
    "postgres",
    "migrate",
    "airflow-api",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "exporter",
)
LONGEST_PAUSE_S = 60.0
# The same libraries with the code of the earlier commit.
CONTAINERFILE = f"""
FROM localhost/alchemist-IMAGE:{__version__}
USER root
COPY . /build
RUN cd /build && pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /wheels . \\
    && pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-deps --force-reinstall /wheels/*.whl && rm -r /build /wheels
ENV ALCHEMIST_CODE_VERSION=before
USER 10001:10001
"""


@dataclass
class Upgrade:
    """What was seen of the night, of the upgrade and of the web page."""

    compose: Compose
    state: str
    upgraded: float
    """Seconds that the command needed."""
    page_away: float
    """The longest time without an answer of the web page."""


@pytest.fixture(scope="module")
def earlier(images: tuple[str, ...], services: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout of the earlier commit; its code is in images of REGISTRY."""
    folder = tmp_path_factory.mktemp("before")
    packed = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"this clone does not have commit {BEFORE}")
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    for image in ("airflow", "worker"):
        with tempfile.NamedTemporaryFile("w", suffix=".Containerfile") as file:
            file.write(CONTAINERFILE.replace("IMAGE", image))
            file.flush()
            name = f"{REGISTRY}alchemist-{image}:{__version__}"
            podman(
                "build",
                "--quiet",
                "--format=docker",
                *build_options(),
                "--ignorefile=/dev/null",
                "--file",
                file.name,
                "--tag",
                name,
                folder,
            )
    return folder


@pytest.fixture(scope="module")
def upgrade(earlier: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgrade]:
    """Start the earlier version, and upgrade it when a twentieth of a night is scored."""
    folder = tmp_path_factory.mktemp("upgrade")
    (folder / "alchemist.toml").write_text(PROJECT_FILE)
    before = Compose(folder, folder / "alchemist.toml", checkout=earlier, registry=REGISTRY)
    with before.served():
        try:
            before("up", "--detach", "--no-build", "--pull=never", *SERVICES)
            before.wait_until_healthy()
            prepare(before)
            yield upgrade_during_a_night(before, folder)
        finally:
            # Of the later version, too, which has services that the earlier one does not know.
            before("down", "--volumes", "--remove-orphans")


def prepare(compose: Compose) -> None:
    def alchemist(*words: str) -> None:
        # Code 5: the checks of a rater of four steps.
        compose.run("airflow-scheduler", "sh", "-c", '"$@" || test $? = 5', "sh", "alchemist", *words)

    alchemist("corpus", "scenes", "--out", CORPUS, "--n-train", str(N_SAMPLES), "--n-validation", "200", "--n-test", "1", "--n-nights", "1",
              "--shard-size", str(SHARD_SIZE), "--side", "16")  # fmt: skip
    alchemist("ingest", "--dataset", "v")
    alchemist("ingest", "--dataset", "scenes", "--crawl-date", NIGHT)
    few = ("--max-samples", "256", "--max-train-steps", "4", "--proxy-warmup-steps", "4", "--batch-size", "32")
    alchemist("train-rater", "--preset", "tiny", "--dataset", "scenes", "--validation", "v", *few)
    alchemist("rater", "certify", "newest", "--max-samples", "64")
    alchemist("rater", "promote", "newest", "--without-acceptance", "four steps, for a test")


def upgrade_during_a_night(before: Compose, folder: Path) -> Upgrade:
    airflow = before.client("admin", before.password("airflow_admin_password"))
    run_id = airflow.trigger("nightly_rescore", {"dataset": "scenes", "crawl_date": NIGHT})
    deadline = time.monotonic() + 900
    while n_scored(before) < N_SHARDS // 20:
        assert time.monotonic() < deadline, before.logs("airflow-scheduler")
        time.sleep(1)
    say(f"upgrade after {n_scored(before)} of {N_SHARDS} shards")
    now = Compose(folder, folder / "alchemist.toml", port=before.port)
    began = time.monotonic()
    with Listening(now.url("airflow-api")) as silences:
        now("up", "--detach", "--no-build", "--pull=never", *SERVICES)
        upgraded = time.monotonic() - began
        now.wait_until_healthy()
    path = f"/api/v2/dags/nightly_rescore/dagRuns/{run_id}"
    airflow = now.client("admin", now.password("airflow_admin_password"))
    deadline = time.monotonic() + 1800
    while (state := str(airflow.call("GET", path)["state"])) not in ("success", "failed"):
        assert time.monotonic() < deadline, now.logs("airflow-scheduler")
        time.sleep(2)
    return Upgrade(now, state, upgraded, max(silences))


def n_scored(compose: Compose) -> int:
    return int(compose.query("SELECT count(*) FROM alchemist.shard_scores")[0][0])


class Listening:
    """Ask the web page every second; a list of the seconds between two answers."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> list[float]:
        self._ended, self._silences = threading.Event(), [0.0]
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self._silences

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(1):
            try:
                get(f"{self._url}/api/v2/version")
            except OSError:
                continue
            self._silences.append(time.monotonic() - last)
            last = time.monotonic()


def test_the_night_ends_well_and_every_sample_was_scored_once(upgrade: Upgrade) -> None:
    assert upgrade.state == "success"
    assert upgrade.compose.query("SELECT count(*), count(DISTINCT sample_id) FROM alchemist.scores") == [
        [str(N_SAMPLES)] * 2
    ]
    assert n_scored(upgrade.compose) == N_SHARDS
    ((status, n_quarantined),) = upgrade.compose.query(
        "SELECT status, n_quarantined FROM alchemist.nightly_overview WHERE dataset = 'scenes'"
    )
    assert (status, n_quarantined) == ("selectable", "0")


def test_both_versions_took_part_in_the_night(upgrade: Upgrade) -> None:
    rows = upgrade.compose.query("SELECT code_version, count(*) FROM alchemist.shard_scores GROUP BY code_version")
    say(f"shards by version: {rows}")
    assert len(rows) == 2
    assert "before" in {version for version, _ in rows}


def test_nothing_stopped_for_longer_than_a_minute(upgrade: Upgrade) -> None:
    ends = [
        datetime.fromisoformat(moment)
        for (moment,) in upgrade.compose.query("SELECT scored_at FROM alchemist.shard_scores ORDER BY scored_at")
    ]
    pause = max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(ends))
    say(
        f"the command took {upgrade.upgraded:.0f} s; scoring paused for {pause:.0f} s, the web page for {upgrade.page_away:.0f} s"
    )
    assert max(pause, upgrade.page_away) < LONGEST_PAUSE_S
