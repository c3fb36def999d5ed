"""`alchemist explore` as a user starts it: one line with an address, which lets a browser in."""

import http.client
import re
import socket
from collections.abc import Callable
from contextlib import closing
from email.message import Message
from pathlib import Path
from urllib.parse import urlencode

import pytest
from sqlalchemy import text

from alchemist_core.errors import ConfigError
from alchemist_core.explorer.serving import ExploreConfig, serve
from tests.explorer.browsed import PAGES, serving_enriched
from tests.infra.built_wheel import install_wheel
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.slow]


def get(port: int, path: str, *, form: str | None = None, **headers: str) -> tuple[int, Message, bytes]:
    """Return status, headers and body; a form is posted."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET" if form is None else "POST", path, form, headers=headers)
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


def test_the_explorer_of_the_wheel_needs_neither_airflow_nor_another_extra(
    filled_once: TrainedStore, make_database: Callable[..., str], tmp_path: Path, port: int
) -> None:
    """Every page, a picture, and a flag: by the program of the wheel, for which only the libraries of the extra `explorer` exist."""
    folder, environment = install_wheel()
    how = {"program": [str(folder / "bin" / "alchemist")], **environment, "HAS_EXTRA": "explorer"}
    with serving_enriched(filled_once, make_database, tmp_path, port, **how) as (engine, entry):
        _, headers, _ = get(port, entry)
        cookie = headers["set-cookie"].partition(";")[0]
        pages = {name: get(port, path, Cookie=cookie) for name, path in PAGES.items()}
        assert {name: page[0] for name, page in pages.items() if page[0] != 200} == {"refused": 400, "missing": 404}
        assert get(port, "/pictures/3/thumbnail", Cookie=cookie)[1]["content-type"] == "image/jpeg"
        token = re.search(rb'name="form_token" value="([0-9a-f]{64})"', pages["samples"][2])
        assert token
        form = urlencode({"form_token": token[1].decode(), "one": "3:bad", "back": "/samples"})
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{port}"}
        assert get(port, "/flags", form=form, Cookie=cookie, **kind)[0] == 303
        with engine.connect() as connection:
            found = connection.execute(text("SELECT sample_id, label FROM alchemist.sample_flags")).all()
        assert [tuple(row) for row in found] == [(3, "bad")]
