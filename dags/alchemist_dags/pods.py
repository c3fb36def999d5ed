"""Run a command line in a pod, or, for a training on several nodes, in the pods of an Indexed Job.

Imported only if ALCHEMIST_JOB_RUNNER is kubernetes. The PodTemplate that ALCHEMIST_POD_TEMPLATE names sets image, devices, nodes, volumes
and secrets; it is read from the cluster for each task, so that a change of it needs no change of the DAGs.
"""

import os
import time

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from alchemist_dags.jobs import (
    FINAL_EXIT_CODES,
    LONGEST,
    NOT_STARTED,
    POD_TEMPLATE,
    CommandFailed,
    CommandTask,
    message_of,
    variables_of,
)
from alchemist_dags.schedules import NODES

LONGEST_START_S = 3600  # a node with a GPU may have to be started first
LOG_INTERVAL_S = 60
POLL_INTERVAL_S = 10
# The headless service that gives the pods of a Job their names, and the port at which they meet.
SERVICE, PORT = "alchemist-nodes", 29400
N_NODE_FAILURES = 6
KEPT_S = 24 * 3600
JOB_NAME, JOB_INDEX = "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index"


class PodTask(KubernetesPodOperator):
    """Run a command line in a pod. The task waits in the triggerer and holds no slot of a worker.

    If the worker or the triggerer dies, the pod continues, and the retry finds it: by the name that Airflow stored, else by its labels.
    """

    template_fields = ()

    def __init__(self, *, line, when=None, item=None, needs=(), **options):
        super().__init__(
            **{
                "name": options["task_id"].replace("_", "-"),
                # Refuse a connection with a kubeconfig, which may name a program that would run here with Airflow's secrets.
                "in_cluster": True,
                "deferrable": True,
                "durable": True,
                "poll_interval": POLL_INTERVAL_S,
                # The triggerer copies the log while the command runs; otherwise it would appear at the end.
                "logging_interval": LOG_INTERVAL_S,
                "startup_timeout_seconds": LONGEST_START_S,
                "log_events_on_failure": True,
                "log_pod_spec_on_failure": False,
                # The last lines of a failed command become the reason that people are notified of.
                "termination_message_policy": "FallbackToLogsOnError",
                **options,
            }
        )
        self.line, self.when, self.item, self.needs = line, when, item, needs
        self.ended = None

    read_line = CommandTask.read_line

    def execute(self, context):
        """Start the command in a pod and wait for it; raise the same error as a local command."""
        return self._run(super().execute, self.fill(context))

    def trigger_reentry(self, context, event):
        """Read the end of the log and the exit code, when the triggerer has seen the pod end."""
        return self._run(super().trigger_reentry, context, event)

    def fill(self, context):
        """Set the command and its environment, and return the context."""
        self.cmds, self.arguments = [escape(word) for word in self.read_line(context)], []
        # Airflow's names of the DAG run and its user, for the audit log and for links.
        names = {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW_CTX_")}
        variables = names | variables_of(context["ti"])
        self.env_vars = {name: escape(value) for name, value in variables.items()}
        return context

    def _run(self, step, *arguments):
        try:
            return step(*arguments)
        except AirflowException as error:
            if self.ended is None:
                raise
            raise failure_of(self.ended, str(error)) from None

    def build_pod_request_obj(self, context=None, *, dry_run=False):
        """Return the pod: the template of the cluster with this command."""
        namespace = self.namespace or self.hook.get_namespace() or self._incluster_namespace or "default"
        try:
            template = self.client.read_namespaced_pod_template(POD_TEMPLATE, namespace).template
        except ApiException as error:
            if error.status != 404:
                raise
            raise CommandFailed(
                f"error: Namespace {namespace} has no PodTemplate {POD_TEMPLATE}. Run: kubectl apply -k infra/kubernetes",
                NOT_STARTED,
            ) from None
        self.full_pod_spec = k8s.V1Pod(metadata=template.metadata, spec=template.spec)
        return super().build_pod_request_obj(context, dry_run=dry_run)

    def cleanup(self, pod, remote_pod, *args, **kwargs):
        """Read how the command ended before the pod is removed."""
        self.ended = end_of(remote_pod, self.base_container_name)
        super().cleanup(pod, remote_pod, *args, **kwargs)


class NodesTask(PodTask):
    """Run a command line on several nodes: an Indexed Job, whose pods meet at the first one. The task holds a slot of a worker.

    The provider's own operator for Jobs is not used: it creates a second Job when it is retried, it fails if the pods do not exist at
    once, and a deferred task of it leaves its Job running when a user ends the task.
    """

    def __init__(self, **options):
        super().__init__(**{"deferrable": False, **options})
        self.job = None

    def execute(self, context):
        """Start the Job, or find the one that an earlier try started; copy the log of its first pod until it ends."""
        request = self._build_job(self.fill(context))
        self.job = self._find_job(request) or self._api.create_namespaced_job(request.metadata.namespace, request)
        place = (self.job.metadata.name, self.job.metadata.namespace)
        followed, end = set(), None
        while end is None:
            time.sleep(POLL_INTERVAL_S)
            # Before the logs, so that those of a Job that has just ended are copied too.
            end = _condition_of(self._api.read_namespaced_job_status(*place))
            for pod in self._pods_of_job(f",{JOB_INDEX}=0"):
                if pod.status.phase != "Pending" and pod.metadata.name not in followed:
                    followed.add(pod.metadata.name)
                    self.pod_manager.fetch_requested_container_logs(pod, self.base_container_name, follow_logs=True)
        if end.type == "Failed":
            raise self._explain(end)

    def on_kill(self):
        """Remove the Job and its pods when Airflow stops the task."""
        if self.job is not None:
            place = (self.job.metadata.name, self.job.metadata.namespace)
            self._api.delete_namespaced_job(*place, propagation_policy="Foreground")

    @property
    def _api(self):
        return self.hook.batch_v1_client

    def _build_job(self, context):
        pod = self.build_pod_request_obj(context)
        name, namespace = pod.metadata.name, pod.metadata.namespace
        pod.metadata.name = None
        pod.spec.subdomain = SERVICE
        rendezvous = k8s.V1EnvVar(name="ALCHEMIST_RENDEZVOUS", value=f"{name}-0.{SERVICE}:{PORT}")
        pod.spec.containers[0].env = [*(pod.spec.containers[0].env or []), rendezvous]
        final = k8s.V1PodFailurePolicyOnExitCodesRequirement(
            container_name=self.base_container_name, operator="In", values=[*FINAL_EXIT_CODES]
        )
        drained = k8s.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
        spec = k8s.V1JobSpec(
            completion_mode="Indexed",
            completions=NODES,
            parallelism=NODES,
            backoff_limit=N_NODE_FAILURES * NODES,
            active_deadline_seconds=int(LONGEST.total_seconds()),
            ttl_seconds_after_finished=KEPT_S,
            pod_failure_policy=k8s.V1PodFailurePolicy(
                rules=[
                    # The same command would fail again.
                    k8s.V1PodFailurePolicyRule(action="FailJob", on_exit_codes=final),
                    # A node that is drained or taken back is no failure of the command.
                    k8s.V1PodFailurePolicyRule(action="Ignore", on_pod_conditions=[drained]),
                ]
            ),
            template=k8s.V1PodTemplateSpec(metadata=pod.metadata, spec=pod.spec),
        )
        labels = self._get_ti_pod_labels(context, include_try_number=False)
        about = k8s.V1ObjectMeta(name=name, namespace=namespace, labels=labels)
        return k8s.V1Job(api_version="batch/v1", kind="Job", metadata=about, spec=spec)

    def _find_job(self, request):
        selector = ",".join(f"{name}={value}" for name, value in sorted(request.metadata.labels.items()))
        jobs = self._api.list_namespaced_job(request.metadata.namespace, label_selector=selector).items
        return next((job for job in jobs if not _condition_of(job)), None)

    def _pods_of_job(self, more=""):
        selector = f"{JOB_NAME}={self.job.metadata.name}{more}"
        return self.client.list_namespaced_pod(self.job.metadata.namespace, label_selector=selector).items

    def _explain(self, end):
        ends = [found for pod in self._pods_of_job() if (found := end_of(pod, self.base_container_name)) and found[0]]
        # When one node fails, the others lose their connection to it: an exit code that explains comes first.
        ends.sort(key=lambda found: found[0] not in FINAL_EXIT_CODES)
        said = f"Job {self.job.metadata.name} failed: {end.message or end.reason}"
        return failure_of(ends[0], said) if ends else AirflowException(said)


def _condition_of(job):
    """Return the condition in which a Job has ended; None if it has not."""
    conditions = (job.status and job.status.conditions) or []
    return next((one for one in conditions if one.type in ("Complete", "Failed") and one.status == "True"), None)


def escape(text):
    """Return a text that the command in a pod reads as the given one.

    Kubernetes replaces $(NAME), in a word of a command and in the value of a variable, by a variable of the container, such as the address
    of the store; $$ becomes $ and is replaced no further.
    """
    return text.replace("$", "$$")


def end_of(pod, container):
    """Return the exit code and the last lines of a pod's command; None if it has not ended."""
    for status in (pod and pod.status and pod.status.container_statuses) or []:
        if status.name == container and status.state and status.state.terminated:
            return status.state.terminated.exit_code, status.state.terminated.message or ""
    return None


def failure_of(ended, otherwise):
    """Return the error of a command that ended, with its own reason if it printed one."""
    code, log = ended
    message = "\n".join(map(message_of, log.splitlines()))
    _, marker, reason = message.rpartition("error: ")
    last_line = "".join(message.strip().splitlines()[-1:])
    return CommandFailed((marker + reason).strip() if marker else last_line or otherwise, code)
