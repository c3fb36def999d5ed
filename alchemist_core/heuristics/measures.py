"""The heuristics of every decoded image, in the order in which they are stored.

Letters: B images · H W luma · M measures.
"""

from __future__ import annotations

from alchemist_core.heuristics.clarity import clarity
from alchemist_core.heuristics.edges import edge_density
from alchemist_core.heuristics.frequency import frequency
from alchemist_core.lazy import NDArray, np

LUMA_SIDE = 128
"""Side in pixels at which all heuristics are computed, so that images of different sizes can be compared."""
MEASURES = {"clarity": clarity, "frequency": frequency, "edge_density": edge_density}
# Images per pass: as many as fit into the processor's cache.
_BLOCK = 8


def measure(luma_BHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return every measure of every image, one column each, in the order of `MEASURES`.

    >>> measure(np.zeros((2, 16, 16), np.uint8)).shape
    (2, 3)
    """
    value_BM = np.empty((len(luma_BHW), len(MEASURES)), np.float32)
    for start in range(0, len(luma_BHW), _BLOCK):
        part = luma_BHW[start : start + _BLOCK]
        for column, function in enumerate(MEASURES.values()):
            value_BM[start : start + _BLOCK, column] = function(part)
    return value_BM
