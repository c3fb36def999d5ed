"""Ports: none is chosen that a program uses or that another process has reserved."""

import errno
import random
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.ports import PORTS, explain_port, reserve_port

# Reserves a port, prints it, and waits until its input ends.
RESERVE = (
    "import sys; from alchemist_core.ports import reserve_port\n"
    "port, holder = reserve_port(map(int, sys.argv[1:])); print(port, flush=True); sys.stdin.read()"
)


@pytest.fixture
def free() -> tuple[int, int]:
    """Two ports that no program of this machine uses; random ones, because tests run side by side."""
    one, other = (reserve_port(random.sample(PORTS, len(PORTS))) for _ in range(2))
    one.holder.close()
    other.holder.close()
    return one.port, other.port


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_on_which_a_program_listens_is_not_chosen(free: tuple[int, int], kind: socket.SocketKind) -> None:
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", free[0]))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port, holder = reserve_port(free)
    with holder:
        assert port == free[1]


def test_processes_that_choose_at_the_same_time_choose_different_ports(free: tuple[int, int]) -> None:
    command = [sys.executable, "-c", RESERVE, *map(str, free)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in free]
    chosen = {process.stdout.readline().strip() for process in both if process.stdout}
    for process in both:
        process.communicate()
    assert chosen == set(map(str, free))


def test_a_reservation_ends_when_its_process_is_killed(free: tuple[int, int]) -> None:
    command = [sys.executable, "-c", RESERVE, str(free[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(AlchemistError, match="is free in 20000-31999"):
            reserve_port(free[:1])
        other.kill()
    port, holder = reserve_port(free)
    with closing(holder):
        assert port == free[0]


def test_a_port_that_only_root_may_use_is_named() -> None:
    with (
        pytest.raises(ConfigError, match=r"Only root may listen on port 80. Give one of at least 1024: --port NUMBER."),
        explain_port("127.0.0.1", 80),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
