"""The exporter's metrics of GPUs; the real driver is asked only where there is one."""

import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest

from alchemist_core.local.devices import read_devices


class RefusedError(Exception):
    """As pynvml.NVMLError."""


def driver(*, has_gpus: bool = True, refuses: str | None = None) -> ModuleType:
    """A stand-in for the module of NVML: a GPU at work, and one that is divided, whose utilisation the driver does not give.

    A function that it refuses raises for GPU 1, or at each call if it is not about a GPU.
    """

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
    if refuses is not None:
        answer = made.__dict__[refuses]

        def refuse(*arguments: int) -> object:
            if arguments != (0,):
                raise RefusedError
            return answer(*arguments)

        made.__dict__[refuses] = refuse
    return made


def test_each_gpu_is_named_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    assert read_devices() == {
        "alchemist_device_memory_used_bytes": [(("GPU-0",), 1.0), (("GPU-1",), 2.0)],
        "alchemist_device_memory_total_bytes": [(("GPU-0",), 80.0), (("GPU-1",), 80.0)],
        "alchemist_device_utilization_ratio": [(("GPU-0",), 0.75)],
    }


@pytest.mark.parametrize("refuses", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_is_lost_or_gives_no_memory_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(refuses=refuses))
    assert read_devices() == {
        "alchemist_device_memory_used_bytes": [(("GPU-0",), 1.0)],
        "alchemist_device_memory_total_bytes": [(("GPU-0",), 80.0)],
        "alchemist_device_utilization_ratio": [(("GPU-0",), 0.75)],
    }


@pytest.mark.parametrize(("refuses", "n_metrics"), [("nvmlDeviceGetCount", 0), ("nvmlShutdown", 3)])
def test_a_driver_that_fails_costs_no_other_metric(
    monkeypatch: pytest.MonkeyPatch, refuses: str, n_metrics: int
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(refuses=refuses))
    assert len(read_devices()) == n_metrics


@pytest.mark.parametrize("module", [None, driver(has_gpus=False)], ids=["no library", "no driver"])
def test_without_a_driver_there_is_no_metric(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert read_devices() == {}


def test_the_real_library_finds_the_gpus_of_this_machine() -> None:
    pytest.importorskip("pynvml")
    names = {labels[0] for labels, _ in read_devices().get("alchemist_device_memory_total_bytes", [])}
    assert bool(names) == (shutil.which("nvidia-smi") is not None)
    assert all(name.startswith("GPU-") for name in names)
