"""`alchemist explore` as a user starts it: one line with an address, which lets a browser in."""

import http.client
import socket
from contextlib import closing
from email.message import Message

import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.serving import ExploreConfig, serve
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.slow]


def get(port: int, path: str, **headers: str) -> tuple[int, Message, bytes]:
    """Return status, headers and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_the_printed_address_opens_the_explorer(address: str, port: int) -> None:
    assert get(port, "/samples")[0] == 401
    status, headers, _ = get(port, address)
    assert status == 303
    cookie = headers["set-cookie"].partition(";")[0]
    status, _, page = get(port, "/samples", Cookie=cookie)
    assert status == 200
    assert b"caption of 70" in page
    _, headers, picture = get(port, "/pictures/3/thumbnail", Cookie=cookie)
    assert headers["content-type"] == "image/jpeg"
    assert picture.startswith(b"\xff\xd8")
    assert "server" not in headers
    assert get(port, "/samples", Cookie=cookie, Host="evil.example")[0] == 421


def test_a_port_in_use_is_an_error_of_one_line(store: TrainedStore, port: int) -> None:
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(ConfigError, match=f"Port {port} of 127.0.0.1 is in use. Give another one: --port NUMBER."):
            serve(ExploreConfig(port=port))
