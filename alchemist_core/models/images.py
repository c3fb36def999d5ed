"""Images as models read them: resized by one fixed filter, values from −1 to 1."""

from typing import Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

ImageArray: TypeAlias = UInt8[np.ndarray, "N H W 3"]


class ImageSource(Protocol):
    """Images by index: an array, or an object that reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index_M: Int64[np.ndarray, " M"], /) -> ImageArray: ...


def resize_images(image_NHWC: ImageArray, side: int) -> Float[Tensor, "N 3 side side"]:
    """Resize to a square by the antialiased bilinear filter, and scale values to −1 to 1."""
    pixels_NCHW = torch.from_numpy(np.ascontiguousarray(image_NHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels_NCHW.shape[2:] == (side, side):
        return pixels_NCHW.contiguous()
    return functional.interpolate(pixels_NCHW, (side, side), mode="bilinear", antialias=True)
