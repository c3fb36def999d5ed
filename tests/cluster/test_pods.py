"""The pods of infra/kubernetes in containers: `podman kube play` runs each with its own user, read-only root, environment and mounts.

These tests need no cluster, so they cannot show scheduling, priorities, quotas, network policies, service accounts or fsGroup: podman has
none of them. (A new volume gets the owner of the folder that it covers.) The names of the pods stand for their services. The tests run the
probes.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from alchemist_core import __version__
from tests.dags.test_images import needs_device, tasks_of
from tests.infra.test_kubernetes import INFRA, kubectl, of_kind

from .stand_ins import ENVIRONMENT, podman

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
Json = dict[str, Any]
HOME, NIGHT = "/var/lib/alchemist", "2026-01-01"
CORPUS = f"{HOME}/corpora/scenes"
PROJECT = f"""
[datasets.scenes]
root = "{CORPUS}/train"
[datasets.v]
role = "validation"
root = "{CORPUS}/validation"
[datasets.t]
role = "evaluation"
root = "{CORPUS}/test"
[schedule]
nightly = "none"
maintenance = "none"
evaluate = "none"
[rater]
preset = "tiny"
dataset = "scenes"
validation = "v"
max_train_steps = 4
proxy_warmup_steps = 4
batch_size = 32
[downstream]
preset = "tiny"
arms = ["subset"]
seeds = [0]
max_train_steps = 4
batch_size = 32
[evaluation]
dataset = "t"
"""
# What the DAGs run, in their order: each line in the pod of a device task, or, marked with "light", in the scheduler's pod.
LINES = (
    ("light", "corpus", "scenes", "--out", CORPUS, "--n-train", "240", "--n-validation", "200", "--n-test", "64", "--shard-size", "40",
     "--side", "32", "--n-nights", "1"),
    ("light", "ingest", "--dataset", "v"),
    ("light", "ingest", "--dataset", "t"),
    ("light", "ingest", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("light", "duplicates", "find"),
    ("light", "check", "--suite", "shards", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("light", "check", "--suite", "samples", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("device", "train-rater"),
    ("device", "rater", "certify", "newest", "--max-samples", "64"),
    ("light", "rater", "promote", "newest", "--without-acceptance", "four steps, for a test"),
    ("device", "score", "--dataset", "scenes", "--crawl-date", NIGHT, "--rater", "nightly", "--slot", "0"),
    ("light", "check", "--suite", "scores", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("light", "night", "check-drift", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("light", "night", "publish", "--dataset", "scenes", "--crawl-date", NIGHT),
    ("light", "select", "--dataset", "scenes", "--name", "best", "--retention", "0.5"),
    ("light", "check", "--suite", "subset", "--subset", "best"),
    ("light", "subset", "publish", "best"),
    ("device", "train-downstream", "best"),
    ("device", "evaluate", "best"),
    ("light", "check", "--suite", "evaluation", "--subset", "best"),
    ("light", "report", "--dataset", "scenes"),
)  # fmt: skip
# A rater of four steps fails its acceptance checks, and a comparison of one arm with one seed those of an evaluation.
CODES = {("rater", "certify"): 5, ("check", "--suite", "scores"): 5, ("check", "--suite", "evaluation"): 5}
NETWORK = "alchemist-pods"
GET = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())"
PARTS = ("airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


@dataclass
class Namespace:
    """The objects of infra/kubernetes with the values and secrets of an installation, and its pods."""

    objects: list[Json]
    folder: Path
    specs: dict[str, Json] = field(default_factory=dict)
    """The specification of each pod that was started."""

    def spec(self, name: str) -> Json:
        """Return a copy of the specification of the pods of an object."""
        found = of_kind(self.objects, "Deployment", "Job", "PodTemplate")[name]
        return json.loads(json.dumps(found.get("spec", found)["template"]["spec"]))  # type: ignore[no-any-return]

    def start(self, name: str, spec: Json) -> None:
        """Start a pod. Its init containers have ended, each with 0, when this returns."""
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": adapted(spec)}
        given = [one for one in self.objects if one["kind"] in ("ConfigMap", "Secret", "PersistentVolumeClaim")]
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all([*given, pod]))
        self.specs[name] = spec
        podman("kube", "play", f"--network={NETWORK}", "--replace", path)

    def container(self, pod: str) -> str:
        """Return the name of a pod's container that is no init container."""
        (container,) = self.specs[pod]["containers"]
        return f"{pod}-{container['name']}"

    def end(self, name: str) -> tuple[int, str]:
        """Wait until the only container of a pod has ended; return its exit code and what it printed, and remove the pod."""
        container = self.container(name)
        code = int(podman("wait", container))
        done = subprocess.run(
            ["podman", "logs", container], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        podman("pod", "rm", "--force", name)
        del self.specs[name]
        return code, done.stdout + done.stderr

    def run(self, spec: Json, *words: str) -> tuple[int, str]:
        """Run a command in a pod of its own; return its exit code and what it printed."""
        spec["containers"][0]["command"] = [*words]
        spec.pop("initContainers", None)
        spec["restartPolicy"] = "Never"
        self.start("one-command", spec)
        return self.end("one-command")

    def remove(self) -> None:
        """Remove the pods and the volumes."""
        for name in list(self.specs):
            with contextlib.suppress(AssertionError):
                podman("pod", "rm", "--force", name)
        # Of the claim and of the config maps.
        podman("volume", "rm", "--force", "alchemist-home", "alchemist-project")
        podman("network", "rm", "--force", NETWORK)

    def get(self, url: str) -> str:
        """Return a page, as one of the pods sees it."""
        return podman("exec", self.container("airflow-scheduler"), "python", "-c", GET, url)


def adapted(spec: Json) -> Json:
    """Return a specification without what podman does not have, with the images of this machine."""
    spec = json.loads(json.dumps(spec))
    for name in (
        "priorityClassName",
        "serviceAccountName",
        "nodeSelector",
        "tolerations",
        "automountServiceAccountToken",
    ):
        spec.pop(name, None)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        if container["image"].startswith("alchemist-"):
            container["image"] = f"localhost/{container['image']}"
        container["imagePullPolicy"] = "Never"
        # Of the device plugin, and more memory than this machine has.
        container.pop("resources", None)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(probe, None)
    return spec


def secret(name: str, **values: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "stringData": values}


@pytest.fixture(scope="module")
def namespace(images: tuple[str, ...], services: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """The rendered objects with the secrets that README.md names, and a Postgres server."""
    folder = tmp_path_factory.mktemp("pods")
    folder.chmod(0o755)
    rendered = subprocess.run([kubectl(), "kustomize", str(INFRA / "kubernetes")], capture_output=True, check=True)
    objects = list(yaml.load_all(rendered.stdout, Loader=yaml.CSafeLoader))
    airflow = "postgresql+psycopg2://alchemist_airflow:b-password@postgres/airflow"
    objects += [
        secret("alchemist-store", ALCHEMIST_DATABASE_URL="postgresql://alchemist_writer:a-password@postgres/alchemist"),
        secret("alchemist-store-owner", ALCHEMIST_DATABASE_URL="postgresql://alchemist:o-password@postgres/alchemist",
               STORE_READER_PASSWORD="c-password", STORE_WRITER_PASSWORD="a-password", AIRFLOW_DATABASE_PASSWORD="b-password"),
        secret("alchemist-airflow", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=airflow, ALCHEMIST_AIRFLOW_DATABASE_URL=airflow,
               AIRFLOW__CORE__FERNET_KEY="eNb_2LSGZ7RJjZvDTRbFsnS7-ALnOV9fp6N0vzpwBDw=", AIRFLOW__API__SECRET_KEY="an-api-secret",
               AIRFLOW__API_AUTH__JWT_SECRET="a-secret-of-at-least-64-letters-for-the-tokens-of-tasks-and-people"),
        secret("alchemist-airflow-admin", AIRFLOW_ADMIN_USERNAME="admin", AIRFLOW_ADMIN_PASSWORD="d-password",
               AIRFLOW_ADMIN_EMAIL="admin@example.com"),
    ]  # fmt: skip
    of_kind(objects, "ConfigMap")["alchemist-project"]["data"]["alchemist.toml"] = PROJECT
    made = Namespace(objects, folder)
    podman("network", "create", "--ignore", NETWORK)
    try:
        start_database(made)
        yield made
    finally:
        made.remove()


def start_database(namespace: Namespace) -> None:
    """Start the Postgres that an installation has outside of its cluster."""
    given = {"POSTGRES_USER": "alchemist", "POSTGRES_DB": "alchemist", "POSTGRES_PASSWORD_FILE": "/run/password"}
    environment = [{"name": name, "value": value} for name, value in given.items()]
    # The official image does as much for a file that compose mounts.
    start = (
        "printf o-password > /run/password && chmod 444 /run/password && exec bash /usr/local/bin/postgres.sh postgres"
    )
    container = {
        "name": "server", "image": "docker.io/library/postgres:18.1-trixie", "command": ["sh", "-c", start], "env": environment,
    }  # fmt: skip
    namespace.start("postgres", {"containers": [container], "restartPolicy": "Never"})
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            podman("exec", "postgres-server", "pg_isready", "-U", "alchemist", "-h", "127.0.0.1")
            return
        time.sleep(1)
    raise AssertionError(podman("logs", "postgres-server"))


@pytest.fixture(scope="module")
def migrated(namespace: Namespace) -> tuple[int, str]:
    """What the last container of the job alchemist-migrate ended with; the others ended before it."""
    spec = namespace.spec("alchemist-migrate") | {"restartPolicy": "Never"}
    namespace.start("alchemist-migrate", spec)
    return namespace.end("alchemist-migrate")


def test_the_job_migrates_and_can_be_repeated(namespace: Namespace, migrated: tuple[int, str]) -> None:
    code, printed = migrated
    assert code == 0, printed[-2000:]
    namespace.start("again", namespace.spec("alchemist-migrate") | {"restartPolicy": "Never"})
    code, printed = namespace.end("again")
    assert code == 0, printed[-2000:]


@pytest.fixture(scope="module")
def done(namespace: Namespace, migrated: tuple[int, str]) -> dict[tuple[str, ...], tuple[int, str]]:
    """Each line of LINES with its exit code and what it printed."""
    assert migrated[0] == 0, migrated[1][-2000:]
    pods = {"light": "airflow-scheduler", "device": "alchemist-device-job"}
    return {tuple(words): namespace.run(namespace.spec(pods[kind]), "alchemist", *words) for kind, *words in LINES}


def test_every_command_ends_well_in_its_pod(done: dict[tuple[str, ...], tuple[int, str]]) -> None:
    failed = {}
    for words, (code, printed) in done.items():
        allowed = {0, *(allowed for start, allowed in CODES.items() if words[: len(start)] == start)}
        if code not in allowed:
            failed[" ".join(words)] = (code, printed[-1500:])
    assert failed == {}


def test_no_command_missed_a_place_to_write(done: dict[tuple[str, ...], tuple[int, str]]) -> None:
    signs = ("Read-only file system", "Permission denied", "not writable", "No space left")
    lines = [(" ".join(words), line) for words, (_, printed) in done.items() for line in printed.splitlines()]
    assert [(words, line) for words, line in lines if any(sign in line for sign in signs)] == []


def test_the_lines_hold_every_command_of_a_device_task(dags: dict[str, Any]) -> None:
    from tests.dags.test_policy import FILLED, command, form

    wanted = set()
    for task in tasks_of("jobs", dags):
        assert needs_device(task)
        words = command(task, form(task.dag, FILLED[task.dag.dag_id]))[1:]
        wanted.add(words[0] if words[0] != "rater" else f"rater {words[1]}")
    tried = {words[0] if words[0] != "rater" else f"rater {words[1]}" for kind, *words in LINES if kind == "device"}
    assert wanted == tried


@pytest.fixture(scope="module")
def parts(namespace: Namespace, migrated: tuple[int, str]) -> Namespace:
    """Airflow's four parts and the exporter, started and healthy."""
    assert migrated[0] == 0, migrated[1][-2000:]
    for name in ("alchemist-exporter", *PARTS):
        namespace.start(name, namespace.spec(name))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, ValueError):
            health = json.loads(namespace.get("http://airflow-api:8080/api/v2/monitor/health"))
            parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
            if {health[name]["status"] for name in parts} == {"healthy"}:
                return namespace
        time.sleep(3)
    raise AssertionError(podman("ps", "--all"))


@pytest.mark.parametrize("name", PARTS)
def test_every_probe_of_a_part_succeeds(parts: Namespace, name: str) -> None:
    (container,) = parts.spec(name)["containers"]
    probes = [container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in container]
    assert probes
    for probe in probes:
        if "httpGet" in probe:
            parts.get(f"http://airflow-api:8080{probe['httpGet']['path']}")
        else:
            podman("exec", parts.container(name), *probe["exec"]["command"])


def test_the_exporter_is_ready_and_has_airflows_metrics(parts: Namespace) -> None:
    page = parts.get("http://alchemist-exporter:9477/metrics")
    assert "alchemist_" in page
    assert "airflow_" in page


def test_the_doctor_in_the_schedulers_pod_finds_the_pool_the_dags_and_no_import_error(parts: Namespace) -> None:
    # Exit code 5: no API server of a cluster answers here.
    told = podman("exec", parts.container("airflow-scheduler"), "sh", "-c", "alchemist doctor --json || test $? = 5")
    findings = json.loads(told.splitlines()[-1])["findings"]
    states: dict[str, set[str]] = {}
    for one in findings:
        states.setdefault(one["part"], set()).add(one["state"])
    assert {states[part] == {"ok"} for part in ("project", "store", "clock", "airflow", "pool", "dags")} == {True}, (
        findings
    )


@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_as_the_images_user_and_cannot_write_its_root(parts: Namespace, name: str) -> None:
    container = parts.container(name)
    assert podman("exec", container, "id", "-u").strip() == "10001"
    assert podman("exec", container, "sh", "-c", "touch /opt/venv/x 2>/dev/null || echo refused").strip() == "refused"
    assert __version__ in podman("inspect", container, "--format={{.ImageName}}")
