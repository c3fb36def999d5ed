"""What the template of job pods needs from a Kubernetes cluster, asked of its API server from inside a pod."""

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from alchemist_core.errors import AlchemistError, ConfigError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 5.0
KINDS = {"secrets": "secret", "configmaps": "config map", "persistentvolumeclaims": "volume claim"}
REMEDIES = {
    "secrets": "kubectl create secret generic {name} --from-literal=KEY=VALUE (alchemist docs how-to/deploy#kubernetes lists the keys)",
    "configmaps": "kubectl apply -k infra/kubernetes",
    "persistentvolumeclaims": "kubectl apply -k infra/kubernetes",
}
# Where a pod names other objects: in the container's environment, and as volumes.
_FROM = {"secretRef": "secrets", "configMapRef": "configmaps"}
_KEYS = {"secretKeyRef": "secrets", "configMapKeyRef": "configmaps"}
_VOLUMES = {
    "secret": ("secrets", "secretName"),
    "configMap": ("configmaps", "name"),
    "persistentVolumeClaim": ("persistentvolumeclaims", "claimName"),
}


class Named(NamedTuple):
    """An object that a pod needs: its kind in the API's plural, and its name."""

    kind: str
    name: str


def find_missing_objects(template: str, account: Path = ACCOUNT) -> Iterator[tuple[str, str | None]]:
    """Yield each object that a PodTemplate names and the cluster lacks, with the remedy; without one where it may not be read.

    Args:
        template: Name of the PodTemplate.
        account: Folder of the service account of this pod.

    Raises:
        ConfigError: This process does not run in a cluster.
        AlchemistError: The API server does not answer.
    """
    api = _Api.of_this_pod(account)
    status, answer = api.get(f"/api/v1/namespaces/{quote(api.namespace)}/podtemplates/{quote(template)}")
    if status == HTTPStatus.NOT_FOUND:
        what = f"There is no PodTemplate {template} in namespace {api.namespace}, so no task that uses a device starts."
        yield what, "kubectl apply -k infra/kubernetes, or set ALCHEMIST_POD_TEMPLATE"
    elif status != HTTPStatus.OK:
        yield f"PodTemplate {template} was not read: the API server answers {status}.", None
    else:
        yield from _check_spec(api, answer["template"]["spec"])


def _check_spec(api: "_Api", spec: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    for one in dict.fromkeys(named_objects(spec)):
        status = api.status(f"/api/v1/namespaces/{quote(api.namespace)}/{one.kind}/{quote(one.name)}")
        what = f"{KINDS[one.kind]} {one.name}"
        if status == HTTPStatus.NOT_FOUND:
            yield f"There is no {what} in namespace {api.namespace}.", REMEDIES[one.kind].format(name=one.name)
        elif status != HTTPStatus.OK:
            yield f"The {what} was not checked: the API server answers {status}.", None
    yield from _check_nodes(api, spec)


def named_objects(spec: dict[str, Any]) -> Iterator[Named]:
    """Yield the secrets, config maps and volume claims that a pod cannot start without."""
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        for source in container.get("envFrom", []):
            yield from _of(source, _FROM)
        for variable in container.get("env", []):
            yield from _of(variable.get("valueFrom", {}), _KEYS)
    for volume in spec.get("volumes", []):
        for key, (kind, name) in _VOLUMES.items():
            if key in volume and not volume[key].get("optional"):
                yield Named(kind, volume[key][name])


def _of(source: dict[str, Any], kinds: dict[str, str]) -> Iterator[Named]:
    for key, kind in kinds.items():
        if key in source and not source[key].get("optional"):
            yield Named(kind, source[key]["name"])


def _check_nodes(api: "_Api", spec: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield a label that no node has, and a device of which no node with the label has enough."""
    labels = ",".join(f"{name}={value}" for name, value in spec.get("nodeSelector", {}).items())
    status, answer = api.get(f"/api/v1/nodes?labelSelector={quote(labels)}")
    nodes = answer.get("items") or []
    if status != HTTPStatus.OK:
        yield f"The nodes with label {labels} were not counted: the API server answers {status}.", None
    elif not nodes:
        remedy = f"kubectl label node NODE {labels.replace(',', ' ')}"
        yield f"No node has the label {labels}, so job pods never start.", remedy
    for name, wanted in _devices(spec) if nodes else ():
        if max(int(node.get("status", {}).get("allocatable", {}).get(name, 0)) for node in nodes) < wanted:
            yield f"No node with the label {labels} has {wanted} {name}.", "Install the device plugin of the vendor."


def _devices(spec: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the devices that the containers ask for, such as nvidia.com/gpu, with their number."""
    for container in spec.get("containers", []):
        for name, wanted in container.get("resources", {}).get("limits", {}).items():
            if "/" in name:
                yield name, int(wanted)


class _Api:
    """The API server of this pod's cluster, as its service account may use it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.namespace = url, (folder / "namespace").read_text().strip()
        self._token = (folder / "token").read_text().strip()
        authority = folder / "ca.crt"
        self._trust = ssl.create_default_context(cafile=authority) if url.startswith("https") else None

    @classmethod
    def of_this_pod(cls, folder: Path) -> "_Api":
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
        if not host or not (folder / "token").is_file():
            raise ConfigError(
                "The cluster was not asked: this process has no service account of Kubernetes. Run alchemist doctor in a pod whose service "
                "account may read secrets, config maps, volume claims and nodes."
            )
        scheme = "https" if (folder / "ca.crt").is_file() else "http"
        return cls(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", folder)

    def status(self, path: str) -> int:
        """Return the status of a request; the object itself, which may be a secret, is not read."""
        return self.get(path)[0]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of a request.

        Raises:
            AlchemistError: The API server does not answer.
        """
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310  the cluster's own
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._trust) as answer:  # noqa: S310  as above
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, {}
        except OSError as error:
            raise AlchemistError(f"The API server {self.url} does not answer: {error}.") from None
