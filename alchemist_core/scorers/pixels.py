"""The heuristics of pixels as a scorer: clarity, frequency and edge density.

Letters: B samples in a batch · H W pixels · M measures.
"""

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from alchemist_core.heuristics.measures import LUMA_SIDE, MEASURES, measure
from alchemist_core.scorers.scorer import Batch, Scorer


class PixelHeuristics(Scorer):
    """Clarity, frequency and edge density of an image of 128 px, without a network.

    `score` stores the same three measures of every image that it decodes, as `clarity`, `frequency` and `edge_density`. The numbers
    differ a little: there the image is turned grey and then resized, here it is resized and then turned grey, because that is the
    image that scorers get, and both steps round and clip. On 600 images of drawings, icons and photographs the median difference is
    0.2% to 0.4%, that of 95% of the images is below 1.8%, and the rank correlation is above 0.999.
    """

    image_side = LUMA_SIDE
    outputs = tuple(MEASURES)
    is_padded = False

    def score(self, batch: Batch) -> Float32[np.ndarray, "B M"]:
        """Return the measures of each image."""
        return measure(luma(batch.image_BHWC))


def luma(image_BHWC: UInt8[np.ndarray, "B H W 3"]) -> NDArray[np.uint8]:
    """Return the luma of ITU-R 601 with Pillow's rounding.

    >>> luma(np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]], np.uint8)).tolist()
    [[[76, 150, 29]]]
    """
    red, green, blue = np.moveaxis(image_BHWC, 3, 0).astype(np.uint32)
    luma_BHW: NDArray[np.uint8] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return luma_BHW
