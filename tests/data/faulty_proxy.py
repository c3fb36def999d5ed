"""A proxy before an object store that answers a share of requests as an overloaded or broken network does."""

import http.client
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "cut")


class FaultyProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str, fault_ratio: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault_ratio = urlsplit(target).netloc, fault_ratio
        self.counts = dict.fromkeys(FAULTS, 0)
        self._rng, self._lock = random.Random(seed), threading.Lock()

    def draw_fault(self) -> str | None:
        with self._lock:
            if self._rng.random() >= self.fault_ratio:
                return None
            fault = self._rng.choice(FAULTS)
            self.counts[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_GET(self) -> None:
        fault = self.server.draw_fault()
        if fault == "reset":
            self._reset()
        elif fault in ("500", "503"):
            self._answer(int(fault), {}, b"")
        else:
            self._forward(is_cut=fault == "cut")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _forward(self, *, is_cut: bool) -> None:
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        headers = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date", "server")
        }
        connection.close()
        if is_cut and self.command == "GET" and len(body) > 1:
            self._answer(answer.status, headers, body[: len(body) // 2])
            self._reset()
        else:
            self._answer(answer.status, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.rfile.close()

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True  # What was reset cannot be answered any more.

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return


@contextmanager
def faulty_proxy(target: str, *, fault_ratio: float, seed: int) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target, fault_ratio, seed)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
