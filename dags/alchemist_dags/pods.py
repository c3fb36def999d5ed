"""Run a command line in a pod. A template in infra/kubernetes sets image, devices, volumes and secrets.

Imported only if ALCHEMIST_JOB_RUNNER is kubernetes.
"""

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException

from alchemist_dags.jobs import POD_TEMPLATE, CommandFailed, CommandTask


class PodTask(KubernetesPodOperator):
    """Run a command line in a pod. If the worker dies, the pod continues, and the retry finds it by its labels."""

    template_fields = ()

    def __init__(self, *, line, when=None, item=None, needs=(), **options):
        name = options["task_id"].replace("_", "-")
        super().__init__(**{"name": name, "pod_template_file": POD_TEMPLATE, "durable": True, **options})
        self.line, self.when, self.item, self.needs = line, when, item, needs
        self.exit_code = None

    read_line = CommandTask.read_line

    def execute(self, context):
        """Run the command; raise the same error as a local command."""
        self.cmds, self.arguments = self.read_line(context), []
        try:
            return super().execute(context)
        except AirflowException as error:
            if self.exit_code is None:
                raise
            raise CommandFailed(str(error), self.exit_code) from None

    def cleanup(self, pod, remote_pod, *args, **kwargs):
        """Read the command's exit code before the pod is removed."""
        status = getattr(remote_pod, "status", None)
        for container in getattr(status, "container_statuses", None) or []:
            if container.name == self.base_container_name and container.state and container.state.terminated:
                self.exit_code = container.state.terminated.exit_code
        super().cleanup(pod, remote_pod, *args, **kwargs)
