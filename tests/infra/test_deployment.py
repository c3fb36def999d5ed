"""Deployment files of one machine, checked without Docker: schemas and linters."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from sqlalchemy import make_url

from alchemist_core import __version__
from alchemist_core.cli.doctor import SECRETS
from alchemist_core.cli.exporter import HEALTH_PATH
from alchemist_core.shards.tar_writer import write_tar

INFRA = Path(__file__).resolve().parents[2] / "infra"
ONE_SERVER = INFRA.parent / "docs" / "how-to" / "one-server.md"
DOCKERFILES = sorted((INFRA / "docker").glob("*.Dockerfile"))


def test_compose_keeps_to_its_schema() -> None:
    files = [str(INFRA / name) for name in ("compose.yaml", "compose.gpu.yaml")]
    assert complaints(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files]) == ""


def test_on_a_machine_with_gpus_the_tasks_and_the_exporter_see_them() -> None:
    services = yaml.safe_load((INFRA / "compose.gpu.yaml").read_text())["services"]
    assert services.keys() == {"airflow-scheduler", "exporter"}
    for service in services.values():
        (devices,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (devices["driver"], devices["count"]) == ("nvidia", "all")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return found


def test_compose_publishes_on_loopback_only_and_pins_every_image(compose: dict[str, Any]) -> None:
    expected = {"postgres", "airflow-scheduler", "exporter", "prometheus", "alertmanager", "grafana", "objects"}
    assert expected <= compose["services"].keys()
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert re.search(r":[\w.-]*\d", service["image"]), f"{name} is not pinned"


def test_every_secret_of_compose_is_a_file_that_its_container_mounts(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        mounted = {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}
        values = {variable: str(value) for variable, value in service.get("environment", {}).items()}
        told = " ".join([*values.values(), *map(str, service.get("command", []))])
        # Writers of other addresses are named, but each container mounts only what it needs.
        unused = {"aws_credentials"} if name == "migrate" else set()
        assert set(re.findall(r"/run/secrets/([\w.]+)", told)) - unused <= mounted, name
        for variable, value in values.items():
            if re.search("PASSWORD|SECRET|_KEY|_URL_FILE|_CONN|CREDENTIALS", variable):
                assert "/run/secrets/" in value, f"{name} holds {variable}"
            assert not re.search(r"//[^/]*:[^/]*@", value), f"{name} holds a password in {variable}"
            assert not re.search(r"\$\{[^}]*(PASSWORD|SECRET|KEY|TOKEN)", value), (
                f"{name} reads {variable} from outside"
            )


def test_only_migrate_reads_the_address_of_the_owner(compose: dict[str, Any]) -> None:
    reading = {name for name, service in compose["services"].items() if "store_owner_url" in service.get("secrets", [])}
    assert reading == {"migrate"}


def test_the_exporter_has_the_address_of_the_store_and_nothing_of_airflow(compose: dict[str, Any]) -> None:
    exporter = compose["services"]["exporter"]
    assert exporter["secrets"] == ["store_writer_url"]
    assert exporter["environment"].keys() == {
        "ALCHEMIST_DATABASE_URL_FILE",
        "ALCHEMIST_PROJECT",
        "ALCHEMIST_STATSD_PORT",
        "ALCHEMIST_DOCS_URL",
    }
    assert [mount.split(":")[-2] for mount in exporter["volumes"]] == ["/etc/alchemist/alchemist.toml"]


def test_addresses_of_links_are_set_where_compose_runs(compose: dict[str, Any]) -> None:
    """A variable without a value is passed on if it is set, and is not set otherwise."""
    for name, service in compose["services"].items():
        told = service.get("environment", {})
        if name == "exporter" or name.startswith("airflow-"):
            assert told["ALCHEMIST_DOCS_URL"] is None, name
        if name.startswith("airflow-"):
            assert told["ALCHEMIST_AIRFLOW_URL"] == "${ALCHEMIST_AIRFLOW_URL:-http://localhost:8080}", name
            assert told["ALCHEMIST_EXPLORER_URL"] is told["ALCHEMIST_REPORTS_URL"] is None, name
            assert told["ALCHEMIST_SEARCH_URL"] is None, name


def test_the_page_about_celery_names_the_secrets_that_doctor_asks_for() -> None:
    rows = (INFRA / "CELERY.md").read_text().splitlines()
    (row,) = [line for line in rows if line.endswith("| the same on all machines |") and "FERNET" in line]
    assert all(f"`AIRFLOW__{name}`" in row for name in SECRETS)


def test_health_checks_of_the_exporter_do_not_read_the_store(compose: dict[str, Any]) -> None:
    assert compose["services"]["exporter"]["healthcheck"]["test"][-1] == f"http://localhost:9477{HEALTH_PATH}"
    (pod, _) = yaml.safe_load_all((INFRA / "kubernetes" / "exporter.yaml").read_text())
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == HEALTH_PATH


def test_of_the_object_store_other_containers_reach_only_what_asks_for_an_account(compose: dict[str, Any]) -> None:
    options = compose["services"]["objects"]["command"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(options)
    # Further servers of the part that answers S3.
    assert {"-s3.port.iceberg=0", "-s3.port.lance=0"} <= set(options)


def test_migrate_and_accounts_prepare_both_databases_as_the_job_of_kubernetes_does(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    """With programs in the place of alchemist and airflow that write down what they are asked for."""
    for name in ("alchemist", "airflow"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\ncat >> {tmp_path}/typed\n')
        program.chmod(0o755)
    (tmp_path / "airflow_admin_password").write_text("hunter2")
    # Compose reads $$ as $.
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags")}
    for name in ("migrate", "accounts"):
        words = [
            word.replace("$$", "$").replace("/run/secrets", str(tmp_path))
            for word in compose["services"][name]["command"]
        ]
        subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, check=True)
    *prepared, first_user = (tmp_path / "asked").read_text().splitlines()
    assert prepared == [
        "alchemist db migrate", "alchemist db provision", "airflow db migrate", f"alchemist dags install --to {tmp_path}/dags",
        "airflow pools set --include-deferred gpu 1 One slot per device",
    ]  # fmt: skip
    assert first_user.startswith("airflow users create --username admin ")
    assert (tmp_path / "typed").read_text() == "hunter2\nhunter2\n"
    job = (INFRA / "kubernetes" / "migrate.yaml").read_text()
    assert (
        job.index("[alchemist, db, migrate]")
        < job.index("[alchemist, db, provision]")
        < job.index("[airflow, db, migrate]")
    )


@pytest.mark.parametrize("page", [INFRA / "README.md", INFRA.parent / "docs" / "how-to" / "rotate-secrets.md"])
def test_who_writes_a_secret_is_told_that_airflow_takes_a_line_break_at_its_end_for_a_part(
    compose: dict[str, Any], page: Path
) -> None:
    commands = [value for name, value in compose["x-airflow"]["environment"].items() if name.endswith("_CMD")]
    assert commands
    assert all(command.startswith("cat ") for command in commands)
    told = " ".join(page.read_text(encoding="utf-8").split())
    assert "without a line break at its end, which Airflow would take for a part of the value: `printf '%s'" in told


def test_the_script_makes_every_secret_of_compose_once(compose: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = ["bash", str(INFRA / "secrets.sh"), str(folder)]
    subprocess.run(script, check=True, capture_output=True)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} <= made.keys()
    assert all(Path(secret["file"]).name == name for name, secret in compose["secrets"].items())
    assert folder.stat().st_mode & 0o777 == 0o700, "only its owner enters it"
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {0o644}, "you write some of them, and containers read them as other users"
    assert not [name for name, text in made.items() if text.endswith("\n")], (
        "Airflow takes a line break for a part of the value"
    )
    assert len(base64.urlsafe_b64decode(made["airflow_fernet_key"])) == 32
    (identity,) = json.loads(made["s3_accounts.json"])["identities"]
    assert identity["credentials"][0]["secretKey"] in made["aws_credentials"]
    passwords = {
        "store_owner_url": "postgres",
        "store_writer_url": "store_writer",
        "airflow_database_url": "airflow_database",
    }
    for url, name in passwords.items():
        assert make_url(made[url]).password == made[f"{name}_password"]
    (folder / "notify_url").unlink()
    (folder / "alert_webhook_url").write_text("https://alerts.example/")
    subprocess.run(script, check=True, capture_output=True)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert again == made | {"alert_webhook_url": "https://alerts.example/"}


def test_compose_runs_the_images_of_this_version(compose: dict[str, Any]) -> None:
    ours = {service["image"] for service in compose["services"].values() if "alchemist" in service["image"]}
    assert ours == {f"${{IMAGE_REGISTRY:-}}alchemist-{name}:{__version__}" for name in ("airflow", "worker")}
    assert not any("build" in service for service in compose["services"].values()), "make images sets the code version"


def test_the_log_of_each_container_of_compose_is_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["logging"]["options"] == {"max-size": "50m", "max-file": "5"}, name


def test_files_that_compose_mounts_exist(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    local = {mount.split(":")[0] for mount in mounts if mount.startswith("./")}
    assert local
    assert all((INFRA / path).exists() for path in local)


def test_the_page_explains_every_setting_of_compose() -> None:
    rows = " ".join(re.findall(r"^\| (`[A-Z].*?) \|", ONE_SERVER.read_text(), flags=re.MULTILINE))
    text = (INFRA / "compose.yaml").read_text()
    # Those of the second kind reach a container only if they have a value.
    settings = {*re.findall(r"[^$]\$\{(\w+)", text), *re.findall(r"^ +(ALCHEMIST_\w+):$", text, flags=re.MULTILINE)}
    assert settings | {"COMPOSE_FILE"} == set(re.findall(r"`(\w+)`", rows))


def test_no_page_starts_the_services_without_the_settings() -> None:
    """Of compose's files, `-f` takes the place of COMPOSE_FILE, so the scheduler would start without GPUs; a shell forgets its exports."""
    pages = {path: path.read_text() for path in [INFRA / "README.md", *(INFRA.parent / "docs").rglob("*.md")]}
    assert [str(path) for path, text in pages.items() if re.search(r"-f infra/compose\S* up --", text)] == []
    exported = r"export (PROJECT_FILE|POSTGRES_SHARED_BUFFERS|IMAGE_REGISTRY|COMPOSE_FILE)="
    assert [str(path) for path, text in pages.items() if re.search(exported, text)] == []


def test_compose_reads_the_settings_that_the_page_writes_in_a_new_shell(tmp_path: Path) -> None:
    program = shutil.which("docker-compose") or pytest.skip("docker-compose is missing: make test-cluster installs it")
    (folder := tmp_path / "infra").mkdir()
    for name in ("compose.yaml", "compose.gpu.yaml"):
        shutil.copy(INFRA / name, folder)
    (block,) = re.findall(r"^```bash\n(cat > infra/\.env.*?)^```", ONE_SERVER.read_text(), re.MULTILINE | re.DOTALL)
    gpus = "printf 'ALCHEMIST_SCORE_SLOTS=4\nCOMPOSE_FILE=compose.yaml:compose.gpu.yaml\n' >> infra/.env"
    subprocess.run(["bash", "-euc", block + gpus], cwd=tmp_path, check=True)
    shell = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([program, "config", "--format=json"], cwd=folder, env=shell, check=True, capture_output=True)
    services = json.loads(done.stdout)["services"]
    scheduler = services["airflow-scheduler"]
    mounted = {mount["target"]: mount["source"] for mount in scheduler["volumes"]}
    assert mounted["/etc/alchemist/alchemist.toml"] == f"{tmp_path}/alchemist.toml"
    assert "shared_buffers=4GB" in services["postgres"]["command"]
    assert scheduler["environment"]["ALCHEMIST_SCORE_SLOTS"] == "4"
    assert scheduler["deploy"]["resources"]["reservations"]["devices"]


def test_the_page_fills_the_bucket_of_its_object_store_and_reads_it(compose: dict[str, Any], tmp_path: Path) -> None:
    """Its commands, against another server of S3; make does nothing, and docker starts the server some seconds late."""
    (block,) = re.findall(
        r"^```bash\n([^`]*compose up --wait objects.*?)^```", ONE_SERVER.read_text(), re.MULTILINE | re.DOTALL
    )
    (port,) = compose["services"]["objects"]["ports"]
    assert f"http://{port.rpartition(':')[0]}" in block
    assert (
        "export ALCHEMIST_S3_ENDPOINT_URL" not in block
    )  # compose would give the containers an address of this machine
    Image.new("RGB", (32, 32), "red").save(picture := io.BytesIO(), "PNG")
    for name in ("web", "validation", "test"):
        (folder := tmp_path / "data" / name).mkdir(parents=True)
        write_tar(folder / "000000.tar", [("a.png", picture.getvalue()), ("a.txt", b"red")])
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (programs := tmp_path / "programs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as held:
        free_port = held.getsockname()[1]
    server = f"{sys.executable} -m moto.server -H 127.0.0.1 -p {free_port}"
    late = f"(sleep 5; exec {server}) >/dev/null 2>&1 &\necho $! > {tmp_path}/server\n"
    for name, does in (("make", ""), ("docker", late)):
        (programs / name).write_text(f"#!/bin/sh\n{does}")
        (programs / name).chmod(0o755)
    subprocess.run([INFRA / "secrets.sh", tmp_path / "infra" / "secrets"], check=True, stdout=subprocess.DEVNULL)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = {"PATH": path, "HOME": str(tmp_path)}
    try:
        said = subprocess.run(
            ["bash", "-euc", block.replace("http://127.0.0.1:8333", f"http://127.0.0.1:{free_port}")],
            cwd=tmp_path, env=shell, check=False, capture_output=True, text=True,
        )  # fmt: skip
    finally:
        os.kill(int((tmp_path / "server").read_text()), signal.SIGTERM)
    assert said.returncode == 0, said.stdout + said.stderr
    roots = {each["root"] for each in tomllib.loads((tmp_path / "alchemist.toml").read_text())["datasets"].values()}
    assert roots == {"s3://crawl/web", "s3://crawl/validation", "s3://crawl/test"}


@pytest.mark.parametrize("page", [ONE_SERVER, INFRA / "RUNBOOK.md"], ids=lambda page: page.name)
def test_after_a_change_of_the_project_file_every_service_that_mounts_it_is_restarted(
    compose: dict[str, Any], page: Path
) -> None:
    """A container mounts the file that has the name when it starts, and many editors give the name to a new file."""
    (restart,) = re.findall(r"`docker compose restart ([^`]*)`", page.read_text())
    mounting = {
        name
        for name, service in compose["services"].items()
        if service["restart"] != "no" and any("alchemist.toml" in mount for mount in service.get("volumes", []))
    }
    assert set(restart.split()) == mounting


def test_compose_scrapes_what_this_machine_scrapes_by_other_names() -> None:
    here, there = ((INFRA / "prometheus" / name).read_text() for name in ("prometheus.yml", "compose.yml"))
    renamed = here.replace("127.0.0.1:9093", "alertmanager:9093").replace("127.0.0.1:9477", "exporter:9477")
    assert there == renamed


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_are_clean_pinned_and_not_root(path: Path) -> None:
    assert complaints(["hadolint", str(path)]) == ""
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert {base for base in bases if not re.search(r":\d+\.\d+\.\d+", base)} == {"libraries"}
    assert re.search(r"^USER 10001:10001$", text, flags=re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD \[", text, flags=re.MULTILINE)
    assert ("torch==" in text) == (path.stem.split(".")[0] in ("jobs", "worker"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_last_stage_of_an_image_gets_a_wheel_and_neither_sources_nor_their_tools(path: Path) -> None:
    last = path.read_text().rpartition("\nFROM ")[2]
    assert "uv" not in last
    assert "apt-get" not in last
    assert set(re.findall(r"^COPY (.*)$", last, flags=re.MULTILINE)) <= {
        "--from=libraries /opt/venv /opt/venv",
        "--chmod=755 infra/docker/healthcheck.py /usr/local/bin/healthcheck",
    }
    assert "RUN --mount=type=bind,from=wheel," in last
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in last


@pytest.mark.parametrize(
    ("answer", "component", "code"),
    [
        (b"", [], 0),
        (b'{"scheduler": {"status": "healthy"}}', ["scheduler"], 0),
        (b'{"scheduler": {"status": "unhealthy"}}', ["scheduler"], 1),
        (b'{"scheduler": {"status": "healthy"}}', ["triggerer"], 1),
        (b"not JSON", ["scheduler"], 1),
        (None, [], 1),
    ],
)
def test_a_container_is_healthy_if_its_page_answers_and_names_its_component_healthy(
    answer: bytes | None, component: list[str], code: int
) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answer is not None else 503)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        program = [sys.executable, str(INFRA / "docker" / "healthcheck.py")]
        done = subprocess.run(
            [*program, f"http://127.0.0.1:{server.server_port}/", *component], check=False, capture_output=True
        )
    assert done.returncode == code


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
def test_an_image_names_its_code(path: Path) -> None:
    assert 'RUN test -n "${CODE_VERSION}"\nENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}\n' in path.read_text()


def test_the_images_are_built_from_the_commit_of_this_checkout(tmp_path: Path) -> None:
    """With a program in the place of podman that writes down what it is asked for. A tag does not take the place of the commit."""
    if subprocess.run(["git", "rev-parse"], cwd=INFRA, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout")
    engine = tmp_path / "engine"
    engine.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    engine.chmod(0o755)
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(INFRA.parent), str(checkout)], check=True)
    shutil.copy(INFRA / "docker" / "build.sh", checkout / "infra" / "docker" / "build.sh")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.invalid"]
    subprocess.run(["git", *author, "tag", "--annotate", "--message=a release", "v9"], cwd=checkout, check=True)
    environment = {name: value for name, value in os.environ.items() if name != "CODE_VERSION"} | {
        "CONTAINER_ENGINE": str(engine)
    }
    subprocess.run(
        ["bash", "infra/docker/build.sh", "jobs"], cwd=checkout, env=environment, check=True, capture_output=True
    )
    git = ["git", "-C", str(checkout)]
    commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "--untracked-files=no"], text=True)
    code_version = f"{__version__}+{commit}{'-dirty' if changed else ''}"
    build, sbom, listed = (tmp_path / "asked").read_text().splitlines()
    assert f"--tag alchemist-jobs:{__version__} --build-arg CODE_VERSION={code_version} " in build
    assert sbom.endswith(f"--entrypoint python alchemist-jobs:{__version__} - --debian")
    assert (checkout / "dist" / "jobs.cdx.json").exists()
    assert listed.startswith("images ")


@pytest.mark.parametrize("name", [".env", "infra/.env", "infra/prod.env", "infra/secrets/store_owner_url"])
def test_files_of_secrets_are_not_committed_by_mistake(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", "-q", name], cwd=INFRA.parent, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.returncode == 0
