"""Loopback ports: choose a free one, and reserve it until the program that was started for it listens.

A program listens seconds after its port was chosen. Without a reservation, two installations that start at the same time could choose
the same port, and the commands of one would reach the programs of the other.

A reservation is a bound socket of Linux's abstract namespace. All processes that share the network see it, as they see ports, and it
ends with the last process that holds it, even if that process is killed.
"""

import errno
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from alchemist_core.errors import AlchemistError, ConfigError

PORTS = range(20_000, 32_000)
"""Ports that no program prefers, below the range of the kernel's ephemeral ports."""


@contextmanager
def explain_port(host: str, port: int, remedy: str = "--port NUMBER") -> Iterator[None]:
    """Name the port and the remedy where the block cannot listen on a port that the user gave.

    Raises:
        ConfigError: The port is in use, or only root may use it.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"Port {port} of {host} is in use. Give another one: {remedy}.") from None
        if error.errno == errno.EACCES:
            raise ConfigError(f"Only root may listen on port {port}. Give one of at least 1024: {remedy}.") from None
        raise


class ReservedPort(NamedTuple):
    """A port, and the socket that reserves it while it is open here or in a process that inherited it."""

    port: int
    holder: socket.socket


def reserve_port(candidates: Iterable[int]) -> ReservedPort:
    """Reserve the first candidate on which no program listens and which no process has reserved. The caller closes the holder.

    Raises:
        AlchemistError: No candidate is free.
    """
    for port in candidates:
        # Reserved before it is probed, because the former holder may listen by now.
        if (holder := _reserve(port)) is not None:
            if _is_free(port):
                return ReservedPort(port, holder)
            holder.close()
    msg = f"No port of 127.0.0.1 is free in {PORTS.start}-{PORTS.stop - 1}. Stop a program that listens on one of them."
    raise AlchemistError(msg)


def _reserve(port: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0alchemist-port-{port}")
    except OSError:
        holder.close()
        return None
    return holder


def _is_free(port: int) -> bool:
    """Return whether the port is free for TCP and UDP: another home's exporter may already listen for Airflow by UDP."""
    return all(_can_bind(port, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))


def _can_bind(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(type=kind) as probe:
        if kind == socket.SOCK_STREAM:
            # As servers do, so that a lingering connection of a former server does not count. For UDP it would hide a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
