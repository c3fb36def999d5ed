"""The exporter's metrics of GPUs; the real driver is asked only where there is one."""

import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest

from alchemist_core.local.devices import read_devices


class RefusedError(Exception):
    """As pynvml.NVMLError."""


def driver(*, has_gpus: bool = True) -> ModuleType:
    """A stand-in for the module of NVML: a GPU at work, and one that is divided, whose utilisation the driver does not give."""

    def start() -> None:
        if not has_gpus:
            raise RefusedError

    def rates(number: int) -> SimpleNamespace:
        if number:
            raise RefusedError
        return SimpleNamespace(gpu=75)

    made = ModuleType("pynvml")
    made.__dict__.update(
        NVMLError=RefusedError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda number: f"GPU-{number}",
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(used=number + 1, total=80),
        nvmlDeviceGetUtilizationRates=rates,
    )
    return made


def test_each_gpu_is_named_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    assert read_devices() == {
        "alchemist_device_memory_used_bytes": [(("GPU-0",), 1.0), (("GPU-1",), 2.0)],
        "alchemist_device_memory_total_bytes": [(("GPU-0",), 80.0), (("GPU-1",), 80.0)],
        "alchemist_device_utilization_ratio": [(("GPU-0",), 0.75)],
    }


@pytest.mark.parametrize("module", [None, driver(has_gpus=False)], ids=["no library", "no driver"])
def test_without_a_driver_there_is_no_metric(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert read_devices() == {}


def test_the_real_library_finds_the_gpus_of_this_machine() -> None:
    pytest.importorskip("pynvml")
    names = {labels[0] for labels, _ in read_devices().get("alchemist_device_memory_total_bytes", [])}
    assert bool(names) == (shutil.which("nvidia-smi") is not None)
    assert all(name.startswith("GPU-") for name in names)
