"""The manifests of infra/kubernetes as kubectl renders them, and the pods and Jobs of the DAGs on a test server (`pod_server.py`).

No cluster takes part. The schemas are those of Kubernetes, read as strictly as its API server reads an object; the rest are our own rules.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from alchemist_core.cli.command_line import build_parser
from alchemist_core.local.airflow_environment import build_environment
from alchemist_core.settings import VARIABLES
from alchemist_core.store.engine import migrate

INFRA = Path(__file__).resolve().parents[2] / "infra"
GOLDEN = Path(__file__).with_name("golden") / "score-pod.json"
SUPPORTED = ("1.34", "1.37")
"""The oldest and the newest version of Kubernetes whose schemas are checked."""
Json = dict[str, Any]


def kubectl() -> str:
    program = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return program or pytest.skip("kubectl is missing: it comes with the extra `dev`")


@pytest.fixture(scope="module")
def objects() -> list[Json]:
    """What `kubectl apply -k infra/kubernetes` would send."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(INFRA / "kubernetes")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def violations(document: Json, version: str = SUPPORTED[0]) -> list[str]:
    """The first field that Kubernetes does not accept, if any."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{document['kind']}: {error}"]
    return []


def of_kind(objects: list[Json], *kinds: str) -> dict[str, Json]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] in kinds}


def pod_specs(objects: list[Json]) -> dict[str, Json]:
    """The specification of each kind of pod, by the name of its object."""
    specs = {name: found["spec"]["template"]["spec"] for name, found in of_kind(objects, "Deployment", "Job").items()}
    return specs | {name: found["template"]["spec"] for name, found in of_kind(objects, "PodTemplate").items()}


def containers_of(spec: Json) -> list[Json]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def lines_of(objects: list[Json]) -> list[list[str]]:
    """Every command line of the manifests; $(NAME) is a variable that Kubernetes fills in."""
    lines = [one["command"] for spec in pod_specs(objects).values() for one in containers_of(spec) if "command" in one]
    return [re.split("^until | && exec |; do ", line[2])[1].split() if line[0] == "sh" else line for line in lines]


@pytest.mark.parametrize("version", SUPPORTED)
def test_every_object_is_valid(objects: list[Json], version: str) -> None:
    assert {found["kind"] for found in objects} >= {
        "Namespace", "PersistentVolumeClaim", "ConfigMap", "Job", "Deployment", "Service", "PodTemplate", "NetworkPolicy", "ResourceQuota",
        "LimitRange", "PriorityClass", "ServiceAccount", "Role", "RoleBinding",
    }  # fmt: skip
    assert [violation for found in objects for violation in violations(found, version)] == []


@pytest.fixture(scope="module")
def beside_chart() -> list[Json]:
    """What `kubectl apply -k infra/chart` would send."""
    command = [kubectl(), "kustomize", str(INFRA / "chart")]
    rendered = subprocess.run(command, capture_output=True, check=True).stdout
    return list(yaml.load_all(rendered, Loader=yaml.CSafeLoader))


def test_beside_the_official_chart_everything_but_airflows_own_parts_is_applied(
    objects: list[Json], beside_chart: list[Json]
) -> None:
    names = {(found["kind"], found["metadata"]["name"]) for found in objects}
    left_out = names - {(found["kind"], found["metadata"]["name"]) for found in beside_chart}
    parts = ("api", "scheduler", "dag-processor", "triggerer")
    assert left_out == {*(("Deployment", f"airflow-{part}") for part in parts), ("Service", "airflow-api")}
    assert [violation for found in beside_chart for violation in violations(found)] == []


@pytest.mark.parametrize("part", ["api-server", "scheduler", "dag-processor", "triggerer", "worker"])
def test_only_the_api_server_of_the_official_chart_is_reachable(beside_chart: list[Json], part: str) -> None:
    """A pod that no policy selects accepts every connection, so each must be selected by one."""
    labels = {"tier": "airflow", "component": part, "release": "airflow"}
    ingress = {
        name: found["spec"].get("ingress", [])
        for name, found in of_kind(beside_chart, "NetworkPolicy").items()
        if found["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
    }
    callers = [
        {"podSelector": {"matchLabels": {"release": "airflow"}}},
        {"namespaceSelector": {"matchLabels": {"alchemist/ingress": "true"}}},
    ]
    of_api = [{"from": callers, "ports": [{"port": 8080, "protocol": "TCP"}]}]
    assert ingress == {"alchemist-default": []} | ({"alchemist-airflow-api": of_api} if part == "api-server" else {})


@pytest.mark.parametrize("installed", ["objects", "beside_chart"])
def test_doctor_reaches_the_page_of_metrics_from_airflows_pods(
    installed: str, objects: list[Json], beside_chart: list[Json]
) -> None:
    """It reads ALCHEMIST_METRICS_URL in the pod of the scheduler, as the runbook says."""
    of_chart = {"tier": "airflow", "component": "scheduler", "release": "airflow"}
    scheduler = of_kind(objects, "Deployment")["airflow-scheduler"]["spec"]["template"]["metadata"]["labels"]
    found, labels = (objects, scheduler) if installed == "objects" else (beside_chart, of_chart)
    address = urlsplit(settings_of(found, "alchemist-settings")["ALCHEMIST_METRICS_URL"])
    exporter = of_kind(found, "Service")[address.hostname or ""]["spec"]["selector"]
    policies = [
        policy["spec"]
        for policy in of_kind(found, "NetworkPolicy").values()
        if (chosen := policy["spec"]["podSelector"].get("matchLabels")) and chosen.items() <= exporter.items()
    ]
    admitted = [
        port["port"]
        for policy in policies
        for rule in policy["ingress"]
        for source in rule["from"]
        for port in rule["ports"]
        if port["protocol"] == "TCP"
        and source.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= labels.items()
    ]
    assert admitted == [address.port]


def test_an_object_with_an_unknown_field_is_not_valid(objects: list[Json]) -> None:
    template = json.loads(json.dumps(of_kind(objects, "PodTemplate")["alchemist-device-job"]))
    template["template"]["spec"]["restartPolicies"] = "Never"
    (violation,) = violations(template)
    assert "'restartPolicies' was unexpected" in violation


def test_every_file_of_the_folder_is_used() -> None:
    folder = INFRA / "kubernetes"
    used = (folder / "kustomization.yaml").read_text()
    assert {path.name for path in folder.iterdir() if path.name not in used} - {"kustomization.yaml"} == set()


def test_the_namespace_demands_the_restricted_profile_and_every_pod_meets_it(objects: list[Json]) -> None:
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, spec in pod_specs(objects).items():
        assert breaches_of_restricted(spec) == [], name


def breaches_of_restricted(spec: Json) -> list[str]:
    """The rules of the profile that a pod breaks (kubernetes.io/docs/concepts/security/pod-security-standards), and a read-only root."""
    pod = spec.get("securityContext", {})
    allowed = {
        "name",
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "downwardAPI",
        "csi",
        "ephemeral",
    }
    rules = {
        "runs as root": pod.get("runAsNonRoot") is True and pod.get("runAsUser", 0) > 0,
        "without seccomp": pod.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "shares the host": not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
        "mounts the host": all(volume.keys() <= allowed for volume in spec.get("volumes", [])),
    }
    for container in containers_of(spec):
        own = container.get("securityContext", {})
        rules |= {
            f"{container['name']} may gain rights": own.get("allowPrivilegeEscalation") is False,
            f"{container['name']} has capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            f"{container['name']} may write its root": own.get("readOnlyRootFilesystem") is True,
            f"{container['name']} opens a host port": all(
                "hostPort" not in port for port in container.get("ports", [])
            ),
        }
    return [rule for rule, is_kept in rules.items() if not is_kept]


def test_a_pod_that_breaks_the_profile_is_found(objects: list[Json]) -> None:
    spec = json.loads(json.dumps(pod_specs(objects)["alchemist-exporter"]))
    spec["containers"][0]["securityContext"]["capabilities"]["drop"] = []
    spec["securityContext"]["runAsUser"] = 0
    assert breaches_of_restricted(spec) == ["runs as root", "exporter has capabilities"]


def test_every_name_that_a_pod_refers_to_exists_or_is_a_documented_secret(objects: list[Json]) -> None:
    told = (INFRA / "README.md").read_text()
    for name, spec in pod_specs(objects).items():
        for kind, wanted in references_of(spec):
            if kind == "Secret":
                assert f"`{wanted}`" in told, f"{name}: secret {wanted} is not documented"
            else:
                assert wanted in of_kind(objects, kind), f"{name}: there is no {kind} {wanted}"


def references_of(spec: Json) -> Iterator[tuple[str, str]]:
    yield "PriorityClass", spec["priorityClassName"]
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in containers_of(spec):
        yield from variables_of(container)
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= {volume["name"] for volume in spec.get("volumes", [])}


def variables_of(container: Json) -> Iterator[tuple[str, str]]:
    """The objects from which a container has its variables."""
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            yield "ConfigMap", source["configMapRef"]["name"]
        else:
            yield "Secret", source["secretRef"]["name"]
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            yield "Secret", entry["valueFrom"]["secretKeyRef"]["name"]


def test_a_selector_selects_the_pods_that_it_is_meant_for(objects: list[Json]) -> None:
    pods = {
        name: found["spec"]["template"]["metadata"]["labels"]
        for name, found in of_kind(objects, "Deployment", "Job").items()
    }
    pods |= {name: found["template"]["metadata"]["labels"] for name, found in of_kind(objects, "PodTemplate").items()}
    selected = {
        name: {pod for pod, labels in pods.items() if found["spec"].get("selector", {}).items() <= labels.items()}
        for name, found in of_kind(objects, "Service").items()
    }
    assert selected == {
        "airflow-api": {"airflow-api"}, "alchemist-exporter": {"alchemist-exporter"}, "alchemist-nodes": {"alchemist-device-job"},
    }  # fmt: skip
    policies = {
        name: {
            pod
            for pod, labels in pods.items()
            if found["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        }
        for name, found in of_kind(objects, "NetworkPolicy").items()
    }
    assert policies == {
        "alchemist-default": pods.keys(), "alchemist-airflow-api": {"airflow-api"}, "alchemist-exporter": {"alchemist-exporter"},
        "alchemist-jobs": {"alchemist-device-job"},
    }  # fmt: skip


def test_only_the_parts_that_start_pods_have_a_token_of_the_cluster(objects: list[Json]) -> None:
    with_token = {name for name, spec in pod_specs(objects).items() if spec["automountServiceAccountToken"]}
    assert with_token == {"airflow-scheduler", "airflow-triggerer"}


def test_every_part_of_airflow_has_the_connection_to_the_cluster_in_its_environment(objects: list[Json]) -> None:
    """Airflow reads a connection from there before it asks its database, in which the role Op may change it."""
    name = "AIRFLOW_CONN_KUBERNETES_DEFAULT"
    connection = json.loads(settings_of(objects, "alchemist-airflow")[name])
    assert connection == {"conn_type": "kubernetes", "extra": {"in_cluster": True, "namespace": "alchemist"}}
    for part in ("api", "scheduler", "dag-processor", "triggerer"):
        for container in containers_of(pod_specs(objects)[f"airflow-{part}"]):
            assert {"configMapRef": {"name": "alchemist-airflow"}} in container["envFrom"], part
    of_chart = yaml.safe_load((INFRA / "chart" / "values.yaml").read_text())["env"]
    assert connection in [json.loads(one["value"]) for one in of_chart if one["name"] == name]


def test_only_the_migration_sees_the_owners_secret_and_a_job_sees_none_of_airflows(objects: list[Json]) -> None:
    secrets = {
        name: {wanted for kind, wanted in references_of(spec) if kind == "Secret"}
        for name, spec in pod_specs(objects).items()
    }
    assert {name for name, found in secrets.items() if "alchemist-store-owner" in found} == {"alchemist-migrate"}
    assert secrets["alchemist-device-job"] == secrets["alchemist-exporter"] == {"alchemist-store"}
    (exporter,) = pod_specs(objects)["alchemist-exporter"]["containers"]
    assert [source for source in exporter["envFrom"] if "secretRef" in source] == [], (
        "it needs one value of that secret"
    )


def is_read_only(path: str, mounts: list[Json]) -> bool:
    """Whether the deepest mount above a path refuses writing."""
    above = [one for one in mounts if f"{path}/".startswith(f"{one['mountPath']}/")]
    return bool(max(above, key=lambda one: len(one["mountPath"])).get("readOnly", False))


def test_no_pod_that_decodes_images_apart_from_airflow_writes_what_airflow_reads(objects: list[Json]) -> None:
    """An image that takes over its decoder would become Airflow by a DAG file of its own, or show files of its pods as logs."""
    airflow = settings_of(objects, "alchemist-airflow")
    (job,) = pod_specs(objects)["alchemist-device-job"]["containers"]
    for name in ("AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__LOGGING__BASE_LOG_FOLDER"):
        assert is_read_only(airflow[name], job["volumeMounts"]), name
    assert not is_read_only("/var/lib/alchemist/artifacts", job["volumeMounts"])
    of_chart = yaml.safe_load((INFRA / "chart" / "values.yaml").read_text())
    assert is_read_only(of_chart["config"]["core"]["dags_folder"], of_chart["volumeMounts"])
    assert not is_read_only(of_chart["config"]["logging"]["base_log_folder"], of_chart["volumeMounts"])


def test_the_images_are_pinned_to_this_version(objects: list[Json]) -> None:
    from alchemist_core import __version__

    images = {container["image"] for spec in pod_specs(objects).values() for container in containers_of(spec)}
    assert images == {f"alchemist-airflow:{__version__}", f"alchemist-jobs:{__version__}"}
    page = (INFRA.parent / "docs" / "how-to" / "kubernetes.md").read_text(encoding="utf-8")
    assert re.findall(r"newTag: (.+)}$", page, re.MULTILINE) == [__version__] * 2


def test_every_container_has_requests_and_a_memory_limit_and_all_fit_into_the_quota(objects: list[Json]) -> None:
    (quota,) = of_kind(objects, "ResourceQuota").values()
    for spec in pod_specs(objects).values():
        for container in containers_of(spec):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    job = pod_specs(objects)["alchemist-device-job"]["containers"][0]["resources"]
    slots = int(settings_of(objects, "alchemist-settings")["ALCHEMIST_SCORE_SLOTS"])
    assert slots * int(job["requests"]["nvidia.com/gpu"]) <= int(quota["spec"]["hard"]["requests.nvidia.com/gpu"])
    assert job["requests"]["nvidia.com/gpu"] == job["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("installed", ["objects", "beside_chart"])
def test_the_page_makes_a_valid_job_of_a_command_that_has_no_dag(
    installed: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is missing")
    page = (INFRA.parent / "docs" / "how-to" / "kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(job\(\) .*?)^```", page, re.MULTILINE | re.DOTALL)
    template = of_kind(request.getfixturevalue(installed), "PodTemplate")["alchemist-device-job"]
    (tmp_path / "template.json").write_text(json.dumps(template))
    # Stands in for the API server: it gives the template, and keeps the Job that it gets.
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\ncase "$3" in get) cat template.json;; create) cat > job.json;; esac\n'
    )
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", f"set -eo pipefail\n{block}"], env=environment, check=True, timeout=60)
    job = json.loads((tmp_path / "job.json").read_text())
    assert [violations(job, version) for version in SUPPORTED] == [[], []]
    assert job["metadata"]["name"] == "train-critic"
    pod = job["spec"]["template"]
    assert pod["metadata"] == template["template"]["metadata"]
    (container,) = pod["spec"]["containers"]
    assert container["image"].startswith("alchemist-jobs:")
    words = container["command"]
    assert words[:4] == ["alchemist", "scorer", "train", "critic"]
    build_parser(words[1:]).parse_args(words[1:])
    # Registering and checking a scorer build it, which imports torch.
    assert {"scorer train", "scorer register", "scorer check"} <= set(re.findall(r"`(scorer \w+)`", page))


def test_a_job_pod_waits_for_a_node_with_a_device_and_is_never_restarted(objects: list[Json]) -> None:
    job = pod_specs(objects)["alchemist-device-job"]
    assert (job["nodeSelector"], job["restartPolicy"]) == ({"alchemist/device": "gpu"}, "Never")


@pytest.mark.db
def test_the_parts_that_run_tasks_wait_until_the_store_is_migrated(
    objects: list[Json], make_database: Callable[..., str]
) -> None:
    waits = {
        name: [one["command"] for one in spec.get("initContainers", []) if one["name"] == "wait-store"]
        for name, spec in pod_specs(objects).items()
        if name.startswith("airflow-") and ("Secret", "alchemist-store") in references_of(spec)
    }
    # It runs no task, but the explorer.
    assert waits.pop("airflow-api") == []
    assert waits.keys() == {"airflow-scheduler", "airflow-dag-processor"}
    (command,), (other,) = waits.values()
    assert command == other
    url = make_database(template=None)
    environment = os.environ | {
        "ALCHEMIST_DATABASE_URL": url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            while "has no complete schema yet" not in (line := waiting.stdout.readline()):
                assert line, "it ended before the store was migrated"
            migrate(url)
            said, _ = waiting.communicate(timeout=60)
        finally:
            waiting.kill()
    assert waiting.returncode == 0
    assert "the schema is at revision" in said


def test_the_explorer_in_airflows_page_has_the_account_of_the_store(objects: list[Json]) -> None:
    (api,) = pod_specs(objects)["airflow-api"]["containers"]
    assert {"secretRef": {"name": "alchemist-store"}} in api["envFrom"]
    (row,) = [
        line for line in (INFRA / "README.md").read_text().splitlines() if line.startswith("| `alchemist-store` |")
    ]
    assert "| API server, scheduler, DAG processor" in row


def settings_of(objects: list[Json], name: str) -> dict[str, str]:
    return dict(of_kind(objects, "ConfigMap")[name]["data"])


def test_every_command_of_alchemist_is_accepted_by_its_parser(objects: list[Json]) -> None:
    ours = [line[1:] for line in lines_of(objects) if line[0] == "alchemist"]
    assert ["db", "migrate"] in ours
    for words in ours:
        build_parser(words).parse_args(words)


def test_every_variable_is_known_and_what_the_laptop_sets_too_has_its_value(
    objects: list[Json], tmp_path: Path
) -> None:
    given = settings_of(objects, "alchemist-settings") | settings_of(objects, "alchemist-airflow")
    assert {name for name in given if name.startswith("ALCHEMIST_")} <= VARIABLES.keys()
    laptop = build_environment(
        tmp_path, port=1, metadata_url="postgresql://a/b", store_url="postgresql://a/c", statsd_port=2
    )
    differing = {name for name in given.keys() & laptop.keys() if given[name] != laptop[name]}
    assert differing == {
        # Addresses and folders.
        "AIRFLOW_HOME", "AIRFLOW__API__BASE_URL", "AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
        "AIRFLOW__METRICS__STATSD_HOST", "AIRFLOW__METRICS__STATSD_PORT",
        "ALCHEMIST_AIRFLOW_URL", "ALCHEMIST_HOME",
        # A cluster needs longer than a laptop to bring a part back.
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY",
    }  # fmt: skip
    assert given["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "False"


@pytest.fixture(scope="module")
def run_pods(objects: list[Json], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Json]:
    """run_pods(WHAT): the outcome of the program `run_pods.py`."""
    if importlib.util.find_spec("airflow.providers.cncf") is None:
        pytest.skip("the provider comes with the extra `kubernetes`")
    path = tmp_path_factory.mktemp("objects") / "objects.json"
    path.write_text(json.dumps(objects))

    def run(what: str) -> Json:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        program = [
            sys.executable,
            str(Path(__file__).with_name("run_pods.py")),
            str(INFRA.parent / "dags"),
            str(path),
            what,
        ]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found: Json = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    return run


@pytest.fixture(scope="module")
def rendered(run_pods: Callable[[str], Json], objects: list[Json]) -> Json:
    """The pod of each device task, and the command lines of the objects that Airflow's parser refuses."""
    given = settings_of(objects, "alchemist-settings")
    lines = [
        [re.sub(r"\$\((\w+)\)", lambda found: given.get(found[1], "a-secret"), word) for word in line]
        for line in lines_of(objects)
        if line[0] == "airflow"
    ]
    if importlib.util.find_spec("airflow.providers.fab") is None:
        lines = [line for line in lines if line[1] != "users"]  # The auth manager comes with the extra `server`.
    return run_pods(json.dumps(lines))


@pytest.fixture(scope="module")
def results(run_pods: Callable[[str], Json]) -> Json:
    """What happened to tasks that ran in pods of the test server."""
    return run_pods("run")


@pytest.mark.slow
def test_every_command_of_airflow_is_accepted_by_its_parser(rendered: Json) -> None:
    assert rendered["refused_commands"] == []


@pytest.mark.slow
def test_the_pod_of_a_device_task_is_the_committed_one(rendered: Json) -> None:
    pod = rendered["pods"]["score"]
    pod["metadata"]["name"] = re.sub(r"-[a-z0-9]{8}$", "-RANDOM", pod["metadata"]["name"])
    pod["metadata"]["labels"] = {
        name: value for name, value in pod["metadata"]["labels"].items() if "version" not in name
    }
    text = json.dumps(pod, indent=1, sort_keys=True) + "\n"
    if os.environ.get("ALCHEMIST_TEST_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("task_id", ["score", "train_rater", "certify", "train_downstream", "evaluate"])
@pytest.mark.parametrize("version", SUPPORTED)
def test_every_device_task_is_a_valid_restricted_pod_with_one_gpu(rendered: Json, task_id: str, version: str) -> None:
    pod = rendered["pods"][task_id]
    assert violations(pod, version) == []
    assert breaches_of_restricted(pod["spec"]) == []
    (container,) = pod["spec"]["containers"]
    assert container["command"][0] == "alchemist"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["spec"]["nodeSelector"] == {"alchemist/device": "gpu"}
    assert pod["spec"]["restartPolicy"] == "Never", "Airflow retries, and the lease decides"
    assert pod["metadata"]["labels"]["component"] == "job"


@pytest.mark.slow
def test_a_task_waits_in_the_triggerer_and_its_log_is_in_the_tasks_log(results: Json) -> None:
    ended = results["success"]
    assert (ended["exit_code"], ended["event"]) == (0, "success")
    assert ended["trigger"] == "airflow.providers.cncf.kubernetes.triggers.pod.KubernetesPodTrigger"
    assert [line for line in ended["log"] if " logs: " in line] == [
        "[base] logs: one",
        "[base] logs: the context is train_rater",
    ]
    assert ended["pods_left"] == [], "a pod is removed when its task has ended"


@pytest.mark.slow
def test_a_task_whose_pod_fails_has_the_commands_exit_code_and_reason(results: Json) -> None:
    ended = results["failure"]
    assert (ended["exit_code"], ended["reason"], ended["event"]) == (2, "error: No dataset is called x.", "failed")
    assert results["killed"]["exit_code"] not in (0, 2)
    assert results["killed"]["reason"]


@pytest.mark.slow
def test_after_the_worker_died_the_retry_finds_the_pod_by_its_labels(results: Json) -> None:
    assert results["adopted"]["is_same"]
    assert (results["adopted"]["exit_code"], results["adopted"]["n_created"]) == (0, 1)
    assert results["adopted"]["labels"].items() >= {
        "dag_id": "train_rater", "task_id": "adopted", "run_id": "manual__1", "app": "alchemist", "component": "job",
    }.items()  # fmt: skip


@pytest.mark.slow
def test_a_missing_template_is_named_with_the_command_that_makes_it(results: Json) -> None:
    assert results["without_template"] == {
        "exit_code": 127,
        "reason": "error: Namespace alchemist has no PodTemplate alchemist-device-job. Run: kubectl apply -k infra/kubernetes",
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("$(A)", "a"), ("__$(A)-$(B)__", "__a-b__"), ("$$(A)_$(B)", "$(A)_b"), ("$$A", "$A"), ("$(A$(B))", "$(A$(B))"),
        ("$(NONE)", "$(NONE)"), ("$$$$$$(A)", "$$$(A)"), ("$$$$$$$(A)", "$$$a"),
        ("$A)", "$A)"), ("${A}", "${A}"), ("$(B)_$(A", "b_$(A"), ("$(A)b$", "ab$"),
        ("--$($($($--", "--$($($($--"), ("$?_$!", "$?_$!"),
    ],
)  # fmt: skip
def test_the_test_server_replaces_variables_as_kubernetes_does(written: str, read: str) -> None:
    expanded = pytest.importorskip("tests.infra.pod_server").expanded
    assert expanded(written, {"A": "a", "B": "b"}) == read


@pytest.mark.slow
def test_a_connection_that_a_user_edited_runs_no_program(results: Json) -> None:
    found = results["edited_connection"]
    assert not found["has_run"]
    assert "in_cluster" in found["said"]
    assert found["first_place"] == "airflow.secrets.environment_variables.EnvironmentVariablesBackend"


@pytest.mark.slow
def test_a_value_that_looks_like_a_reference_to_a_variable_reaches_the_command_as_it_was_typed(results: Json) -> None:
    found = results["typed"]
    said = [line.partition(" logs: ")[2] for line in found["log"] if " logs: " in line]
    assert said == [f"word: {found['given']}", f"variable: {found['given']}"]
    assert not [line for line in found["log"] if found["secret"] in line]


@pytest.mark.slow
def test_a_training_on_several_nodes_is_an_indexed_job_whose_pods_meet_at_the_first(
    results: Json, objects: list[Json]
) -> None:
    job = results["job"]["job"]
    assert results["job"]["exit_code"] == 0
    assert [*violations(job, SUPPORTED[0]), *violations(job, SUPPORTED[1])] == []
    assert breaches_of_restricted(job["spec"]["template"]["spec"]) == []
    assert [job["spec"][name] for name in ("completionMode", "completions", "parallelism")] == ["Indexed", 2, 2]
    service = job["spec"]["template"]["spec"]["subdomain"]
    assert of_kind(objects, "Service")[service]["spec"]["clusterIP"] == "None"
    name = job["metadata"]["name"]
    assert any(line.strip().endswith(f"node 0 at {name}-0.alchemist-nodes:29400") for line in results["job"]["log"])
    assert len(f"{name}-1023.{service}") < 64, "a label of a host name has at most 63 letters"


@pytest.mark.slow
def test_a_final_exit_code_of_one_node_ends_the_job_and_is_the_tasks(results: Json) -> None:
    failed = results["failed_job"]
    assert (failed["exit_code"], failed["reason"]) == (2, "error: No.")
    first, second = failed["job"]["spec"]["podFailurePolicy"]["rules"]
    assert (first["action"], first["onExitCodes"]["values"]) == ("FailJob", [2, 5, 7, 9])
    assert second["action"] == "Ignore"


@pytest.mark.slow
def test_a_retried_training_finds_its_job(results: Json) -> None:
    assert (results["adopted_job"]["exit_code"], results["adopted_job"]["n_created"]) == (0, 1)
