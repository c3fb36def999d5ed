"""Read the documentation that this installation contains: served on this machine only, or as a folder of files."""

import threading
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pydantic import Field

from alchemist_core.config import BARE_WORD, Command, Config, Result
from alchemist_core.errors import ConfigError, MissingDependencyError
from alchemist_core.ports import explain_port
from alchemist_core.resources import resource
from alchemist_core.telemetry import say

START = "index"


class DocsConfig(Config):
    """The page, and how to show it."""

    page: str = Field(
        START,
        min_length=1,
        json_schema_extra=BARE_WORD,
        description="Page to open: its path, such as how-to/runbook, or the end of it, such as runbook#ingest",
    )
    path: bool = Field(False, description="Print the file of the page instead of serving the documentation")
    browser: bool = Field(True, description="Open the page in the browser of this machine")
    port: int = Field(0, ge=0, le=65535, description="TCP port on 127.0.0.1; 0: a free one")


class DocsResult(Result):
    """The file of a page."""

    file: str

    def summary(self) -> str:
        """Return the path alone, for use in a shell."""
        return self.file


def read(config: DocsConfig) -> DocsResult | None:
    """Serve the documentation on 127.0.0.1 until stopped, with its search; or print the file of a page.

    Raises:
        MissingDependencyError: This installation contains no documentation.
        ConfigError: There is no such page, or the port cannot be used.
    """
    folder = resource("dist", "docs")
    if not has_documentation():
        raise MissingDependencyError(
            "This installation contains no documentation. In a checkout run: make docs. A wheel that `make wheel` built contains it."
        )
    page, _, heading = config.page.partition("#")
    file = _find(folder, page)
    if config.path:
        return DocsResult(file=str(file))
    _serve(folder, f"{file.relative_to(folder)}{'#' + heading if heading else ''}", config)
    return None


def has_documentation() -> bool:
    """Return whether `make docs` was run in this checkout, or before this wheel was built; images contain none."""
    return resource("dist", "docs", f"{START}.html").is_file()


def _find(folder: Path, page: str) -> Path:
    """Return the file of a page; part of its path is enough if no other page ends in it."""
    wanted = page.strip("/").removesuffix(".html").removesuffix(".md")
    files = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.html"))}
    found = [wanted] if wanted in files else [name for name in files if f"/{name}".endswith(f"/{wanted}")]
    if not found:
        near = [name for name in files if wanted.rpartition("/")[2] in name]
        raise ConfigError(f"There is no page {page!r}. {_listed(near or list(files))}")
    if len(found) > 1:
        raise ConfigError(f"Several pages end in {page!r}. {_listed(found)}")
    return files[found[0]]


def _listed(names: list[str]) -> str:
    return f"Choose from: {', '.join(names)}."


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the files of a folder on 127.0.0.1.

    Raises:
        ConfigError: The port is in use, or only root may use it.
    """
    with explain_port("127.0.0.1", port):
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_QuietHandler, directory=str(folder)))


def _serve(folder: Path, page: str, config: DocsConfig) -> None:
    with make_server(folder, config.port) as server:
        address = f"http://127.0.0.1:{server.server_port}/{page}"
        say(f"Documentation on {address} (stop: Ctrl-C)")
        if config.browser:
            # A browser in the terminal ends only after it was answered.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve_forever()


class _QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log line for each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the parent
        """Log nothing."""


COMMANDS = {"": Command(DocsConfig, read)}
