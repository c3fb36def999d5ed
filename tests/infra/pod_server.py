"""A small API server of Kubernetes for tests: pods run as processes of this machine, and the pods of an Indexed Job too.

It answers what Airflow's provider asks for, refuses an object that breaks the schema of Kubernetes as strictly as a real server, and leaves
out the rest: scheduling, images, volumes, networks, quotas, restarts. No test with it shows that a cluster accepts something.
"""

import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import kubernetes_validate
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

KUBERNETES = "1.34"
PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+)(?:/(?P<part>\w+))?)?"
)
Json = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """What the kubelet makes of a word of a command, an argument, or the value of a variable.

    By the API's reference: $(NAME) is the value of a variable, if there is one; $$ is a $, so that $$(NAME) is the text $(NAME).
    Everything else stays: another $, a bracket that is not closed.
    """

    def read(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", read, text)


class Cluster:
    """The objects of the server by kind and name, and the process of each pod."""

    def __init__(self, templates: list[Json], *, logs: Path, secrets: Mapping[str, str] | None = None) -> None:
        self.objects: dict[str, dict[str, Json]] = {"pods": {}, "jobs": {}, "podtemplates": {}}
        for template in templates:
            self.objects["podtemplates"][template["metadata"]["name"]] = template
        self.secrets = dict(secrets or {})
        """The variables that a container has from the secrets of its `envFrom`."""
        self.created: list[Json] = []
        """Every object that was posted, as it was posted."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs = logs
        logs.mkdir()

    def create(self, kind: str, namespace: str, posted: Json) -> Json:
        kubernetes_validate.validate(posted, KUBERNETES, strict=True)
        self.created.append(json.loads(json.dumps(posted)))
        posted["metadata"] |= {"namespace": namespace, "uid": str(uuid4()), "creationTimestamp": now()}
        self.objects[kind][posted["metadata"]["name"]] = posted
        if kind == "pods":
            self._start(posted, {})
        elif kind == "jobs":
            self._start_pods_of(posted)
        return self.read(kind, posted["metadata"]["name"])

    def _start_pods_of(self, job: Json) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        for index in range(job["spec"]["completions"]):
            pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(json.dumps(template))}
            own = {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/job-completion-index": str(index)}
            labels = {**pod["metadata"].get("labels", {}), **own}
            pod["metadata"] = {
                "name": f"{name}-{index}-{uuid4().hex[:5]}",
                "labels": labels,
                "creationTimestamp": now(),
            }
            pod["metadata"]["namespace"] = job["metadata"]["namespace"]
            self.objects["pods"][pod["metadata"]["name"]] = pod
            self._start(pod, {"JOB_COMPLETION_INDEX": str(index)})

    def _start(self, pod: Json, more: dict[str, str]) -> None:
        (container,) = pod["spec"]["containers"]
        given = {"PATH": os.environ["PATH"], **self.secrets}
        for entry in container.get("env", []):
            given[entry["name"]] = expanded(entry["value"], given)
        given |= more
        with (self.logs / pod["metadata"]["name"]).open("wb") as log:
            self.processes[pod["metadata"]["name"]] = subprocess.Popen(
                [expanded(word, given) for word in container["command"]],
                env=given,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def read(self, kind: str, name: str) -> Json:
        found = self.objects[kind][name]
        if kind == "pods":
            found["status"] = self._status_of(found)
        elif kind == "jobs":
            found["status"] = self._status_of_job(found)
        return found

    def _status_of(self, pod: Json) -> Json:
        (container,) = pod["spec"]["containers"]
        code = self.processes[pod["metadata"]["name"]].poll()
        state: Json = {"running": {"startedAt": now()}}
        if code is not None:
            last = self.log(pod["metadata"]["name"])[-2048:] if code else ""
            state = {"terminated": {"exitCode": code, "message": last, "finishedAt": now(), "startedAt": now()}}
        about = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": code is None,
            "restartCount": 0,
        }
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        return {"phase": phase, "startTime": now(), "containerStatuses": [{**about, "started": True, "state": state}]}

    def _status_of_job(self, job: Json) -> Json:
        pods = [
            self.read("pods", name)
            for name in self.select("pods", f"batch.kubernetes.io/job-name={job['metadata']['name']}")
        ]
        phases = [pod["status"]["phase"] for pod in pods]
        ended = {"status": "True", "lastTransitionTime": now()}
        if "Failed" in phases:
            return {
                "conditions": [{"type": "Failed", "reason": "PodFailurePolicy", "message": "A pod failed.", **ended}]
            }
        return {"conditions": [{"type": "Complete", **ended}] if set(phases) == {"Succeeded"} else []}

    def select(self, kind: str, selector: str) -> list[str]:
        def fits(labels: dict[str, str], term: str) -> bool:
            if term.startswith("!"):
                return term[1:] not in labels
            name, operator, value = re.split(r"(!?=)", term, maxsplit=1)
            return (labels.get(name) == value) is (operator == "=")

        terms = [term for term in selector.split(",") if term]
        named = {name: one["metadata"].get("labels", {}) for name, one in self.objects[kind].items()}
        return [name for name, labels in named.items() if all(fits(labels, term) for term in terms)]

    def log(self, name: str) -> str:
        return (self.logs / name).read_text()

    def delete(self, kind: str, name: str) -> Json:
        found = self.objects[kind].pop(name)
        if kind == "pods" and (process := self.processes.pop(name)).poll() is None:
            process.terminate()
            process.wait()
        return found


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_GET(self) -> None:
        place, query = self._parse()
        kind, name = place["kind"], place["name"]
        if kind == "events":
            return self._answer({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})
        if name is None:
            items = [
                self.cluster.read(kind, found) for found in self.cluster.select(kind, query.get("labelSelector", ""))
            ]
            return self._answer({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
        if name not in self.cluster.objects[kind]:
            return self._answer({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)
        if place["part"] == "log":
            return self._send_log(name, query)
        return self._answer(self.cluster.read(kind, name))

    def do_POST(self) -> None:
        place, _ = self._parse()
        try:
            made = self.cluster.create(place["kind"], place["namespace"], self._body())
        except kubernetes_validate.ValidationError as error:
            return self._answer({"kind": "Status", "status": "Failure", "message": str(error), "code": 400}, 400)
        return self._answer(made, 201)

    def do_PATCH(self) -> None:
        place, _ = self._parse()
        found = self.cluster.objects[place["kind"]][place["name"]]
        found["metadata"].setdefault("labels", {}).update(self._body()["metadata"]["labels"])
        self._answer(self.cluster.read(place["kind"], place["name"]))

    def do_DELETE(self) -> None:
        place, _ = self._parse()
        self._answer(self.cluster.delete(place["kind"], place["name"]))

    def _parse(self) -> tuple[dict[str, str], dict[str, str]]:
        parts = urlsplit(self.path)
        found = PATH.fullmatch(parts.path)
        assert found is not None, f"The test server has no {self.path}."
        return found.groupdict(), {name: values[-1] for name, values in parse_qs(parts.query).items()}

    def _send_log(self, name: str, query: dict[str, str]) -> None:
        while query.get("follow", "").lower() == "true" and self.cluster.processes[name].poll() is None:
            time.sleep(0.1)
        prefix = f"{now()} " if query.get("timestamps", "").lower() == "true" else ""
        self._send("".join(f"{prefix}{line}\n" for line in self.cluster.log(name).splitlines()).encode(), "text/plain")

    def _body(self) -> Json:
        body: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _answer(self, content: Json, code: int = 200) -> None:
        self._send(json.dumps(content).encode(), "application/json", code)

    def _send(self, content: bytes, kind: str, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the interface's name
        pass


def serve(cluster: Cluster, account: Path) -> ThreadingHTTPServer:
    """Start the server, and write what a pod has of its service account into a folder: a token, and the server's certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    certificate, key = _make_certificate()
    account.mkdir()
    (account / "token").write_text("a token")
    (account / "ca.crt").write_bytes(certificate)
    (account / "both").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "both")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def _make_certificate() -> tuple[bytes, bytes]:
    """Return a certificate of this machine's loopback address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
    today = datetime.now(UTC)
    about = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    return about.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
