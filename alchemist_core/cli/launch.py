"""Start a training as several processes, as `[launch]` of the project file declares: torchrun's agent in a process of its own.

Each node (machine or pod) runs the same command. Its agent meets the agents of the other nodes at the rendezvous and starts one process
per device. If a process or a node ends, the processes of all nodes end; each node then starts them again, and the training resumes from
its checkpoint.
"""

import importlib.util
import logging
import multiprocessing
import os
import socket
import sys
import time
from dataclasses import dataclass

from alchemist_core.cli.verbs import LAUNCHED
from alchemist_core.config import Config
from alchemist_core.errors import FINAL_EXIT_CODES, AlchemistError, ConfigError
from alchemist_core.extras import missing_library
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import configure_logging, say

FORMER_VARIABLE = "ALCHEMIST_LAUNCH"
JOIN_TIMEOUT_S = 3600
"""Longest wait for the other nodes: a pod may wait for a device first."""
CONNECT_TIMEOUT_S = 600
LOOKUP_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Topology:
    """How many processes a training has, and where its nodes meet."""

    processes_per_node: int
    nodes: int
    restarts: int
    host: str
    port: int

    @property
    def has_one_node(self) -> bool:
        """Whether all processes are on this machine."""
        return self.nodes == 1


def declared_topology(verb: str) -> Topology | None:
    """Return how a command is to be launched; None if it runs in this process: alone, or as one of the launched ones.

    Raises:
        ConfigError: Several nodes have no place to meet, or the variable of an earlier version is set.
    """
    if verb not in LAUNCHED or "RANK" in os.environ:
        return None
    if os.environ.get(FORMER_VARIABLE):
        raise ConfigError(
            f"{FORMER_VARIABLE} was removed. Unset it, and set [launch] processes_per_node in alchemist.toml "
            "(nodes, rendezvous and restarts for several machines)."
        )
    from alchemist_core.project import load_project  # noqa: PLC0415  imports the store, which help need not

    launch = load_project().launch
    if launch.processes_per_node == launch.nodes == 1:
        return None
    if launch.nodes == 1:
        return Topology(launch.processes_per_node, 1, 0, "127.0.0.1", 0)
    meeting = load_settings().rendezvous or launch.rendezvous
    if meeting is None:
        raise ConfigError(
            f"[launch] nodes is {launch.nodes}, and the nodes have no place to meet. Set [launch] rendezvous = "
            '"HOST:PORT" with an address of the first node (or ALCHEMIST_RENDEZVOUS), the same on every node.'
        )
    host, _, port = meeting.rpartition(":")
    return Topology(launch.processes_per_node, launch.nodes, launch.restarts, host, int(port))


def launch(topology: Topology, config: Config, arguments: list[str]) -> int:
    """Run a command in the processes of this node, and return its exit code.

    Args:
        topology: The processes and nodes.
        config: The config of the command; nodes with different configs do not meet.
        arguments: The arguments of `alchemist`.
    """
    if importlib.util.find_spec("torch") is None:
        raise missing_library("torch")
    code = 0
    for restart in range(topology.restarts + 1):
        code = _run_once(topology, config.fingerprint(), arguments)
        if code in (0, *FINAL_EXIT_CODES) or restart == topology.restarts:
            break
        say(
            f"The processes of this node ended with exit code {code}. Starting them again "
            f"(restart {restart + 1} of {topology.restarts}); the training resumes from its checkpoint.",
            logging.WARNING,
        )
    return code


def _run_once(topology: Topology, run_id: str, arguments: list[str]) -> int:
    # In a process of its own, because the agent's store keeps its port open until the process ends.
    agent = multiprocessing.get_context("spawn").Process(target=_run_agent, args=(topology, run_id, arguments))
    agent.start()
    try:
        agent.join()
    finally:
        # SIGTERM reaches only this process if it is the first one of a container.
        agent.terminate()
        agent.join()
    code = agent.exitcode or 0
    return code if code >= 0 else 128 - code


def _run_agent(topology: Topology, run_id: str, arguments: list[str]) -> None:
    """Run torchrun's agent, and exit with the exit code of the process that failed first."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException  # noqa: PLC0415  loads torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415
    from torch.distributed.elastic.rendezvous import RendezvousError  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    # A failed process has printed why; the agent would repeat it as a traceback.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    configure_logging(load_settings().log_format)
    if not topology.has_one_node:
        say(f"Waiting for {topology.nodes} nodes at {topology.host}:{topology.port}.")
    local, is_host = ("127.0.0.1", True) if topology.has_one_node else _find_local_address(topology.host)
    config = LaunchConfig(
        min_nodes=topology.nodes,
        max_nodes=topology.nodes,
        nproc_per_node=topology.processes_per_node,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{topology.host}:{topology.port}",
        rdzv_configs={"is_host": is_host, "join_timeout": JOIN_TIMEOUT_S, "read_timeout": CONNECT_TIMEOUT_S},
        max_restarts=0,
        local_addr=local,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "alchemist_core", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        sys.exit(code if code >= 0 else 128 - code)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except RendezvousError as error:
        say(
            f"error: The {topology.nodes} nodes did not meet at {topology.host}:{topology.port}: {error}", logging.ERROR
        )
        sys.exit(AlchemistError.exit_code)


def _find_local_address(host: str) -> tuple[str, bool]:
    """Return this machine's address on the way to the rendezvous, and whether the rendezvous is on this machine.

    Its host name would not do: it can stand for another network, or for none.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                # A datagram socket sends nothing when it connects; the kernel only chooses the route.
                probe.connect(address)
                local = str(probe.getsockname()[0])
        except OSError as error:
            # A pod's name is unknown until the pod has started.
            if time.monotonic() > deadline:
                say(
                    f"error: The rendezvous {host} cannot be reached: {error}. Check [launch] rendezvous.",
                    logging.ERROR,
                )
                sys.exit(AlchemistError.exit_code)
            time.sleep(LOOKUP_INTERVAL_S)
        else:
            return local, local == address[0]
