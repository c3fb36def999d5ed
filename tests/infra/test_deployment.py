"""Deployment files, checked without Docker or a cluster: schemas, linters, and the pod of a GPU task."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

INFRA = Path(__file__).resolve().parents[2] / "infra"
GOLDEN = Path(__file__).with_name("golden") / "score-pod.json"
DOCKERFILES = sorted((INFRA / "docker").glob("*.Dockerfile"))
MANIFESTS = [INFRA / "kubernetes" / name for name in ("alchemist.yaml", "gpu-job.yaml")]
KUBERNETES = "1.34"

# A separate program, because Airflow reads its environment only once, when it is first imported.
RENDER = """
import json, sys, warnings
from types import SimpleNamespace
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from alchemist_dags import evaluate_subset, nightly_rescore, train_rater
from kubernetes import client

GPU = {"score": nightly_rescore.nightly_rescore(), "train_rater": train_rater.train_rater(),
       "train_downstream": evaluate_subset.evaluate_subset(), "evaluate": evaluate_subset.evaluate_subset()}
pods = {}
for task_id, dag in GPU.items():
    task = dag.get_task(task_id)
    item = {"dataset": "crawl", "crawl_date": "2026-01-02", "slot": 0} if task_id == "score" else "best"
    operator = task.unmap({"item": item}) if task.is_mapped else task
    params = {name: dag.params.get_param(name).value for name in dag.params} | {"dataset": "crawl", "validation": "goal"}
    run = SimpleNamespace(partition_key="2026-01-02", conf={})
    none = SimpleNamespace(dag_id="", run_id="", map_index=0, get_task_states=lambda *_, **__: {})
    operator.cmds = operator.read_line({"params": params, "dag_run": run, "dag": dag, "ti": none})
    pod = operator.build_pod_request_obj()
    pods[task_id] = client.ApiClient().sanitize_for_serialization(pod)
print("\\n" + json.dumps(pods))
"""


# Never called; the provider only checks whether it runs inside a cluster.
NOWHERE = {
    "apiVersion": "v1", "kind": "Config", "current-context": "none", "users": [],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": ""}}],
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The pod of each GPU task as the Kubernetes runner would request it, without its random name."""
    if importlib.util.find_spec("airflow.providers.cncf") is None:
        pytest.skip("the provider comes with the extra `kubernetes`")
    home = tmp_path_factory.mktemp("airflow")
    (home / "cluster.yaml").write_text(yaml.safe_dump(NOWHERE))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(home),
        "KUBECONFIG": str(home / "cluster.yaml"),
        "ALCHEMIST_JOB_RUNNER": "kubernetes",
        "ALCHEMIST_POD_TEMPLATE": str(INFRA / "kubernetes" / "gpu-job.yaml"),
    }
    program = [sys.executable, "-c", RENDER, str(INFRA.parent / "dags")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    for pod in found.values():
        pod["metadata"]["name"] = re.sub(r"-[a-z0-9]{8}$", "-RANDOM", pod["metadata"]["name"])
        labels = pod["metadata"]["labels"]
        pod["metadata"]["labels"] = {name: value for name, value in labels.items() if "version" not in name}
    return found


def test_the_pod_of_a_gpu_task_is_the_committed_one(pods: dict[str, dict[str, Any]]) -> None:
    if os.environ.get("ALCHEMIST_TEST_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(pods["score"], indent=1, sort_keys=True) + "\n")
    assert pods["score"] == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("task_id", ["score", "train_rater", "train_downstream", "evaluate"])
def test_every_gpu_task_is_a_valid_pod_with_one_card_that_is_not_root(
    pods: dict[str, dict[str, Any]], task_id: str
) -> None:
    assert violations(pods[task_id]) == []
    (container,) = pods[task_id]["spec"]["containers"]
    assert container["command"][0] == "alchemist"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pods[task_id]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pods[task_id]["spec"]["restartPolicy"] == "Never", "Airflow retries, and the lease decides"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_valid(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert documents
    assert [violations(document) for document in documents] == [[]] * len(documents)


def test_a_manifest_with_a_wrong_field_is_not_valid() -> None:
    pod = yaml.safe_load((INFRA / "kubernetes" / "gpu-job.yaml").read_text())
    pod["spec"]["restartPolicies"] = "Never"
    (violation,) = violations(pod)
    assert "'restartPolicies' was unexpected" in violation


def violations(document: dict[str, Any]) -> list[str]:
    """The first field that Kubernetes does not accept, if any."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


def test_compose_keeps_to_its_schema() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(INFRA / "compose.yaml")]
    assert complaints(command) == ""


def test_compose_publishes_on_loopback_only_and_holds_no_secret() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    assert {"postgres", "airflow-scheduler", "exporter", "prometheus", "alertmanager", "grafana", "minio"} <= compose[
        "services"
    ].keys()
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":[\w.-]*\d", service["image"]), f"{name} is not pinned"
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY", variable):
                assert "${" in value or value.startswith("/run/secrets/"), f"{name} holds {variable}"


def test_the_log_of_each_container_of_compose_is_bounded() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["logging"]["options"] == {"max-size": "50m", "max-file": "5"}, name


def test_files_that_compose_mounts_exist() -> None:
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    local = {mount.split(":")[0] for mount in mounts if mount.startswith("./")}
    assert local
    assert all((INFRA / path).exists() for path in local)


def test_compose_scrapes_what_this_machine_scrapes_by_other_names() -> None:
    here, there = ((INFRA / "prometheus" / name).read_text() for name in ("prometheus.yml", "compose.yml"))
    renamed = here.replace("127.0.0.1:9093", "alertmanager:9093").replace("127.0.0.1:9477", "exporter:9477")
    assert there == renamed


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_are_clean_pinned_and_not_root(path: Path) -> None:
    assert complaints(["hadolint", str(path)]) == ""
    text = path.read_text()
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+", text, flags=re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", text, flags=re.MULTILINE)
    assert ("torch==" in text) == (path.stem.split(".")[0] in ("jobs", "worker"))


def test_alertmanager_accepts_its_configuration() -> None:
    assert complaints(["amtool", "check-config", str(INFRA / "prometheus" / "alertmanager.yml")]) == ""


def complaints(command: list[str]) -> str:
    """What a linter prints about a file; empty if it accepts the file."""
    program = shutil.which(command[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"{command[0]} is missing: it comes with the extra `dev` or with Debian's Prometheus")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_names_its_code_and_holds_the_page_that_its_links_name(path: Path) -> None:
    text = path.read_text()
    assert 'RUN test -n "${CODE_VERSION}"\nENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}\n' in text
    assert "COPY infra/RUNBOOK.md infra/\n" in text


def test_compose_builds_each_image_with_its_code_version() -> None:
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"].values()
    builds = [service["build"] for service in services if "build" in service]
    assert builds
    assert {build["args"]["CODE_VERSION"] for build in builds} == {"${CODE_VERSION:-unknown}"}


@pytest.mark.parametrize("name", [".env", "infra/.env", "infra/prod.env"])
def test_files_of_secrets_are_not_committed_by_mistake(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", "-q", name], cwd=INFRA.parent, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.returncode == 0
