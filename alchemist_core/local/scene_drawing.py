"""Draws one scene and says what it shows. Knows nothing of shards, splits or corpora."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
# Drawn this many times larger and averaged down: smooth edges, the same on every machine.
_OVERSAMPLING = 4
BACKGROUND: Rgb = (32, 32, 36)
COLOURS: dict[str, Rgb] = {
    "red": (214, 40, 40), "green": (46, 160, 67), "blue": (40, 90, 220), "yellow": (244, 211, 50),
    "purple": (140, 60, 190), "orange": (245, 130, 32), "cyan": (60, 205, 215), "white": (240, 240, 240),
}  # fmt: skip
_PLACES: dict[str, tuple[float, float]] = {
    "at the top left": (0.27, 0.27), "at the top": (0.5, 0.27), "at the top right": (0.73, 0.27),
    "on the left": (0.27, 0.5), "in the middle": (0.5, 0.5), "on the right": (0.73, 0.5),
    "at the bottom left": (0.27, 0.73), "at the bottom": (0.5, 0.73), "at the bottom right": (0.73, 0.73),
}  # fmt: skip
_SIZES = {"small": (0.11, 0.13), "large": (0.21, 0.24)}
_RELATIONS = {"left of": "right of", "above": "below"}
_VAGUE_CAPTIONS = (
    "many shapes", "a jumble of shapes", "shapes in many colours", "a busy picture", "a lot of things",
    "random shapes everywhere",
)  # fmt: skip


class Scene(NamedTuple):
    """A picture, a true caption, and what it means: two captions of one meaning are both true of the picture."""

    image: Image.Image
    caption: str
    meaning: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    name: str
    colour: Rgb
    x: float
    y: float
    radius: float


def draw_informative(rng: random.Random, side: int) -> Scene:
    """Draw one or two coloured shapes whose kind, colour, size and place are what the caption says."""
    return _draw_single(rng, side) if rng.random() < 1 / 3 else _draw_couple(rng, side)


def draw_plain(rng: random.Random, side: int) -> Scene:
    """Draw one flat colour: a true caption that tells all there is, which teaches next to nothing.

    A shade that nobody can foretell would make a plain picture the hardest of all, so there is none; the grain, which any
    resizing averages away, makes each picture another one.
    """
    name = rng.choice(list(COLOURS))
    grain = np.frombuffer(rng.randbytes(3 * side * side), np.uint8).reshape(side, side, 3) % 5
    pixels = np.clip(np.array(COLOURS[name]) + grain.astype(np.int16) - 2, 0, 255).astype(np.uint8)
    return Scene(Image.fromarray(pixels), f"a plain {name} picture", (name,))


def draw_chaotic(rng: random.Random, side: int) -> Scene:
    """Draw 10 to 25 random shapes under noise: nothing that the caption could tell."""
    shapes = [
        _Shape(
            rng.choice(list(_DRAWERS)),
            (rng.randrange(256), rng.randrange(256), rng.randrange(256)),
            rng.random(), rng.random(), rng.uniform(0.05, 0.25),
        )
        for _ in range(rng.randint(10, 25))
    ]  # fmt: skip
    pixels = np.asarray(_draw_shapes(shapes, side)).astype(np.int16)
    noise = np.frombuffer(rng.randbytes(pixels.size), np.uint8).reshape(pixels.shape)
    noisy = np.clip(pixels + (noise.astype(np.int16) - 128) // 2, 0, 255).astype(np.uint8)
    return Scene(Image.fromarray(noisy), rng.choice(_VAGUE_CAPTIONS), ("chaotic",))


def _draw_single(rng: random.Random, side: int) -> Scene:
    colour, name = rng.choice(list(COLOURS)), rng.choice(list(_DRAWERS))
    size, place = rng.choice(list(_SIZES)), rng.choice(list(_PLACES))
    shape = _Shape(name, COLOURS[colour], *_jitter(rng, *_PLACES[place]), rng.uniform(*_SIZES[size]))
    caption = f"a {size} {colour} {name} {place}"
    return Scene(_draw_shapes([shape], side), caption, (size, colour, name, place))


def _draw_couple(rng: random.Random, side: int) -> Scene:
    relation = rng.choice(list(_RELATIONS))
    centres = [(0.27, 0.5), (0.73, 0.5)] if relation == "left of" else [(0.5, 0.27), (0.5, 0.73)]
    words = [(rng.choice(list(COLOURS)), rng.choice(list(_DRAWERS))) for _ in centres]
    shapes = [
        _Shape(name, COLOURS[colour], *_jitter(rng, *centre), rng.uniform(0.18, 0.21))
        for (colour, name), centre in zip(words, centres, strict=True)
    ]
    first, second = (_noun_phrase(colour, name) for colour, name in words)
    captions = (f"{first} {relation} {second}", f"{second} {_RELATIONS[relation]} {first}")
    return Scene(_draw_shapes(shapes, side), rng.choice(captions), (first, relation, second))


def _noun_phrase(colour: str, name: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {name}"


def _jitter(rng: random.Random, x: float, y: float) -> tuple[float, float]:
    return x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)


def _draw_shapes(shapes: list[_Shape], side: int) -> Image.Image:
    canvas = side * _OVERSAMPLING
    image = Image.new("RGB", (canvas, canvas), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        x, y, radius = round(shape.x * canvas), round(shape.y * canvas), round(shape.radius * canvas)
        _DRAWERS[shape.name](draw, (x, y, radius), shape.colour)
    return image.reduce(_OVERSAMPLING)


Spot = tuple[int, int, int]


def _draw_circle(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _draw_ring(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(1, 2 * r // 5))


def _draw_square(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    half = r * 9 // 10
    draw.rectangle((x - half, y - half, x + half, y + half), fill=colour)


def _draw_triangle(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    draw.polygon(((x, y - r), (x + r, y + r * 4 // 5), (x - r, y + r * 4 // 5)), fill=colour)


def _draw_diamond(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    draw.polygon(((x, y - r), (x + r, y), (x, y + r), (x - r, y)), fill=colour)


def _draw_cross(draw: ImageDraw.ImageDraw, spot: Spot, colour: Rgb) -> None:
    x, y, r = spot
    arm = max(1, r // 3)
    draw.rectangle((x - r, y - arm, x + r, y + arm), fill=colour)
    draw.rectangle((x - arm, y - r, x + arm, y + r), fill=colour)


_DRAWERS: dict[str, Callable[[ImageDraw.ImageDraw, Spot, Rgb], None]] = {
    "circle": _draw_circle, "ring": _draw_ring, "square": _draw_square, "triangle": _draw_triangle,
    "diamond": _draw_diamond, "cross": _draw_cross,
}  # fmt: skip
