"""`alchemist docs` finds a page by the end of its path, and serves the folder on this machine only."""

import socket
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli import docs
from alchemist_core.errors import MissingDependencyError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built documentation of three pages."""
    for name in ("index", "how-to/runbook", "contributing/index"):
        page = tmp_path / "dist" / "docs" / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<h1>{name}</h1>")
    monkeypatch.setattr(docs, "resource", tmp_path.joinpath)
    return tmp_path / "dist" / "docs"


def test_the_end_of_a_path_names_a_page(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, file in (
        ("runbook#ingest", "how-to/runbook"),
        ("how-to/runbook.md", "how-to/runbook"),
        ("index", "index"),
    ):
        assert main(["docs", word, "--path"]) == 0
        assert capsys.readouterr().out.strip() == str(site / f"{file}.html")


def test_an_unknown_page_is_refused_with_the_known_ones(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "tables", "--path"]) == 2
    assert (
        "There is no page 'tables'. Choose from: contributing/index, how-to/runbook, index." in capsys.readouterr().err
    )


def test_without_documentation_the_error_says_how_to_get_it(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "index.html").unlink()
    assert main(["docs"]) == MissingDependencyError.exit_code
    assert "make docs" in capsys.readouterr().err


def test_a_browser_that_is_waited_for_gets_the_page(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`webbrowser` waits for the end of one in the terminal, such as w3m, which waits for the page."""
    servers, pages, make = list[ThreadingHTTPServer](), list[bytes](), docs.make_server

    def remember(folder: Path, port: int) -> ThreadingHTTPServer:
        servers.append(make(folder, port))
        return servers[0]

    def browse(address: str) -> None:
        with urllib.request.urlopen(address, timeout=10) as page:
            pages.append(page.read())
        servers[0].shutdown()

    monkeypatch.setattr(docs, "make_server", remember)
    monkeypatch.setattr("webbrowser.open", browse)
    assert main(["docs"]) == 0
    assert pages == [b"<h1>index</h1>"]


def test_a_port_in_use_is_named_with_the_option(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        assert main(["docs", "--port", str(port), "--no-browser"]) == 2
    assert f"Port {port} of 127.0.0.1 is in use. Give another one: --port NUMBER." in capsys.readouterr().err


def test_pages_are_served_on_this_machine_only(site: Path) -> None:
    with docs.make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            assert server.server_address[0] == "127.0.0.1"
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/how-to/runbook.html") as page:
                assert page.read() == b"<h1>how-to/runbook</h1>"
        finally:
            server.shutdown()
            thread.join()
