"""The number format of convolutions on a GPU."""

from contextlib import ContextDecorator
from threading import Lock
from types import TracebackType

import torch


class WithoutTf32(ContextDecorator):
    """Computes convolutions in full fp32 while a block or a decorated function runs, and restores the setting afterwards.

    By default a GPU rounds the inputs of convolutions to 10 bits (TF32), so that codes and features would depend on the card.
    The setting is global and several threads encode images at a time, so the last block that ends restores it.
    """

    def __init__(self) -> None:
        self._lock, self._n_blocks, self._before = Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if self._n_blocks == 0:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._n_blocks += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._n_blocks -= 1
            if self._n_blocks == 0:
                torch.backends.cudnn.allow_tf32 = self._before


without_tf32 = WithoutTf32()
