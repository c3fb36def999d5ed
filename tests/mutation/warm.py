"""Run pytest in processes that are forked from one which has imported the large libraries: half of the time of a small mutant is imports.

A script, so that it imports nothing of the checkout: `python tests/mutation/warm.py` reads one request a line from its standard input,
`{"words": [arguments of pytest], "limit_s": seconds or null, "keeps_bytecode": whether to write bytecode}`, and answers with a line,
`{"code": exit code or null, "output": text, "used_s": seconds}`; null: it was not done within its limit, or died.

The limit is one of processor time, so that a busy machine stops nothing. A hundred times of it is the limit by the clock.
"""

import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

# Not jaxtyping, hypothesis or any other plugin of pytest, which rewrites plugins as it imports them.
LIBRARIES = (
    "torch",
    "scipy.stats",
    "pyarrow.parquet",
    "sqlalchemy.dialects.postgresql",
    "psycopg2",
    "pydantic",
    "alembic.command",
    "PIL.Image",
    "great_expectations",
)
POLL_S = 0.05


class Ended(NamedTuple):
    """How a run of pytest ended: its exit code (None: it was stopped at its limit, or died), what it printed, and its processor time."""

    code: int | None
    output: str
    used_s: float


class WarmTests:
    """A process with the libraries loaded, that runs pytest on request."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, words: Sequence[str], limit_s: float | None = None, *, keeps_bytecode: bool = False) -> Ended:
        """Run pytest with these arguments, within a limit of processor time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"words": list(words), "limit_s": limit_s, "keeps_bytecode": keeps_bytecode}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def warm_tests(checkout: Path, given: Mapping[str, str]) -> Iterator[WarmTests]:
    """Start the process in a checkout, with further environment variables, and end it."""
    command = [sys.executable, str(checkout / "tests" / "mutation" / "warm.py")]
    # What tests start finds this checkout, too, and not the one that is installed.
    environment = os.environ | {"PYTHONPATH": str(checkout)} | given
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield WarmTests(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    # The folder of this script would offer its modules under wrong names.
    sys.path[0] = os.getcwd()  # noqa: PTH109 -- a word, not a path
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))._asdict()), flush=True)


def _run(words: Sequence[str], limit_s: float | None, *, keeps_bytecode: bool) -> Ended:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        pid = os.fork()
        if pid == 0:
            _become_pytest(words, limit_s, printed.fileno(), keeps_bytecode=keeps_bytecode)
        code, used_s = _wait(pid, 100 * limit_s if limit_s else math.inf)
        printed.seek(0)
        return Ended(code, printed.read(), used_s)


def _become_pytest(words: Sequence[str], limit_s: float | None, output: int, *, keeps_bytecode: bool) -> None:
    code = 1
    try:
        os.setsid()
        for stream, number in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(stream, number)
        if limit_s:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s)))
        sys.dont_write_bytecode = not keeps_bytecode
        os.environ["PYTHONDONTWRITEBYTECODE"] = "" if keeps_bytecode else "1"
        code = int(pytest.main(list(words)))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int, timeout_s: float) -> tuple[int | None, float]:
    ends_at = time.monotonic() + timeout_s
    is_stopped = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            return code, usage.ru_utime + usage.ru_stime
        if time.monotonic() > ends_at and not is_stopped:
            is_stopped = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(POLL_S)


if __name__ == "__main__":
    _serve()
