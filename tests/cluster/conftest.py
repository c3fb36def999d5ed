"""Our images, built by `make images` with podman, and the images that they and compose.yaml need. Every test here needs root and podman."""

import os
import shutil
import subprocess

import pytest

from tests.dags.conftest import dags  # noqa: F401  a fixture
from tests.trained_store import corpus  # noqa: F401  a fixture

from .compose import ROOT
from .stand_ins import ENVIRONMENT, bring_base, bring_services, build_options


@pytest.fixture(scope="session")
def images() -> tuple[str, ...]:
    """Build the images; unchanged layers are taken from earlier builds."""
    if os.geteuid() != 0 or shutil.which("podman") is None:
        pytest.skip("needs root and podman")
    bring_base()
    environment = ENVIRONMENT | {"CONTAINER_ENGINE": "podman", "BUILD_OPTIONS": " ".join(build_options())}
    subprocess.run(["make", "images"], cwd=ROOT, env=environment, check=True)
    return ("airflow", "jobs", "worker")


@pytest.fixture(scope="session")
def services() -> None:
    """Bring the images of the other services of compose.yaml."""
    bring_services()
