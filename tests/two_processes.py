"""Two processes that work together, as torchrun starts them, without the time that it takes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def start_two(code: str, *arguments: str | Path, **options: Any) -> list["subprocess.Popen[Any]"]:
    """Start the code in both; the options are those of `subprocess.Popen`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return [
        subprocess.Popen(command, env=os.environ | places | {"RANK": rank, "LOCAL_RANK": rank}, **options)
        for rank in ("0", "1")
    ]
