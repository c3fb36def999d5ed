"""How a loop finds the processes and devices it was launched on: one, or as many as `accelerate launch` or torchrun started."""

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import broadcast_object_list
from jaxtyping import Int64
from torch import Tensor

from alchemist_core.compute_defaults import DEFAULTS
from alchemist_core.errors import ConfigError
from alchemist_core.training.config import Precision


def start_from_seed(seed: int) -> None:
    """Seed torch and keep to kernels whose result does not depend on the order in which threads add up.

    By default the backward of an indexed parameter adds in any order: two threads then gave another rater at every run.
    """
    # Also for those who call the library from a program of their own: torch checks it at the first product of matrices.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DEFAULTS["CUBLAS_WORKSPACE_CONFIG"])
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)


# The others wait while the first one fits a tokenizer and encodes; GPUs' default of ten minutes would end them.
_LONGEST_WAIT = timedelta(days=2)


def make_accelerator(precision: Precision = "fp32") -> Accelerator:
    """Join the launched processes, on a GPU where there is one.

    Raises:
        ConfigError: fp16 without a GPU, or another number format than the process already has.
    """
    has_gpu = torch.accelerator.is_available()
    if precision == "fp16" and not has_gpu:
        raise ConfigError("precision fp16 scales its losses on a GPU, and there is none; choose bf16 or fp32")
    mixed_precision = "no" if precision == "fp32" else precision
    # accelerate keeps one number format a process.
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        raise ConfigError(
            f"precision {precision} follows another one in the same process, which keeps to its first; give rater and model "
            f"the same, or train each by a command of its own"
        )
    _join()
    return Accelerator(
        cpu=not has_gpu,
        mixed_precision=mixed_precision,
        # Else accelerate moves a schedule once for each process at every step.
        step_scheduler_with_optimizer=False,
        # The bias of the code head gives a rater's backbone nothing to learn from.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def own_slice(accelerator: Accelerator, index_B: Int64[Tensor, " B"]) -> Int64[Tensor, " b"]:
    """Give this process's part of a batch: the parts are equal and together the batch.

    Raises:
        ConfigError: The batch does not split evenly.
    """
    n_processes = accelerator.num_processes
    if len(index_B) % n_processes:
        raise ConfigError(f"batch_size {len(index_B)} does not split into {n_processes} equal parts, one a process")
    own_b: Tensor = torch.chunk(index_B, n_processes)[accelerator.process_index]
    return own_b


def tell_all(value: Any = None) -> Any:
    """Give every process what the first one says; each must call it once."""
    _join()
    told = [value]
    broadcast_object_list(told)
    return told[0]


def _join() -> None:
    # The CPU is said outright: without a GPU torchrun's processes would otherwise not find each other, and each train alone.
    PartialState(cpu=not torch.accelerator.is_available(), timeout=_LONGEST_WAIT)


def own_device() -> torch.device:
    """Return the GPU of this process: the launcher's number for it on its machine, or the only one; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
