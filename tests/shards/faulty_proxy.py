"""A proxy in front of an object store that answers a share of the requests like an overloaded or broken network."""

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "cut", "short", "slow", "unanswered")
"""An error; a connection that is reset before anything is done, amid the body, or when all is done but not said; a body whose
Content-Length says that its half is all; one that comes in drops. Besides, on request only: "stall", a body that never comes, and other
statuses."""
SLOW_S, N_DROPS = 0.2, 8


class FaultyProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: str, fault_ratio: float, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.fault_ratio, self.faults = urlsplit(target).netloc, fault_ratio, faults
        self.counts = dict.fromkeys(faults, 0)
        self.n_requests = 0
        self._n_answers: int | None = None
        self._rng, self._lock, self._is_over = random.Random(seed), threading.Lock(), threading.Event()

    def fail_after(self, n_answers: int) -> None:
        """Damage every answer after so many."""
        self._n_answers = n_answers

    def end(self) -> None:
        """Release waiting requests, and accept no more."""
        self._is_over.set()
        self.shutdown()

    def wait_for_end(self) -> None:
        """Send nothing more until the proxy is closed."""
        self._is_over.wait()

    def draw_fault(self) -> str | None:
        with self._lock:
            self.n_requests += 1
            is_dead = self._n_answers is not None and self.n_requests > self._n_answers
            if not is_dead and self._rng.random() >= self.fault_ratio:
                return None
            fault = self._rng.choice(self.faults)
            self.counts[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_GET(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.draw_fault()
        if fault == "reset":
            self._reset()
        elif fault is not None and fault.isdigit():
            self._answer(int(fault), {}, b"")
        else:
            self._forward(data, fault)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  the library's names

    def _forward(self, data: bytes, fault: str | None) -> None:
        try:
            with closing(http.client.HTTPConnection(self.server.target)) as connection:
                connection.request(self.command, self.path, body=data or None, headers=dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, http.client.HTTPException):
            self._reset()  # The store died.
            return
        headers = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date", "server")
        }
        half = body[: len(body) // 2] if self.command != "HEAD" and len(body) > 1 else b""
        if fault == "unanswered":
            self._reset()
        elif fault == "stall":
            self._answer(answer.status, headers, half)
            self.server.wait_for_end()
        elif fault == "cut" and half:
            self._answer(answer.status, headers, half)
            self._reset()
        elif fault == "short" and half:
            lengths = {name: str(len(half)) if name.lower() == "content-length" else headers[name] for name in headers}
            self._answer(answer.status, lengths, half)
        else:
            self._answer(answer.status, headers, body, pause_s=SLOW_S / N_DROPS if fault == "slow" else 0)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, pause_s: float = 0) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        step = -(-len(body) // N_DROPS) if pause_s else len(body)
        for start in range(0, len(body) if self.command != "HEAD" else 0, max(1, step)):
            time.sleep(pause_s)
            self.wfile.write(body[start : start + step])
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
def faulty_proxy(
    target: str, *, fault_ratio: float, seed: int, faults: tuple[str, ...] = FAULTS
) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target, fault_ratio, seed, faults)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        proxy.server_close()
        thread.join()
