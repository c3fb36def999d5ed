"""Versions of decoding: to which reduced size a JPEG is decoded before its square is scaled to the side that a rater reads.

Other pixels are other scores, so a rater keeps the version that it was trained with. The heuristics are the same in every version.
"""

from typing import Literal

DecodeVersion = Literal[1, 2]
"""1: a JPEG is decoded to at least twice the side. 2: to at least the side, which takes about half the time or less at large sizes."""
UNPINNED: DecodeVersion = 1
"""Version of everything that stores none: raters of before, scorers, critics, metrics and FLUX-mini."""
CANVAS_SIDE = 256
"""Both sides of a JPEG are decoded to at least this many pixels: the heuristics and small raters share one decode."""


def canvas_side(side: int, version: DecodeVersion) -> int:
    """Return the least side in pixels to which a JPEG is decoded; other formats are decoded whole.

    >>> canvas_side(64, 1), canvas_side(64, 2), canvas_side(256, 1), canvas_side(256, 2)
    (256, 256, 512, 256)
    """
    return max(2 * side if version == 1 else side, CANVAS_SIDE)


def version_for(side: int) -> DecodeVersion:
    """Return the version of a new rater: 2, or 1 where both give the same pixels, so that the identity of small raters stays.

    >>> version_for(128), version_for(129)
    (1, 2)
    """
    return UNPINNED if canvas_side(side, 2) == canvas_side(side, UNPINNED) else 2
