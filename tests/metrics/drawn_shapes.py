"""Find coloured shapes in a synthetic scene by arithmetic alone: an exact detector for flat shapes on one background.

A pixel at the edge of a shape is a mixture of shape and background, so its covered share is known. Area and centre of the
covered pixels give size and position to a fraction of a pixel; the form is the one that covers the same pixels.

Letters: H W pixels · S sub-pixels of a side.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Rgb = tuple[int, int, int]
Coverage = Float[np.ndarray, "H W"]
_SUBPIXELS = 4
LEAST_AREA_RATIO = 0.008
"""Smaller specks are no shapes; the smallest drawn one covers three times as much."""
LEAST_OVERLAP = 0.6
"""Intersection over union below which something coloured is none of the shapes."""


class _Form(NamedTuple):
    """A shape of radius 1 around the origin, y downwards: its pixels, its area, and how far its centre of mass is below the origin."""

    covers: Callable[[Coverage, Coverage], Bool[np.ndarray, "H W"]]
    area: float
    drop: float = 0.0


FORMS = {
    "circle": _Form(lambda x, y: x**2 + y**2 <= 1, np.pi),
    "ring": _Form(lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.36), 0.64 * np.pi),
    "square": _Form(lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9, 3.24),
    "triangle": _Form(lambda x, y: (y <= 0.8) & (abs(x) <= (y + 1) / 1.8), 1.8, 0.2),
    "diamond": _Form(lambda x, y: abs(x) + abs(y) <= 1, 2.0),
    "cross": _Form(lambda x, y: (np.minimum(abs(x), abs(y)) <= 1 / 3) & (np.maximum(abs(x), abs(y)) <= 1), 20 / 9),
}


class Shape(NamedTuple):
    """One found shape: its centre and radius as shares of the picture's side, and how well its form fits, from 0 to 1."""

    name: str
    colour: str
    x: float
    y: float
    radius: float
    overlap: float


def find_shapes(image_HW3: UInt8[np.ndarray, "H W 3"], palette: Mapping[str, Rgb], background: Rgb) -> list[Shape]:
    """Find the shapes of a square picture, the best fitting first.

    Args:
        image_HW3: The picture.
        palette: The colours that shapes have, by name.
        background: The colour between them.
    """
    coverage_HW, colour_HW = _unmix(image_HW3.astype(np.float64), palette, background)
    found = []
    for index, colour in enumerate(palette):
        core_HW = (colour_HW == index) & (coverage_HW >= 0.5)
        for component_HW in _components(core_HW, round(LEAST_AREA_RATIO * core_HW.size)):
            found += _read_component(np.where(_grown(component_HW), coverage_HW, 0.0), colour)
    return sorted((shape for shape in found if shape.overlap >= LEAST_OVERLAP), key=lambda shape: -shape.overlap)


def _read_component(coverage_HW: Coverage, colour: str) -> list[Shape]:
    """Return the shape; if no shape fits, split it at its narrowest place and return two, because shapes of one colour may touch."""
    whole = _fit(coverage_HW, colour)
    if whole.overlap >= LEAST_OVERLAP:
        return [whole]
    return [_fit(part_HW, colour) for part_HW in _cut(coverage_HW) if part_HW.sum() >= LEAST_AREA_RATIO * part_HW.size]


def _cut(coverage_HW: Coverage) -> list[Coverage]:
    """Cut at the column or row of least coverage, looked for in the middle half."""
    cuts = []
    for axis in (0, 1):
        profile = coverage_HW.sum(axis)
        first, last = np.flatnonzero(profile)[[0, -1]].tolist()
        low, high = first + (last - first) // 4, last - (last - first) // 4 + 1
        cuts.append((profile[low:high].min(), axis, low + int(profile[low:high].argmin())))
    _, axis, place = min(cuts)
    is_before = np.arange(coverage_HW.shape[1 - axis]) < place
    is_before_HW = is_before[None, :] if axis == 0 else is_before[:, None]
    return [np.where(is_before_HW, coverage_HW, 0.0), np.where(is_before_HW, 0.0, coverage_HW)]


def _unmix(
    image_HW3: Float[np.ndarray, "H W 3"], palette: Mapping[str, Rgb], background: Rgb
) -> tuple[Coverage, Int[np.ndarray, "H W"]]:
    """Return for each pixel the colour over the background and its covered share."""
    base = np.array(background, np.float64)
    excess_HW3 = image_HW3 - base
    shares, misfits = [], []
    for colour in palette.values():
        step = np.array(colour) - base
        share_HW = np.clip(excess_HW3 @ step / (step @ step), 0, 1)
        shares.append(share_HW)
        misfits.append(((excess_HW3 - share_HW[..., None] * step) ** 2).sum(-1))
    colour_HW = np.argmin(misfits, 0)
    return np.take_along_axis(np.stack(shares), colour_HW[None], 0)[0], colour_HW


def _components(core_HW: Bool[np.ndarray, "H W"], least_area: int) -> Iterator[Bool[np.ndarray, "H W"]]:
    """Yield each set of touching pixels that is large enough."""
    label_HW = np.where(core_HW, np.arange(1, core_HW.size + 1).reshape(core_HW.shape), 0)
    while True:
        grown_HW = np.where(core_HW, _neighbours(label_HW).max((2, 3)), 0)
        if np.array_equal(grown_HW, label_HW):
            break
        label_HW = grown_HW
    labels, areas = np.unique(label_HW[core_HW], return_counts=True)
    for label, area in zip(labels, areas, strict=True):
        if area >= max(least_area, 1):
            yield label_HW == label


def _grown(component_HW: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    # By one pixel: those less than half covered belong to the shape too.
    grown_HW: Bool[np.ndarray, "H W"] = np.asarray(_neighbours(component_HW).any((2, 3)))
    return grown_HW


def _neighbours(value_HW: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.pad(value_HW, 1), (3, 3))


def _fit(coverage_HW: Coverage, colour: str) -> Shape:
    """Return the shape whose area is nearest to the covered area."""
    height, width = coverage_HW.shape
    area = coverage_HW.sum()
    x = (coverage_HW.sum(0) @ (np.arange(width) + 0.5)) / area
    y = (coverage_HW.sum(1) @ (np.arange(height) + 0.5)) / area
    candidates = []
    for name, form in FORMS.items():
        radius = np.sqrt(area / form.area)
        drawn_HW = _draw(form, (height, width), (x, y - form.drop * radius, radius))
        overlap = np.minimum(coverage_HW, drawn_HW).sum() / np.maximum(coverage_HW, drawn_HW).sum()
        candidates.append(
            Shape(name, colour, x / width, (y - form.drop * radius) / height, radius / width, float(overlap))
        )
    return max(candidates, key=lambda shape: shape.overlap)


def _draw(form: _Form, size: tuple[int, int], spot: tuple[float, float, float]) -> Coverage:
    """Give the covered share of each pixel, from sub-pixels."""
    (height, width), (x, y, radius) = size, spot
    column = ((np.arange(width * _SUBPIXELS) + 0.5) / _SUBPIXELS - x) / radius
    row = ((np.arange(height * _SUBPIXELS) + 0.5) / _SUBPIXELS - y) / radius
    covered = form.covers(*np.broadcast_arrays(column[None, :], row[:, None]))
    share_HW: Coverage = covered.reshape(height, _SUBPIXELS, width, _SUBPIXELS).mean((1, 3))
    return share_HW
