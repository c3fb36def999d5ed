"""The processes and devices of a training or scoring run: one, or as many as `accelerate launch` or torchrun started."""

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
from alchemist_core.training.config import MixedPrecision


def start_from_seed(seed: int) -> None:
    """Seed torch, and use only deterministic kernels.

    By default the backward of indexing sums in any order, so that with two threads each run would give another rater.
    """
    # Set here too, for programs that import the library: torch reads it at the first matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DEFAULTS["CUBLAS_WORKSPACE_CONFIG"])
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)


# The other processes wait while the first one fits a tokenizer and encodes: longer than the default timeout on GPUs, ten minutes.
_LONGEST_WAIT = timedelta(days=2)


def make_accelerator(mixed_precision: MixedPrecision = "no") -> Accelerator:
    """Return an accelerator for the launched processes, on a GPU if there is one.

    Raises:
        ConfigError: fp16 without a GPU, or another number format than earlier in this process.
    """
    has_gpu = torch.accelerator.is_available()
    if mixed_precision == "fp16" and not has_gpu:
        raise ConfigError("--mixed-precision fp16 requires a GPU, and none was found; choose bf16 or no.")
    # accelerate keeps one number format per process.
    if is_initialized() and AcceleratorState().mixed_precision != mixed_precision:
        raise ConfigError(
            f"--mixed-precision {mixed_precision} differs from the first one of this process, which cannot change; give rater and "
            "model the same, or train each by a command of its own."
        )
    _join()
    return Accelerator(
        cpu=not has_gpu,
        mixed_precision=mixed_precision,
        # Otherwise accelerate advances a schedule once for each process.
        step_scheduler_with_optimizer=False,
        # The bias of the code head gets no gradient in a rater's backbone.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def own_slice(accelerator: Accelerator, index_B: Int64[Tensor, " B"]) -> Int64[Tensor, " b"]:
    """Return this process's part of a batch; the parts are equal and together the whole batch.

    Raises:
        ConfigError: The batch does not split evenly.
    """
    n_processes = accelerator.num_processes
    if len(index_B) % n_processes:
        raise ConfigError(
            f"The batch size {len(index_B)} does not split into {n_processes} equal parts. Set a multiple of {n_processes}."
        )
    own_b: Tensor = torch.chunk(index_B, n_processes)[accelerator.process_index]
    return own_b


def broadcast(value: Any = None) -> Any:
    """Return the first process's value in every process; each must call it once."""
    _join()
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _join() -> None:
    # Without a GPU, torchrun's processes would each train alone unless the CPU is named explicitly.
    PartialState(cpu=not torch.accelerator.is_available(), timeout=_LONGEST_WAIT)


def own_device() -> torch.device:
    """Return the GPU of this process: the launcher's number for it on its machine, or the only one; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
