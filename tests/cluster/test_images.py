"""The images that `make images` built: what they contain, whose they are, and that each runs the commands of its tasks."""

import json

import pytest

from alchemist_core import __version__
from tests.dags.test_images import PARSE, PROGRAM, tasks_of
from tests.dags.test_policy import FILLED, command, form

from .compose import ROOT
from .stand_ins import podman

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
IMAGES = ("airflow", "jobs", "worker")
PROBE = """
import importlib.util as u, json, os, shutil
print(json.dumps({
    "user": os.getuid(), "compilers": [name for name in ("gcc", "cc", "g++", "clang", "make") if shutil.which(name)],
    "modules": [name for name in ("torch", "airflow", "celery", "kubernetes", "diffusers", "pytest", "uv") if u.find_spec(name)],
    "writable": [path for path in ("/opt/venv", "/usr/local/bin", "/etc") if os.access(path, os.W_OK)],
}))
"""


def run(image: str, *words: str, stdin: str = "") -> str:
    name = f"localhost/alchemist-{image}:{__version__}"
    return podman(
        "run", "--rm", "--interactive", "--network=none", "--entrypoint=python", name, *words, stdin=stdin.encode()
    )


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("airflow", ["airflow", "celery", "kubernetes"]),
        ("jobs", ["torch", "diffusers"]),
        ("worker", ["torch", "airflow", "celery", "diffusers"]),
    ],
)
def test_an_image_holds_its_libraries_no_compiler_and_nothing_that_its_user_can_change(
    image: str, modules: list[str]
) -> None:
    found = json.loads(run(image, "-", stdin=PROBE))
    assert found == {"user": 10001, "compilers": [], "modules": modules, "writable": []}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("image", IMAGES)
def test_an_image_names_its_commit_and_has_a_health_check_and_a_list_of_its_packages(image: str) -> None:
    (about,) = json.loads(podman("inspect", f"localhost/alchemist-{image}:{__version__}"))
    revision = about["Labels"]["org.opencontainers.image.revision"]
    assert f"ALCHEMIST_CODE_VERSION={revision}" in about["Config"]["Env"]
    assert revision.startswith(f"{__version__}+")
    assert about["Healthcheck"]["Test"][0] == "CMD"
    listed = json.loads((ROOT / "dist" / f"{image}.cdx.json").read_text())["components"]
    assert {"numpy", "libc6"} <= {one["name"] for one in listed}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("image", IMAGES)
def test_every_command_of_an_images_tasks_is_parsed_in_it(image, dags) -> None:  # type: ignore[no-untyped-def]
    tasks = tasks_of(image, dags)
    lines = [command(task, form(task.dag, FILLED[task.dag.dag_id]))[1:] for task in tasks]
    given = json.dumps({"refused": [], "lines": lines})
    ends = json.loads(run(image, "-W", "ignore", "-c", PROGRAM % PARSE, stdin=given).splitlines()[-1])
    assert [(line, end) for line, end in zip(lines, ends, strict=True) if end[0] != 0] == []
