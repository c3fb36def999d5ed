"""The memory of a process itself: `ru_maxrss` starts with the value of the parent process."""

import re
from pathlib import Path


def peak_mib(*, reset: bool = False) -> float:
    """Return the most memory that this process had since the last reset, pages of files that it has mapped included."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _mib("VmHWM")


def held_mib(process: int | str = "self") -> float:
    """Return the memory that only a process holds now: without pages of files, which the system takes back when it needs room."""
    return _mib("RssAnon", process)


def _mib(name: str, process: int | str = "self") -> float:
    (kib,) = re.findall(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    return int(kib) / 1024
