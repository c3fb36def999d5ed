"""Make the pods of the DAGs' tasks, or run tasks in pods of a test server; print the outcome as one line of JSON.

    python run_pods.py DAGS OBJECTS run|LINES

OBJECTS is a file with the objects of infra/kubernetes as JSON; LINES are the command lines of Airflow in them, as a JSON list.

A program of its own, because Airflow reads its environment only once, when it is first imported.
"""

import asyncio
import atexit
import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DAGS, OBJECTS = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
sys.path[:0] = [str(DAGS), str(Path(__file__).parent)]
warnings.simplefilter("ignore")

from pod_server import Cluster, serve  # noqa: E402  the path was set above

HOME = Path(tempfile.mkdtemp(prefix="alchemist-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
SECRET = "postgresql://alchemist_writer:hunter2@postgres/alchemist"
CLUSTER = Cluster(
    [found for found in OBJECTS if found["kind"] == "PodTemplate"],
    logs=HOME / "pods",
    secrets={"ALCHEMIST_DATABASE_URL": SECRET},
)
ACCOUNT = HOME / "account"
SERVER = serve(CLUSTER, ACCOUNT)
CONNECTION = "AIRFLOW_CONN_KUBERNETES_DEFAULT"
(SETTINGS,) = (found["data"] for found in OBJECTS if found["metadata"]["name"] == "alchemist-airflow")
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    # What Kubernetes sets in a pod.
    "KUBERNETES_SERVICE_HOST": "127.0.0.1",
    "KUBERNETES_SERVICE_PORT": str(SERVER.server_port),
    CONNECTION: SETTINGS[CONNECTION],
    "AIRFLOW_CTX_DAG_ID": "train_rater",
    "ALCHEMIST_JOB_RUNNER": "kubernetes",
}

from airflow.sdk.exceptions import AirflowException, TaskDeferred  # noqa: E402, TID251  a program of its own
from airflow.sdk.execution_time.secrets import DEFAULT_SECRETS_SEARCH_PATH_WORKERS  # noqa: E402, TID251  as above
from alchemist_dags import evaluate_subset, nightly_rescore, pods, train_rater  # noqa: E402  after the environment
from alchemist_dags.jobs import CommandFailed  # noqa: E402
from kubernetes.config import incluster_config  # noqa: E402
from kubernetes_asyncio.config import incluster_config as asyncio_incluster_config  # noqa: E402
from structlog.testing import capture_logs  # noqa: E402

# The folder of the service account is the same in every pod, and this machine has none.
for module in (incluster_config, asyncio_incluster_config):
    module.SERVICE_TOKEN_FILENAME = str(ACCOUNT / "token")
    module.SERVICE_CERT_FILENAME = str(ACCOUNT / "ca.crt")

# What earlier tasks of the run returned.
FOUND = {"find_rater": {"rater": "crawl-loss-0a1b2c3d", "dataset": "crawl"}}
TYPED = "$(ALCHEMIST_DATABASE_URL) $$(ALCHEMIST_DATABASE_URL) a$b $$ $(X $é $"
SLOW = "for i in 1 2 3 4 5 6 7 8 9 10; do test -e {mark} && exit 0; sleep 1; done; exit 1"


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what a task logs: by itself, and through the provider's follower of logs, which uses the standard library's loggers."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    follower = logging.getLogger("airflow.providers.cncf.kubernetes.utils.pod_manager.PodManager")
    follower.setLevel(logging.INFO)
    follower.addHandler(handler)
    with capture_logs() as entries:
        yield said
    follower.removeHandler(handler)
    said[:0] = [str(entry["event"]) % entry.get("positional_args", ()) for entry in entries]


def context_of(task: Any) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="train_rater", task_id=task.task_id, run_id="manual__1", map_index=-1, try_number=1,
        start_date=datetime.now(UTC), xcom_push=lambda *_, **__: None, xcom_pull=lambda task_ids: FOUND[task_ids],
        get_task_states=lambda *_, **__: {},
    )  # fmt: skip
    dag = SimpleNamespace(dag_id="train_rater", parent_dag=None)
    run = SimpleNamespace(partition_key="2026-01-02", run_type="manual", conf={}, run_after=datetime.now(UTC))
    return {"ti": ti, "run_id": "manual__1", "dag": dag, "dag_run": run, "params": {}}


def task_of(kind: Any, task_id: str, script: str, *values: str) -> Any:
    class Task(kind):  # type: ignore[misc]
        def read_line(self, context: Any) -> list[str]:
            return ["sh", "-c", script, "sh", *values]

    # The triggerer of a cluster looks every few seconds; a test does not wait that long.
    options = {"poll_interval": 0.2, "startup_check_interval_seconds": 1, "logging_interval": None}
    return Task(task_id=task_id, line=None, **options)


def defer(task: Any, context: Any) -> TaskDeferred:
    try:
        task.execute(context)
    except TaskDeferred as deferred:
        return deferred
    raise AssertionError("the task was not deferred")


async def wait(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


def outcome_of(step: Any) -> dict[str, Any]:
    try:
        step()
    except CommandFailed as failed:
        return {"exit_code": failed.exit_code, "reason": str(failed)}
    return {"exit_code": 0}


def run_deferred(task_id: str, script: str, *values: str) -> dict[str, Any]:
    """A task from its start to its end, as worker, triggerer and worker again run it."""
    context = context_of(task := task_of(pods.PodTask, task_id, script, *values))
    deferred = defer(task, context)
    # The triggerer and the second worker have nothing but what Airflow stored.
    path, options = deferred.trigger.serialize()
    event = asyncio.run(wait(type(deferred.trigger)(**options)))
    again = task_of(pods.PodTask, task_id, script, *values)
    with listening() as said:
        outcome = outcome_of(lambda: getattr(again, deferred.method_name)(context, event))
    return {
        **outcome, "trigger": path, "event": event["status"], "log": said, "pods_left": sorted(CLUSTER.objects["pods"]),
    }  # fmt: skip


def adopt() -> dict[str, Any]:
    """The worker dies after it has started the pod: what a second try does."""
    mark, n_before = HOME / "mark", len(CLUSTER.created)
    script = SLOW.format(mark=mark)
    task = task_of(pods.PodTask, "adopted", script)
    first = defer(task, context_of(task))
    task = task_of(pods.PodTask, "adopted", script)
    second = defer(task, context_of(task))
    mark.touch()
    event = asyncio.run(wait(second.trigger))
    outcome = outcome_of(lambda: task.trigger_reentry(context_of(task), event))
    return {
        **outcome, "n_created": len(CLUSTER.created) - n_before, "is_same": first.trigger.pod_name == second.trigger.pod_name,
        "labels": CLUSTER.created[-1]["metadata"]["labels"],
    }  # fmt: skip


def run_job(task_id: str, script: str) -> dict[str, Any]:
    pods.NODES, pods.POLL_INTERVAL_S = 2, 0.2
    task = task_of(pods.NodesTask, task_id, script)
    with listening() as said:
        outcome = outcome_of(lambda: task.execute(context_of(task)))
    return {**outcome, "job": CLUSTER.created[-1], "log": said}


def adopt_job() -> dict[str, Any]:
    mark, n_before = HOME / "mark-of-job", len(CLUSTER.created)
    pods.NODES = 2
    first = task_of(pods.NodesTask, "adopted_job", SLOW.format(mark=mark))
    request = first._build_job(first.fill(context_of(first)))
    first._api.create_namespaced_job(request.metadata.namespace, request)
    threading.Timer(2, mark.touch).start()
    second = task_of(pods.NodesTask, "adopted_job", "exit 3")
    outcome = outcome_of(lambda: second.execute(context_of(second)))
    return {**outcome, "n_created": len(CLUSTER.created) - n_before}


def without_template() -> dict[str, Any]:
    kept = CLUSTER.objects["podtemplates"]
    CLUSTER.objects["podtemplates"] = {}
    task = task_of(pods.PodTask, "homeless", "exit 0")
    outcome = outcome_of(lambda: task.execute(context_of(task)))
    CLUSTER.objects["podtemplates"] = kept
    return outcome


def typed() -> dict[str, Any]:
    """What a command in a pod reads of a value and of the name of a run that look like references to a variable."""
    os.environ["AIRFLOW_CTX_DAG_RUN_ID"] = TYPED
    found = run_deferred("typed", 'echo "word: $1"; echo "variable: $AIRFLOW_CTX_DAG_RUN_ID"', TYPED)
    del os.environ["AIRFLOW_CTX_DAG_RUN_ID"]
    return {**found, "given": TYPED, "secret": SECRET}


def edited_connection() -> dict[str, Any]:
    """What a task does with a connection whose kubeconfig names a program that gives out tokens."""
    mark, address = HOME / "the-program-ran", f"https://127.0.0.1:{SERVER.server_port}"
    program = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", f"env > {mark}"],
        "interactiveMode": "Never",
    }  # fmt: skip
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "users": [{"name": "x", "user": {"exec": program}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": address, "insecure-skip-tls-verify": True}}],
    }  # fmt: skip
    kept, said = os.environ[CONNECTION], ""
    os.environ[CONNECTION] = json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(kubeconfig)}})
    task = task_of(pods.PodTask, "edited", "exit 0")
    try:
        task.execute(context_of(task))
    except (AirflowException, TaskDeferred) as error:
        said = str(error)
    os.environ[CONNECTION] = kept
    return {"has_run": mark.exists(), "said": said, "first_place": DEFAULT_SECRETS_SEARCH_PATH_WORKERS[0]}


def rendered() -> dict[str, Any]:
    """The pod of each task of the DAGs that needs a device, as it would be posted."""
    found = {}
    dags = {
        "score": nightly_rescore.nightly_rescore(), "train_rater": train_rater.train_rater(), "certify": train_rater.train_rater(),
        "train_downstream": evaluate_subset.evaluate_subset(), "evaluate": evaluate_subset.evaluate_subset(),
    }  # fmt: skip
    for task_id, dag in dags.items():
        task = dag.get_task(task_id)
        item = (
            {"dataset": "crawl", "crawl_date": "2026-01-02", "slot": 0}
            if task_id == "score"
            else {"subset": "best", "version": 3}
        )
        operator = task.unmap({"item": item}) if task.is_mapped else task
        params = {name: dag.params.get_param(name).value for name in dag.params} | {
            "dataset": "crawl",
            "validation": "goal",
        }
        context = {**context_of(operator), "params": params, "dag": dag}
        pod = operator.build_pod_request_obj(operator.fill(context))
        found[task_id] = operator.client.api_client.sanitize_for_serialization(pod)
    return found


def refused_commands() -> list[str]:
    """The command lines of the objects that Airflow's own parser does not accept."""
    from airflow.cli.cli_parser import get_parser  # noqa: TID251  slow

    parser, refused = get_parser(), []
    for line in json.loads(sys.argv[3]):
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            parser.parse_args(line[1:])
            continue
        refused.append(line)
    return refused


def run_tasks() -> dict[str, Any]:
    return {
        "success": run_deferred("succeeds", "echo one; echo the context is $AIRFLOW_CTX_DAG_ID"),
        "failure": run_deferred("fails", "echo before; echo 'error: No dataset is called x.'; exit 2"),
        "killed": run_deferred("killed", "echo halfway; kill -9 $$"),
        "adopted": adopt(),
        "without_template": without_template(),
        "edited_connection": edited_connection(),
        "typed": typed(),
        "job": run_job("trains", "echo node $JOB_COMPLETION_INDEX at $ALCHEMIST_RENDEZVOUS"),
        "failed_job": run_job(
            "trains_in_vain", "test $JOB_COMPLETION_INDEX = 1 && { echo 'error: No.'; exit 2; }; exit 1"
        ),
        "adopted_job": adopt_job(),
    }


RESULTS = run_tasks() if sys.argv[3] == "run" else {"refused_commands": refused_commands(), "pods": rendered()}
SERVER.shutdown()
print("\n" + json.dumps(RESULTS, default=str))
