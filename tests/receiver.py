"""A web server that accepts what is posted to it, as a webhook of Slack or Teams does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What was posted and when, and the statuses of the next answers; after those every answer is 200."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)
    arrived_at: list[datetime] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    n_requests: int = 0


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.n_requests += 1
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            if status == 200:
                receiver.arrived_at.append(datetime.now(UTC))
                receiver.posts.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
