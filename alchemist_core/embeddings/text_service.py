"""A service that embeds texts by the text tower of a scorer, for servers without torch; and the client that asks it.

It knows neither the store nor the embeddings of images: a text goes in, numbers come out.
"""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import urllib3
from numpy.typing import NDArray

from alchemist_core.errors import AlchemistError, ConfigError, DataError

MAX_TEXT = 1_000
"""Characters of a text; towers cut after some tens of tokens."""
TIMEOUT_S = 10.0
_MAX_BYTES = 1 << 20

log = logging.getLogger(__name__)


class EmbeddedText(NamedTuple):
    """The embedding of a text, and the scorer whose tower made it."""

    scorer: str
    embedding_D: NDArray[np.float32]


Embed = Callable[[str], NDArray[np.float32]]


class TextServer(ThreadingHTTPServer):
    """Answers `POST /embed` with `{"text": …}` by `{"scorer": …, "embedding": […]}`; `GET /` names the scorer.

    Args:
        scorer: Name of the scorer.
        embed: Embeds one text; it is called by one thread at a time.
        address: IP address to listen on.
        port: TCP port; 0: a free one.
    """

    def __init__(self, scorer: str, embed: Embed, *, address: str, port: int) -> None:
        super().__init__((address, port), _Handler)
        self.scorer, self._embed, self._lock = scorer, embed, threading.Lock()

    def answer(self, text: str) -> tuple[int, dict[str, object]]:
        """Return the HTTP status and the document for a text."""
        try:
            with self._lock:
                embedding_D = self._embed(text)
        except AlchemistError as error:
            return 500, {"error": str(error)}
        except Exception:
            # Code of scorers can raise anything; the next text may work.
            log.exception("The scorer failed.")
            return 500, {"error": "The scorer failed. The log of the service says why."}
        return 200, {"scorer": self.scorer, "embedding": embedding_D.tolist()}


def open_server(scorer: str, embed: Embed, *, address: str, port: int) -> TextServer:
    """Return the server that listens on a port.

    Raises:
        ConfigError: The port is in use, or this machine does not have the address.
    """
    try:
        return TextServer(scorer, embed, address=address, port=port)
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {address} cannot be opened: {error.strerror or error}. Give another --port or --address."
        ) from None


class _Handler(BaseHTTPRequestHandler):
    # A client that stops in the middle of a request holds its thread no longer than this.
    timeout = TIMEOUT_S
    server: TextServer
    server_version, sys_version = "alchemist", ""

    def do_GET(self) -> None:
        self._send(200, {"scorer": self.server.scorer})

    def do_POST(self) -> None:
        text = self._read_text()
        if text is None:
            self._send(400, {"error": f'Send {{"text": …}} with 1 to {MAX_TEXT} characters to /embed.'})
        else:
            self._send(*self.server.answer(text))

    def _read_text(self) -> str | None:
        try:
            n_bytes = int(self.headers.get("content-length", ""))
            # A character of JSON has at most 12 bytes.
            if self.path != "/embed" or not 0 < n_bytes <= 12 * MAX_TEXT + 100:
                return None
            text = json.loads(self.rfile.read(n_bytes))["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return text if isinstance(text, str) and 0 < len(text) <= MAX_TEXT else None

    def _send(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: what people search for is not kept."""


_pool = urllib3.PoolManager(retries=False, timeout=TIMEOUT_S)


def embed_text(url: str, text: str) -> EmbeddedText:
    """Return the embedding of a text by the service at an address.

    Raises:
        ConfigError: The service refuses the text.
        DataError: It does not answer, or not as this service answers. The message does not contain the address.
    """
    try:
        answer = _pool.request(
            "POST", f"{url.rstrip('/')}/embed", json={"text": text}, redirect=False, preload_content=False
        )
        with closing(answer):
            document = json.loads(answer.read(_MAX_BYTES))
        if answer.status == 400:
            raise ConfigError(str(document["error"]))
        if answer.status != 200:
            raise DataError(f"The service that embeds texts failed: {document['error']}")
        embedding_D = np.array(document["embedding"], np.float32)
        scorer = str(document["scorer"])
    except (urllib3.exceptions.HTTPError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning("text service: %s", error)
        raise DataError(
            "The service that embeds texts does not answer. Start it (alchemist scorer serve NAME), or correct ALCHEMIST_SEARCH_URL."
        ) from None
    if embedding_D.ndim != 1 or not np.isfinite(embedding_D).all():
        raise DataError("The service that embeds texts did not return an embedding.")
    return EmbeddedText(scorer, embedding_D)
