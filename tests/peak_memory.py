"""The peak memory of a process itself: `ru_maxrss` starts with the value of the parent process."""

import re
from pathlib import Path


def peak_mib(*, reset: bool = False) -> float:
    """Return the most memory that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    (kib,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(kib) / 1024
