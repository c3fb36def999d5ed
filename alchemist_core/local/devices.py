"""Utilisation and memory of the GPUs of this machine, read from the NVIDIA driver by NVML."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from alchemist_core.telemetry import Measurements


def read_devices() -> Measurements:
    """Return utilisation and memory of each GPU by its UUID; nothing where there is no driver or no GPU.

    What the driver refuses is absent: all of a GPU that is lost, the memory of some, and the utilisation of a divided GPU (MIG).
    """
    found: Measurements = {}
    with _driver() as nvml:
        if nvml is None:
            return found
        with suppress(nvml.NVMLError):
            for number in range(nvml.nvmlDeviceGetCount()):
                with suppress(nvml.NVMLError):
                    _read_device(nvml, number, found)
    return found


def _read_device(nvml: ModuleType, number: int, found: Measurements) -> None:
    device = nvml.nvmlDeviceGetHandleByIndex(number)
    labels = (str(nvml.nvmlDeviceGetUUID(device)),)
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        found.setdefault("alchemist_device_memory_used_bytes", []).append((labels, float(memory.used)))
        found.setdefault("alchemist_device_memory_total_bytes", []).append((labels, float(memory.total)))
    with suppress(nvml.NVMLError):
        ratio = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
        found.setdefault("alchemist_device_utilization_ratio", []).append((labels, ratio))


@contextmanager
def _driver() -> Iterator[ModuleType | None]:
    """Yield the module of NVML while the driver answers; None without the library, the driver or a GPU."""
    try:
        import pynvml  # noqa: PLC0415  an extra
    except ModuleNotFoundError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
