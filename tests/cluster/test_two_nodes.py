"""A training on two nodes, each a network namespace of this machine: the weights of one process, also after a node was killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import create_engine, make_url, text

from tests.trained_store import PARTS

pytestmark = [pytest.mark.db, pytest.mark.cluster, pytest.mark.timeout(1200)]
ADDRESSES = {"alchemist-a": "10.213.77.1", "alchemist-b": "10.213.77.2"}
FIRST, SECOND = ADDRESSES
PORT = 29477
LAUNCH = f"""
[launch]
nodes = 2
rendezvous = "{ADDRESSES[FIRST]}:{PORT}"
"""
# Few steps: sums in another order differ by 1e-7 a step, and grow to 6e-4 in 120 steps.
TRAIN = (
    "train-rater", "--preset", "tiny", "--dataset", "scenes", "--validation", "v", "--proxy-warmup-steps", "10",
    "--max-train-steps", "30", "--batch-size", "32", "--softmax-group-size", "16", "--checkpointing-steps", "5",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> Iterator[None]:
    """Two network namespaces that a cable (a veth pair) connects."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip (Debian: iproute2)")
    remove_namespaces()
    cable = dict(zip(ADDRESSES, ("alch0", "alch1"), strict=True))
    run("ip", "link", "add", "alch0", "type", "veth", "peer", "name", "alch1")
    for name, address in ADDRESSES.items():
        run("ip", "netns", "add", name)
        run("ip", "link", "set", cable[name], "netns", name)
        inside = ("ip", "-n", name)
        run(*inside, "link", "set", cable[name], "name", "eth0")
        run(*inside, "address", "add", f"{address}/30", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
    yield
    remove_namespaces()


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)


def remove_namespaces() -> None:
    for name in ADDRESSES:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "delete", "alch0"], check=False, capture_output=True)


@dataclass
class Installation:
    """A store with both datasets, reachable through a Unix socket from every namespace, and its home."""

    url: str
    home: Path
    started: list[subprocess.Popen[str]]

    def start(self, *words: str, node: str | None = None) -> subprocess.Popen[str]:
        """Start a command; on a node it finds the project file with [launch]."""
        given = {
            "ALCHEMIST_DATABASE_URL": self.url,
            "ALCHEMIST_HOME": str(self.home),
            "ALCHEMIST_LEASE_TTL_S": "40",
            # The host name of this machine stands for neither node.
            "GLOO_SOCKET_IFNAME": "eth0",
            **({"ALCHEMIST_PROJECT": str(self.home / "alchemist.toml")} if node else {}),
        }
        place = ["ip", "netns", "exec", node] if node else []
        process = subprocess.Popen(
            [*place, sys.executable, "-m", "alchemist_core", *words],
            env={name: value for name, value in os.environ.items() if not name.startswith("ALCHEMIST_")} | given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def finish(self, *words: str) -> str:
        return ended(self.start(*words))

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the only rater."""
        (path,) = (self.home / "artifacts" / "raters").glob("*/rater.safetensors")
        return load_file(path)

    def ask(self, query: str) -> list[tuple[object, ...]]:
        engine = create_engine(make_url(self.url).set(drivername="postgresql+psycopg2"))
        with engine.connect() as connection:
            rows = [tuple(row) for row in connection.execute(text(query))]
        engine.dispose()
        return rows


def kill_node(pid: int) -> None:
    """Kill a command with the agent and the processes that it started."""
    children = subprocess.run(["pgrep", "--parent", str(pid)], check=False, capture_output=True, text=True)
    for child in children.stdout.split():
        kill_node(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        output, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired as late:
        kill_node(process.pid)
        raise AssertionError(f"did not end:\n{process.communicate()[0][-3000:]}") from late
    assert process.returncode == code, output[-3000:]
    return output


@pytest.fixture(scope="module")
def started() -> list[subprocess.Popen[str]]:
    """Every process that the tests of this file started."""
    return []


@pytest.fixture(autouse=True)
def _no_nodes_left(started: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Kill the nodes that a failed test left."""
    yield
    for process in started:
        if process.poll() is None:
            kill_node(process.pid)
        if process.stdout is not None and not process.stdout.closed:
            process.communicate()
    started.clear()


@pytest.fixture(scope="module")
def install(
    make_database: Callable[..., str], corpus: Path, tmp_path_factory: pytest.TempPathFactory,
    started: list[subprocess.Popen[str]],
) -> Callable[[str], Installation]:  # fmt: skip
    """install(NAME): a new store of the same datasets."""

    def make(name: str) -> Installation:
        address = make_url(make_database())
        engine = create_engine(address.set(drivername="postgresql+psycopg2"))
        with engine.connect() as connection:
            folder = connection.exec_driver_sql("SHOW unix_socket_directories").scalar_one()
        engine.dispose()
        query = {"host": str(folder), "port": str(address.port)}
        url = address.set(host=None, port=None, query=query).render_as_string(hide_password=False)
        found = Installation(url, tmp_path_factory.mktemp(name), started)
        (found.home / "alchemist.toml").write_text(LAUNCH)
        for dataset, part, role in PARTS:
            found.finish("ingest", "--dataset", dataset, "--root", str(corpus / part), "--role", role)
        return found

    return make


@pytest.fixture(scope="module")
def plain(install: Callable[[str], Installation]) -> dict[str, torch.Tensor]:
    """The weights of one process without [launch]."""
    alone = install("alone")
    alone.finish(*TRAIN)
    return alone.weights()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name], weight, rtol=1e-4, atol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_two_nodes_train_the_weights_of_one_process(
    install: Callable[[str], Installation], plain: dict[str, torch.Tensor]
) -> None:
    pair = install("pair")
    nodes = [pair.start(*TRAIN, "--json", node=node) for node in ADDRESSES]
    outputs = [ended(node) for node in nodes]
    assert_equal(pair.weights(), plain)
    assert pair.ask(
        "SELECT state, (result ->> 'n_processes')::int FROM alchemist.runs WHERE stage = 'train_rater'"
    ) == [("succeeded", 2)]
    assert sum('"n_processes": 2' in output for output in outputs) == 1, "one process prints the result"


@pytest.mark.parametrize("killed", [FIRST, SECOND])
def test_after_a_node_was_killed_the_run_resumes_from_its_checkpoint(
    install: Callable[[str], Installation], plain: dict[str, torch.Tensor], killed: str
) -> None:
    pair = install("pair")
    nodes = {node: pair.start(*TRAIN, node=node) for node in ADDRESSES}
    wait_for_checkpoint(pair.home)
    for pid in subprocess.run(
        ["ip", "netns", "pids", killed], check=True, capture_output=True, text=True
    ).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    nodes[killed].communicate()
    nodes[killed] = pair.start(*TRAIN, node=killed)
    outputs = {node: ended(process) for node, process in nodes.items()}
    (survivor,) = ADDRESSES.keys() - {killed}
    assert "Starting them again (restart 1 of 3)" in outputs[survivor]
    assert "defect" not in outputs[survivor]
    assert any("Resuming from the checkpoint at step" in output for output in outputs.values())
    assert_equal(pair.weights(), plain)
    states = pair.ask("SELECT state FROM alchemist.runs WHERE stage = 'train_rater' ORDER BY run_id")
    assert len(states) == 2
    assert states[-1] == ("succeeded",)


def wait_for_checkpoint(home: Path) -> None:
    deadline = time.monotonic() + 300
    while not list(home.glob("artifacts/raters/*.partial/resume/state.pt")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.1)


def test_a_final_error_ends_both_nodes_with_its_exit_code_and_without_a_restart(
    install: Callable[[str], Installation],
) -> None:
    pair = install("pair")
    words = ["other" if word == "scenes" else word for word in TRAIN]
    nodes = [pair.start(*words, node=node) for node in ADDRESSES]
    outputs = [ended(node, code=2) for node in nodes]
    assert any("other" in output for output in outputs)
    assert not any("again" in output for output in outputs)
