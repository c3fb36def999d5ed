"""Peak arithmetic and memory of GPUs, for estimates; a run reaches a part of the peak, its utilisation. No torch."""

from typing import Literal, NamedTuple

CPU = "cpu"
"""Name of the device where a run uses no GPU."""
GpuName = Literal["h200", "h100", "h100-pcie", "a100", "a100-40gb", "l40s", "rtx4090", "rtx3090", "l4", "a10", "cpu"]


class Gpu(NamedTuple):
    """A GPU as its manufacturer specifies it, without the doubling for sparse matrices."""

    title: str
    words: str
    """The words by which its driver names it."""
    n_bytes: int
    """10⁹ bytes a gigabyte: cards have some percent more, which CUDA's context and the gaps of its allocator take."""
    bf16: float
    """FLOP/s of matrix products of bf16, summed in fp32."""
    fp32: float
    """FLOP/s outside of tensor cores: frozen encoders use no TF32, so that codes do not depend on the card."""
    source: str

    def is_device(self, name: str) -> bool:
        """Whether a driver's name of a device is a GPU of this kind.

        >>> GPUS["l4"].is_device("NVIDIA L4"), GPUS["l4"].is_device("NVIDIA L40S")
        (True, False)
        """
        return {*self.words.split()} <= {*name.replace("-", " ").split()}


_GB, _TFLOPS = 10**9, 1e12
_HOPPER, _ADA, _AMPERE = "datasheet of the H100", "Ada GPU architecture whitepaper", "GA102 architecture whitepaper"
GPUS: dict[str, Gpu] = {
    "h200": Gpu("H200 SXM", "H200", 141 * _GB, 989.4 * _TFLOPS, 66.9 * _TFLOPS, "datasheet of the H200"),
    "h100": Gpu("H100 SXM", "H100 HBM3", 80 * _GB, 989.4 * _TFLOPS, 66.9 * _TFLOPS, _HOPPER),
    "h100-pcie": Gpu("H100 PCIe", "H100 PCIe", 80 * _GB, 756 * _TFLOPS, 51 * _TFLOPS, _HOPPER),
    "a100": Gpu("A100 80 GB", "A100 80GB", 80 * _GB, 312 * _TFLOPS, 19.5 * _TFLOPS, "datasheet of the A100"),
    "a100-40gb": Gpu("A100 40 GB", "A100 40GB", 40 * _GB, 312 * _TFLOPS, 19.5 * _TFLOPS, "datasheet of the A100"),
    "l40s": Gpu("L40S", "L40S", 48 * _GB, 362 * _TFLOPS, 91.6 * _TFLOPS, "datasheet of the L40S"),
    "rtx4090": Gpu("RTX 4090", "4090", 24 * _GB, 165.2 * _TFLOPS, 82.6 * _TFLOPS, _ADA),
    "rtx3090": Gpu("RTX 3090", "3090", 24 * _GB, 71 * _TFLOPS, 35.6 * _TFLOPS, _AMPERE),
    "l4": Gpu("L4", "L4", 24 * _GB, 121 * _TFLOPS, 30.3 * _TFLOPS, "datasheet of the L4"),
    "a10": Gpu("A10", "A10", 24 * _GB, 125 * _TFLOPS, 31.2 * _TFLOPS, "datasheet of the A10"),
}
DEFAULT_UTILISATION = 0.35
"""Share of the peak that a training of transformers of this size reaches; an assumption, until runs are measured."""
