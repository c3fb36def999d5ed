"""A run that puts a model on a device holds the device's lease, from before torch allocates on it until the run ends.

The lease is renewed by the run's heartbeat: a job whose parent died goes on, and holds it. What is promised and what cannot be
stands in `alchemist_core/README.md`, under "A device has a lease".
"""

import sys

from sqlalchemy import Engine

from alchemist_core.settings import load_settings
from alchemist_core.stages.execution import StageRun
from alchemist_core.stages.sharing import wait_for_claim
from alchemist_core.store.leases import Holder, LeaseClaim, claim_together, list_holders
from alchemist_core.training.devices import Device, find_cpu, find_devices

PREFIX = "device:"
Group = tuple[Device, ...]


def hold_device(stage_run: StageRun, *, n_devices: int = 1, is_on_cpu: bool = False) -> None:
    """Wait until a device is free and hold it until the run ends; a run that holds its devices already goes on.

    Call it before anything that initialises CUDA: of several free GPUs the first one is taken, and this process pinned to it.

    Args:
        stage_run: Whose heartbeat renews the lease; a launched helper uses what its leader holds.
        n_devices: Devices to hold together: the first ones, one for each process that was launched here.
        is_on_cpu: Whether the work runs on the CPU, whatever else the machine has.
    """
    devices = (find_cpu(),) if is_on_cpu else find_devices()
    if stage_run.devices or not stage_run.is_leader or _is_shared_freely(devices):
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
    """Return a line for each device that a run holds."""
    with engine.connect() as connection:
        holders = list_holders(connection, PREFIX)
    return [f"Device {_describe(holder)}" for holder in holders]


def _choose_groups(devices: Group, n_devices: int) -> dict[tuple[str, ...], Group]:
    """Return what would do, the first choice first: the resources to claim together, and their devices."""
    groups = [(device,) for device in devices] if n_devices == 1 else [devices[:n_devices]]
    torch = sys.modules.get("torch")
    if n_devices == 1 and torch is not None and torch.cuda.is_initialized():
        # Too late to pin: CUDA's first device is the one that is used.
        groups = groups[:1]
    n_jobs = load_settings().jobs_per_device or 1
    return {
        tuple(f"{PREFIX}{device.name}:{slot}" for device in group): group for slot in range(n_jobs) for group in groups
    }


def _is_shared_freely(devices: Group) -> bool:
    # The operating system shares a CPU well: only who asks for it has a limit there.
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
