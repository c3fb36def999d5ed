"""A server with OpenAI's interface that misbehaves as it is told, and counts what it answered to whom.

The sample of a request is the number at the end of its prompt, or else a checksum of prompt and image. The right score of sample k
is k % 11.
"""

import base64
import gzip
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Behave = Callable[[int, int], str]
"""The behaviour towards a sample's request, by the sample and the number of its request, from 0."""

CONTENTS: dict[str, Callable[[int], str]] = {
    "ok": lambda sample: json.dumps({"quality": sample % 11, "text": 0.5}),
    "not json": lambda _: '{"quality": 7, "te',
    "other schema": lambda _: json.dumps({"quality": 7}),
    "more than asked": lambda _: json.dumps({"quality": 7, "text": 0.5, "why": "sharp"}),
    "a text for a number": lambda _: json.dumps({"quality": "7", "text": 0.5}),
    "out of bounds": lambda _: json.dumps({"quality": 10.5, "text": 0.5}),
    "not a number": lambda _: '{"quality": NaN, "text": 0.5}',
    "refusal text": lambda _: "I'm sorry, I can't help with this image.",
}
INVALID = tuple(CONTENTS)[1:]
"""Answers that do not fit the schema."""
TRANSIENT = ("slow", "drip", "429", "500", "503", "cut", "reset", "html", "no choices", *INVALID)
"""Behaviours after which a sample may be asked again."""
SLOW_S = 2.0
DELAYS = {"slow": SLOW_S, "late": 0.03}
"""Seconds before an answer; the client gives up a slow one, and waits for a late one."""
BODIES = {"html": b"<html>Bad gateway</html>", "no choices": b'{"choices": []}'}
LENGTHS = {"two lengths": "2, 2", "unequal lengths": "2, 3", "a word for a length": "two", "5,000 digits": "9" * 5000}
"""Headers Content-Length that are no number."""
MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "refusal": ({"content": None, "refusal": "I will not rate people."}, "stop"),
    "content filter": ({"content": ""}, "content_filter"),
}


class VlmServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Behave, *, knows_keys: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.knows_keys, self.lock = behave, knows_keys, threading.Lock()
        self.request_keys: dict[int, list[str]] = defaultdict(list)
        """Idempotency keys of the requests, by sample."""
        self._answers: dict[str, bytes] = {}
        """What was paid for, by idempotency key."""
        self.n_requests: Counter[int] = Counter()
        self.n_paid: Counter[int] = Counter()
        """Answers with tokens, valid or not, by sample."""
        self.bodies: dict[int, dict[str, Any]] = {}
        self.keys: set[str | None] = set()
        self.proxy_keys: set[str | None] = set()
        self.accepted: set[str | None] = set()
        """Encodings that clients accept."""
        self.arrived_at: list[float] = []
        self.n_open = self.most_open = 0
        self.retry_after = "0"
        self.usage: Any = {"prompt_tokens": 1000, "completion_tokens": 10}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def pay(self, sample: int, key: str, body: bytes) -> bytes:
        """Return the answer that was paid for under the key, or count this one."""
        if self.knows_keys and key in self._answers:
            return self._answers[key]
        self.n_paid[sample] += 1
        self._answers[key] = body
        return body

    def handle_error(self, *_: object) -> None:
        """Clients that were killed or that gave up are no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VlmServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"][0]["text"]
        word = prompt.split()[-1]
        sample = int(word) if word.isdigit() else zlib.crc32(json.dumps(body["messages"]).encode())
        self.is_caption = body["response_format"]["json_schema"]["name"] == "caption"
        with self.server.lock:
            self.server.arrived_at.append(time.monotonic())
            behaviour = self.server.behave(sample, self.server.n_requests[sample])
            self.server.n_requests[sample] += 1
            self.server.bodies[sample] = body
            self.server.keys.add(self.headers["Authorization"])
            self.server.proxy_keys.add(self.headers["Proxy-Authorization"])
            self.server.accepted.add(self.headers["Accept-Encoding"])
            self.server.request_keys[sample].append(self.headers["Idempotency-Key"])
            self.server.n_open += 1
            self.server.most_open = max(self.server.most_open, self.server.n_open)
        try:
            self._answer(sample, behaviour)
        finally:
            with self.server.lock:
                self.server.n_open -= 1

    def _answer(self, sample: int, behaviour: str) -> None:
        if behaviour == "429 bomb":
            self._send(429, compress_thrice(), encoding="gzip, gzip, gzip")
        elif behaviour.isdigit():
            said = f"no, {self.headers['Authorization']}"
            self._send(int(behaviour), json.dumps({"error": {"message": said}}).encode())
        elif behaviour in BODIES:
            self._send(200, BODIES[behaviour])
        elif behaviour in LENGTHS:
            self._send(200, b"{}", size=LENGTHS[behaviour])
        elif behaviour == "bomb":
            self._send(200, compress_thrice(), encoding="gzip, gzip, gzip")
        elif behaviour in {"cut", "reset", "drip"}:
            self._cut(behaviour)
        else:
            time.sleep(DELAYS.get(behaviour, 0))
            is_caption = self.is_caption and behaviour not in INVALID
            message, finish = MESSAGES.get(behaviour) or (
                {"content": self._caption(sample) if is_caption else CONTENTS.get(behaviour, CONTENTS["ok"])(sample)},
                "stop",
            )
            self._complete(sample, message, finish, is_paid=behaviour != "slow")

    def _caption(self, sample: int) -> str:
        return json.dumps({"caption": f"What the model sees in {sample}."})

    def _cut(self, behaviour: str) -> None:
        """Send less than announced: nothing more, a reset of the connection, or a byte now and then."""
        self.close_connection = True
        self._send(200, b"{", size=1000)
        if behaviour == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            for _ in range(20 if behaviour == "drip" else 0):
                time.sleep(SLOW_S / 20)
                self.wfile.write(b" ")

    def _complete(self, sample: int, message: dict[str, Any], finish: str, *, is_paid: bool) -> None:
        answer = {
            "choices": [{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}],
            "usage": self.server.usage,
        }
        body = json.dumps(answer).encode()
        with self.server.lock:
            if is_paid:
                body = self.server.pay(sample, self.headers["Idempotency-Key"], body)
        self._send(200, body)

    def _send(self, status: int, body: bytes, size: int | str | None = None, encoding: str | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            if encoding is not None:
                self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(body) if size is None else size))
            self.send_header("Retry-After", self.server.retry_after)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@cache
def compress_thrice() -> bytes:
    """16 MiB of zeros in some hundred bytes."""
    body = bytes(1 << 24)
    for _ in range(3):
        body = gzip.compress(body)
    return body


@contextmanager
def serving(behave: Behave, *, knows_keys: bool = False) -> Iterator[VlmServer]:
    """Run a server until the block ends; one that knows idempotency keys is paid once for each."""
    with VlmServer(behave, knows_keys=knows_keys) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def image_of(body: dict[str, Any]) -> np.ndarray:
    """The pixels of a request."""
    head, _, data = body["messages"][0]["content"][1]["image_url"]["url"].partition(",")
    assert head.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
