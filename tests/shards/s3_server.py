"""A real S3-compatible server (SeaweedFS) as a process that can be killed and restarted with its data."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.request import Request, urlopen

PROGRAM = shutil.which("weed")
_PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port",
          "s3.port.grpc", "s3.port.iceberg")  # fmt: skip
_USER = """{"identities": [{"name": "test", "credentials": [{"accessKey": "test", "secretKey": "test"}], "actions": ["Admin"]}]}"""
_START_S = 60


class S3Server:
    """One server on loopback, over a folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        (folder / "users.json").write_text(_USER, encoding="utf-8")
        self._folder, self._ports = folder, dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert PROGRAM is not None
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        command = [PROGRAM, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", *ports, f"-dir={self._folder / 'data'}",
                   f"-s3.config={self._folder / 'users.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=40"]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        began = time.monotonic()
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() - began < _START_S, "the server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without a chance to write anything."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        """Whether it can store: until its volumes have reported, it answers errors."""
        probe = Request(f"http://127.0.0.1:{self._ports['filer.port']}/probe", b"stored", method="PUT")
        try:
            urlopen(probe, timeout=2).close()
            urlopen(f"{self.endpoint}/status", timeout=2).close()
        except OSError:
            return False
        return True


def _free_ports(n: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports
