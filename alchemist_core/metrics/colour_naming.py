"""One of GenEval's ten colour words for some pixels, by arithmetic: no network, no weights, no object.

Letters: N pixels.
"""

import numpy as np
from jaxtyping import UInt8

from alchemist_core.metrics.geneval import COLOURS

# Where each hue ends, in degrees; what lies beyond the last is red again.
_HUES = ((15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (255, "blue"), (305, "purple"), (345, "pink"))
_DARK, _BRIGHT = 0.22, 0.7
_GREY, _PALE, _RUSTY = 0.18, 0.5, 0.7
_BROWN = 0.65


def name_colour(pixel_N3: UInt8[np.ndarray, "N 3"]) -> str:
    """Give the word that most pixels vote for; a grey that is neither dark nor bright has no vote.

    A pixel's word follows from its hue; a dark one is black, a bright one without a hue white, a dim red or orange brown, a pale red pink.

    >>> name_colour(np.array([[200, 20, 30], [210, 15, 25], [128, 128, 128]], np.uint8))
    'red'
    """
    red_N, green_N, blue_N = (pixel_N3.T / np.float64(255)).reshape(3, -1)
    value_N, least_N = (function(pixel_N3, axis=1) / 255 for function in (np.max, np.min))
    chroma_N = value_N - least_N
    saturation_N = chroma_N / np.maximum(value_N, 1 / 255)
    # The angle in the plane across the grey axis, as in HSV up to a degree.
    hue_N = np.degrees(np.arctan2(np.sqrt(3) * (green_N - blue_N), 2 * red_N - green_N - blue_N)) % 360
    words_N = np.array([*[word for _, word in _HUES], "red"])[np.digitize(hue_N, [end for end, _ in _HUES])]
    is_red_N, is_dim_N, is_grey_N = words_N == "red", value_N < _BROWN, saturation_N < _GREY
    cases = {
        "black": value_N < _DARK,
        "white": is_grey_N & (value_N > _BRIGHT),
        "grey": is_grey_N,
        "pink": is_red_N & (saturation_N < _PALE) & (value_N > _BRIGHT),
        "brown": is_dim_N & np.isin(words_N, ("orange", "yellow")) | is_dim_N & is_red_N & (saturation_N < _RUSTY),
    }
    named_N = np.select(list(cases.values()), [np.full_like(words_N, word) for word in cases], words_N)
    votes = [int((named_N == word).sum()) for word in COLOURS]
    return COLOURS[int(np.argmax(votes))]
