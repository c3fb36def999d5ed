"""The number format of convolutions on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions in full fp32, and restore the setting of the process afterwards.

    By default a GPU rounds the inputs of convolutions to 10 bits (TF32), so that codes and features would depend on the card.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
