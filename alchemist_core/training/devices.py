"""The devices that this process may use, by names that are equal on every host and in every container. Imports no torch.

A GPU is named by its UUID, and an instance of a partitioned one (MIG) by its own. A CPU is named by its kernel's boot id, which
containers on one machine share; `/etc/machine-id` is missing in many images, or copied with them.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alchemist_core.settings import load_settings

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
VISIBLE = "CUDA_VISIBLE_DEVICES"

# In a process of its own: the driver reads CUDA_VISIBLE_DEVICES once, when it is initialised, so that a process which had asked
# could not choose any more. The driver itself is asked: it counts in the order that torch will, needs no context on a device, and
# its second function, unlike its first, gives the UUID of a MIG instance. NVIDIA, CUDA Driver API, "Device Management".
_ASK_DRIVER = """
import ctypes, uuid
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
assert driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
for ordinal in range(count.value):
    device, of_gpu, own = ctypes.c_int(), (ctypes.c_ubyte * 16)(), (ctypes.c_ubyte * 16)()
    assert driver.cuDeviceGet(ctypes.byref(device), ordinal) == 0
    assert driver.cuDeviceGetUuid(of_gpu, device) == 0 and driver.cuDeviceGetUuid_v2(own, device) == 0
    print(("GPU-" if bytes(of_gpu) == bytes(own) else "MIG-") + str(uuid.UUID(bytes=bytes(own))))
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A device: its name in the lease table, and the value of CUDA_VISIBLE_DEVICES that shows nothing but it; none for a CPU."""

    name: str
    visible: str | None

    @property
    def is_cpu(self) -> bool:
        """Whether it is the machine's CPU."""
        return self.visible is None

    def pin(self) -> None:
        """Let this process and its children see no other GPU from now on; CUDA must not be initialised yet."""
        if self.visible is not None:
            os.environ[VISIBLE] = self.visible
            _PINNED[:] = [self]


_PINNED: list[Device] = []


def find_devices() -> tuple[Device, ...]:
    """Return the devices that this process may use, in CUDA's order: those that a setting names, else its GPUs, else its CPU.

    A process that was pinned to one keeps it: CUDA cannot be initialised twice.
    """
    if _PINNED:
        return tuple(_PINNED)
    if (named := load_settings().devices) is not None:
        names = list(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
        shown = [word for word in os.environ.get(VISIBLE, "").split(",") if word]
        ordinals = [shown[i] if i < len(shown) else str(i) for i in range(len(names))]
        return tuple(Device(name, ordinal) for name, ordinal in zip(names, ordinals, strict=True))
    return tuple(Device(uuid, uuid) for uuid in _find_gpus(os.environ.get(VISIBLE))) or (find_cpu(),)


def find_cpu() -> Device:
    """Return this machine's CPU."""
    boot_id = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.is_file() else socket.gethostname()
    return Device(f"cpu-{boot_id}", None)


@cache
def _find_gpus(_visible: str | None) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs that CUDA_VISIBLE_DEVICES shows; none without a driver."""
    asked = subprocess.run([sys.executable, "-I", "-c", _ASK_DRIVER], capture_output=True, text=True, check=False)
    return tuple(asked.stdout.split()) if asked.returncode == 0 else ()
