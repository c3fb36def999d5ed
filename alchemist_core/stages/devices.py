"""The devices that a process may use, and the lease that a run holds on one until it ends. Imports no torch.

The run's heartbeat renews the lease, so a job whose parent process died still holds its device. What the lease promises is
described in `alchemist_core/README.md`, under "A device has a lease".

A GPU is named by its UUID, a partition of a GPU (MIG) by its own UUID, so that a device has one name on the host and in every container.
A CPU is named by its kernel's boot id, which all containers of a machine share. `/etc/machine-id` would not do: many images have none, or
all have the same one.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun
from alchemist_core.stages.sharing import wait_for_claim
from alchemist_core.store.leases import Holder, LeaseClaim, claim_together, list_holders

PREFIX = "device:"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
VISIBLE = "CUDA_VISIBLE_DEVICES"

# Runs in a process of its own: the driver reads CUDA_VISIBLE_DEVICES once, when it is initialized, so a process that has queried it can
# no longer choose a device. It queries the driver instead of torch: the order is the same, and no context is created on a device.
# cuDeviceGetUuid_v2 returns the UUID of a MIG instance, cuDeviceGetUuid that of its GPU. NVIDIA, CUDA Driver API, "Device Management".
_LIST_GPUS = """
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
    """A device: its name in the lease table, and the value of CUDA_VISIBLE_DEVICES that selects it (None for a CPU)."""

    name: str
    visible: str | None

    @property
    def is_cpu(self) -> bool:
        """Whether the device is the machine's CPU."""
        return self.visible is None

    def pin(self) -> None:
        """Restrict this process and its children to this GPU; CUDA must not be initialized yet."""
        if self.visible is not None:
            os.environ[VISIBLE] = self.visible
            _PINNED[:] = [self]


_PINNED: list[Device] = []


Group = tuple[Device, ...]


def hold_device(stage_run: StageRun, *, n_devices: int = 1, is_on_cpu: bool = False, is_for_node: bool = False) -> None:
    """Wait until a device is free and hold it until the run ends; return at once if the run already holds its devices.

    Call it before anything that initializes CUDA: it takes the first free GPU and pins this process to it.

    Args:
        stage_run: The run whose heartbeat renews the lease; a launched helper uses the devices of its leader.
        n_devices: Number of devices to hold together: one per process launched on this machine, starting with the first device.
        is_for_node: Whether a helper holds the devices of a machine on which its leader does not run.
        is_on_cpu: Whether the work runs on the CPU although the machine may have a GPU.
    """
    devices = (find_cpu(),) if is_on_cpu else find_devices()
    if stage_run.devices or not (stage_run.is_leader or is_for_node) or _is_shared_freely(devices):
        return
    choices = _choose_groups(devices, n_devices)

    def claim() -> tuple[Group, list[LeaseClaim]] | None:
        ttl_s = load_settings().lease_ttl_s
        for resources, group in choices.items():
            if claims := claim_together(stage_run.engine, resources, run_id=stage_run.run_id, ttl_s=ttl_s):
                return group, claims
        return None

    wanted = {resource for resources in choices for resource in resources}
    group, stage_run.devices = wait_for_claim(stage_run, claim, lambda: _describe_waiting(stage_run.engine, wanted))
    stage_run.require_leases()
    if len(group) == 1:
        group[0].pin()


def describe_held_devices(engine: Engine) -> list[str]:
    """Return one line for each device that a run holds."""
    with engine.connect() as connection:
        holders = list_holders(connection, PREFIX)
    return [f"Device {_describe(holder)}" for holder in holders]


def _choose_groups(devices: Group, n_devices: int) -> dict[tuple[str, ...], Group]:
    """Return the possible choices, the preferred one first: the resources to claim together, with their devices."""
    groups = [(device,) for device in devices] if n_devices == 1 else [devices[:n_devices]]
    torch = sys.modules.get("torch")
    if n_devices == 1 and torch is not None and torch.cuda.is_initialized():
        # CUDA is initialized, so it is too late to pin: the work uses CUDA's first device.
        groups = groups[:1]
    n_jobs = load_settings().jobs_per_device or 1
    return {
        tuple(f"{PREFIX}{device.name}:{slot}" for device in group): group for slot in range(n_jobs) for group in groups
    }


def _is_shared_freely(devices: Group) -> bool:
    # The operating system shares a CPU well, so CPUs have a limit only if it is set.
    return load_settings().jobs_per_device is None and all(device.is_cpu for device in devices)


def _describe_waiting(engine: Engine, wanted: set[str]) -> str | None:
    with engine.connect() as connection:
        holders = [holder for holder in list_holders(connection, PREFIX) if holder.resource in wanted]
    if not holders:
        return None
    return f"Waiting for a device: {'; '.join(map(_describe, holders))}."


def _describe(holder: Holder) -> str:
    name = holder.resource.removeprefix(PREFIX).rpartition(":")[0]
    return f"{name} is held by {holder.describe()}"


def find_devices() -> tuple[Device, ...]:
    """Return the devices that this process may use, in CUDA's order: the configured ones, else its GPUs, else its CPU.

    A process that was pinned to one device keeps it, because CUDA is initialized only once per process.
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
    """Return the UUIDs of the GPUs that CUDA_VISIBLE_DEVICES selects; empty without a driver."""
    listed = subprocess.run([sys.executable, "-I", "-c", _LIST_GPUS], capture_output=True, text=True, check=False)
    return tuple(listed.stdout.split()) if listed.returncode == 0 else ()
