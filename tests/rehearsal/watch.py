"""The memory of a home's commands while they run: the highest sum over each command and its children."""

import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

POLL_S = 2.0
GIB = 1 << 30


class Watch:
    """Looks at this machine's processes every two seconds, in a thread, until it is stopped.

    Memory is the proportional set size: what processes share counts once.
    """

    def __init__(self, home: Path) -> None:
        self.home = str(home)
        self.peak_bytes: dict[str, int] = defaultdict(int)
        """By the command's first words, such as `train-rater`; `everything` is the sum of all processes of the home."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(POLL_S):
            now: dict[str, int] = defaultdict(int)
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if self._is_ours(process):
                        n_bytes = process.memory_full_info().pss
                        now["everything"] += n_bytes
                        now[_command_of(process)] += n_bytes
            for name, n_bytes in now.items():
                self.peak_bytes[name] = max(self.peak_bytes[name], n_bytes)

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.environ().get("ALCHEMIST_HOME") == self.home or self.home in " ".join(process.cmdline())


def _command_of(process: psutil.Process) -> str:
    """Return the first word of the `alchemist` command to which a process belongs, else Airflow and its servers."""
    for each in [process, *process.parents()]:
        words = each.cmdline()
        places = [number for number, word in enumerate(words[:4]) if Path(word).name in ("alchemist", "alchemist_core")]
        if places and len(words) > places[0] + 1:
            word = words[places[0] + 1]
            if word not in ("serve-metrics", "stack"):
                return word
    return "Airflow and Postgres"
