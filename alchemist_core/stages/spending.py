"""What a run spent: seconds of work, on which device, and what they cost at today's prices."""

import os
import sys
from typing import Any

from alchemist_core.settings import load_settings

CPU = "cpu"


def spent(work_seconds: float) -> dict[str, Any]:
    """Return work_seconds, device and cost (none without a price) of this process's run, as the run ledger keeps them."""
    device = device_in_use()
    return {"work_seconds": work_seconds, "device": device, "cost": cost_of(work_seconds, device)}


def device_in_use() -> str:
    """Name the GPU that this process has worked on, or the CPU; torch is asked only where a stage has loaded it."""
    torch = sys.modules.get("torch")
    # A GPU that nobody touched worked for nobody.
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_initialized() else CPU


def cost_of(work_seconds: float, device: str) -> float | None:
    """Return the cost of a run in the currency of the prices set: a GPU for each launched process, or every core it may use."""
    settings = load_settings()
    if device == CPU:
        price, n_devices = settings.price_per_core_hour, len(os.sched_getaffinity(0))
    else:
        price, n_devices = settings.price_per_gpu_hour, int(os.environ.get("WORLD_SIZE", "1"))
    return None if price is None else work_seconds / 3600 * price * n_devices
