"""What this machine has: GPUs, cores, memory. Starts nothing and imports no torch."""

import csv
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from alchemist_core.cores import n_own_cores

_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_TIMEOUT_S = 20
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and its memory in GiB."""

    name: str
    memory_gib: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs, the cores that this process may use, and the host memory in GiB."""

    gpus: tuple[Gpu, ...]
    n_cores: int
    memory_gib: float

    @property
    def gpu_memory_gib(self) -> float:
        """Memory of the smallest GPU; 0 without a GPU."""
        return min((gpu.memory_gib for gpu in self.gpus), default=0.0)

    def describe(self) -> str:
        """Return the machine in one line.

        >>> Machine((Gpu("L4", 22.5),) * 2, 8, 31.2).describe()
        '2 GPUs (L4, 22 GiB), 8 cores, 31 GiB of memory'
        """
        names = ", ".join(dict.fromkeys(f"{gpu.name}, {gpu.memory_gib:.0f} GiB" for gpu in self.gpus))
        gpus = f"{len(self.gpus)} GPU{'s' * (len(self.gpus) > 1)} ({names})" if self.gpus else "no GPU"
        cores = f"{self.n_cores} core{'s' * (self.n_cores > 1)}"
        return f"{gpus}, {cores}, {self.memory_gib:.0f} GiB of memory"


def look_at_machine() -> Machine:
    """Return what this machine has; a GPU counts if nvidia-smi lists it."""
    return Machine(tuple(_list_gpus()), n_own_cores(), _memory_gib())


def _list_gpus() -> list[Gpu]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, *_QUERY], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == 2]
    return [Gpu(name, float(mib) / 1024) for name, mib in rows if mib.replace(".", "", 1).isdigit()]


def _memory_gib() -> float:
    """Return the memory of the host, or the limit of the container if that is lower."""
    total_kib = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    limit_gib = float(limit) / 2**30 if limit.isdigit() else float("inf")
    return min(total_kib / 2**20, limit_gib)
