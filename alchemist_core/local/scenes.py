"""The synthetic corpus: captioned scenes with synthetic defects. `truth.parquet` records the kind of each scene.

Nothing in the shards shows the kinds: only that file, beside the shards, contains them.
"""

import datetime as dt
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

from alchemist_core.errors import DataError
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.shards.tar_writer import write_tar

Rgb = tuple[int, int, int]
# Scenes are drawn this many times larger and averaged down, which gives smooth edges that are equal on every machine.
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
    """An image, a correct caption, and the caption's meaning: captions with equal meanings describe the same images."""

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
    """Draw one or two coloured shapes. The caption gives their kind, colour, size and place."""
    return _draw_single(rng, side) if rng.random() < 1 / 3 else _draw_couple(rng, side)


def draw_plain(rng: random.Random, side: int) -> Scene:
    """Draw one flat colour with a correct caption: a defect, because a model learns almost nothing from it.

    The colour is exactly the caption's: a random shade would make plain images the hardest to predict. Random grain, which
    resizing removes, makes each image unique.
    """
    name = rng.choice(list(COLOURS))
    grain = np.frombuffer(rng.randbytes(3 * side * side), np.uint8).reshape(side, side, 3) % 5
    pixels = np.clip(np.array(COLOURS[name]) + grain.astype(np.int16) - 2, 0, 255).astype(np.uint8)
    return Scene(Image.fromarray(pixels), f"a plain {name} picture", (name,))


def draw_chaotic(rng: random.Random, side: int) -> Scene:
    """Draw 10 to 25 random shapes under noise: a defect, because no caption describes them."""
    shapes = [
        _Shape(
            rng.choice(list(_SHAPE_DRAWERS)),
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
    return draw_shape(rng, side, rng.choice(list(COLOURS)), rng.choice(SHAPES))


def draw_shape(rng: random.Random, side: int, colour: str, name: str) -> Scene:
    """Draw one shape of a kind and colour, of a random size at a random place.

    Args:
        rng: Source of size and place.
        side: Width and height of the image in pixels.
        colour: One of `COLOURS`.
        name: One of `SHAPES`.
    """
    size, place = rng.choice(list(_SIZES)), rng.choice(list(_PLACES))
    shape = _Shape(name, COLOURS[colour], *_jitter(rng, *_PLACES[place]), rng.uniform(*_SIZES[size]))
    caption = f"a {size} {colour} {name} {place}"
    return Scene(_draw_shapes([shape], side), caption, (size, colour, name, place))


def _draw_couple(rng: random.Random, side: int) -> Scene:
    relation = rng.choice(list(_RELATIONS))
    centres = [(0.27, 0.5), (0.73, 0.5)] if relation == "left of" else [(0.5, 0.27), (0.5, 0.73)]
    words = [(rng.choice(list(COLOURS)), rng.choice(list(_SHAPE_DRAWERS))) for _ in centres]
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
        _SHAPE_DRAWERS[shape.name](draw, (x, y, radius), shape.colour)
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


_SHAPE_DRAWERS: dict[str, Callable[[ImageDraw.ImageDraw, Spot, Rgb], None]] = {
    "circle": _draw_circle, "ring": _draw_ring, "square": _draw_square, "triangle": _draw_triangle,
    "diamond": _draw_diamond, "cross": _draw_cross,
}  # fmt: skip

SHAPES = list(_SHAPE_DRAWERS)

_FIRST_NIGHT = dt.date(2026, 1, 1)
_MAX_TRIES = 1000


class SceneKind(StrEnum):
    """The kind of a training scene: informative, or one of the synthetic defects."""

    INFORMATIVE = "informative"
    PLAIN = "plain"
    CHAOTIC = "chaotic"
    WRONG_CAPTION = "wrong_caption"


KIND_RATIOS = {
    SceneKind.INFORMATIVE: 0.40,
    SceneKind.PLAIN: 0.25,
    SceneKind.CHAOTIC: 0.20,
    SceneKind.WRONG_CAPTION: 0.15,
}
_DRAWERS: dict[SceneKind, Callable[[random.Random, int], Scene]] = {
    SceneKind.INFORMATIVE: draw_informative,
    SceneKind.PLAIN: draw_plain,
    SceneKind.CHAOTIC: draw_chaotic,
    SceneKind.WRONG_CAPTION: draw_informative,
}


class ScenesConfig(BaseModel):
    """Size of the synthetic corpus. Equal values give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_train: int = Field(12_000, ge=1, le=1_000_000, description="Number of training scenes, of all four kinds")
    n_validation: int = Field(6_000, ge=0, le=1_000_000, description="Number of validation scenes, without defects")
    n_test: int = Field(1_000, ge=0, le=1_000_000, description="Number of evaluation scenes, without defects")
    n_nights: int = Field(
        2, ge=1, le=365, description="Number of crawl dates that the training scenes are divided into"
    )
    side: int = Field(64, ge=16, le=512, description="Width and height of a scene in pixels")
    seed: int = Field(0, ge=0, description="Seed of the scenes")
    shard_size: int = Field(1_000, ge=1, le=100_000, description="Scenes per shard")


class ScenesResult(NamedTuple):
    """Number of scenes under the root, and whether they existed already."""

    n_train: int
    n_validation: int
    n_test: int
    is_reused: bool


class _Sample(NamedTuple):
    png: bytes
    caption: str
    meaning: tuple[str, ...]
    kind: SceneKind


def draw_scenes(out_root: Path, **overrides: int) -> ScenesResult:
    """Generate the corpus under `out_root`, or reuse it if it is complete.

    Args:
        out_root: Folder for `train/DATE/`, `validation/`, `test/` and `truth.parquet`.
        overrides: Fields of `ScenesConfig` that differ from their defaults.

    Raises:
        DataError: The folder contains something else.
    """
    config = ScenesConfig(**overrides)
    marker = CorpusMarker(out_root, "scenes", config.model_dump())
    is_reused = marker.is_finished()
    if not is_reused:
        marker.start()
        _draw_corpus(out_root, config)
        marker.finish()
    return ScenesResult(config.n_train, config.n_validation, config.n_test, is_reused)


def _draw_corpus(out_root: Path, config: ScenesConfig) -> None:
    seen: set[bytes] = set()
    truth: list[tuple[bytes, str, str]] = []
    for split, kinds in _plan_kinds(config).items():
        rng = random.Random(f"{split} {config.seed}")  # noqa: S311  images, not secrets
        rng.shuffle(kinds)
        samples = _draw_samples(rng, kinds, config.side, seen)
        truth += [(_pair_hash(sample), sample.kind.value, split) for sample in samples]
        for path, first, stop in _plan_shards(out_root, split, config):
            write_tar(path, _entries(samples, range(first, stop), config.side))
    _write_truth(out_root / "truth.parquet", truth)


def _plan_kinds(config: ScenesConfig) -> dict[str, list[SceneKind]]:
    bounds, total = [], 0.0
    for ratio in KIND_RATIOS.values():
        total += ratio
        bounds.append(round(total * config.n_train))
    counts = [stop - start for start, stop in zip([0, *bounds], bounds, strict=False)]
    train = [kind for kind, count in zip(KIND_RATIOS, counts, strict=True) for _ in range(count)]
    clean = SceneKind.INFORMATIVE
    return {"train": train, "validation": [clean] * config.n_validation, "test": [clean] * config.n_test}


def _draw_samples(rng: random.Random, kinds: list[SceneKind], side: int, seen: set[bytes]) -> list[_Sample]:
    samples = [_draw_unseen(rng, kind, side, seen) for kind in kinds]
    clean = [sample for sample in samples if sample.kind is SceneKind.INFORMATIVE]
    return [
        _caption_wrongly(rng, sample, clean) if sample.kind is SceneKind.WRONG_CAPTION else sample for sample in samples
    ]


def _draw_unseen(rng: random.Random, kind: SceneKind, side: int, seen: set[bytes]) -> _Sample:
    for _ in range(_MAX_TRIES):
        scene = _DRAWERS[kind](rng, side)
        # Compare pixels instead of files: two encodings of one image are the same image.
        digest = hashlib.sha256(scene.image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            return _Sample(_encode_png(scene), scene.caption, scene.meaning, kind)
    raise DataError(
        f"Found no new {kind} scene of {side} px in {_MAX_TRIES} tries. Generate fewer scenes, or larger ones (--side)."
    )


def _caption_wrongly(rng: random.Random, sample: _Sample, clean: list[_Sample]) -> _Sample:
    for _ in range(_MAX_TRIES if clean else 0):
        other = rng.choice(clean)
        if other.meaning != sample.meaning:
            return sample._replace(caption=other.caption)
    raise DataError(f"There is no other caption for {sample.caption!r}. Generate more training scenes (--n-train).")


def _encode_png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    scene.image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _plan_shards(out_root: Path, split: str, config: ScenesConfig) -> Iterator[tuple[Path, int, int]]:
    n_samples = {"train": config.n_train, "validation": config.n_validation, "test": config.n_test}[split]
    n_nights = config.n_nights if split == "train" else 1
    for night in range(n_nights):
        first, stop = (n_samples * edge // n_nights for edge in (night, night + 1))
        date = (_FIRST_NIGHT + dt.timedelta(days=night)).isoformat()
        folder = out_root / split / date if split == "train" else out_root / split
        for shard, start in enumerate(range(first, stop, config.shard_size)):
            yield folder / f"{shard:06d}.tar", start, min(start + config.shard_size, stop)


def _entries(samples: list[_Sample], indices: range, side: int) -> Iterator[tuple[str, bytes]]:
    about = json.dumps({"width": side, "height": side, "licence": "CC0-1.0"}).encode()
    for index in indices:
        yield f"{index:09d}.png", samples[index].png
        yield f"{index:09d}.txt", samples[index].caption.encode()
        yield f"{index:09d}.json", about


def _pair_hash(sample: _Sample) -> bytes:
    parts = (sample.png, sample.caption.encode())
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _write_truth(path: Path, truth: list[tuple[bytes, str, str]]) -> None:
    pair_hashes, kinds, splits = zip(*truth, strict=True)
    columns = {"pair_hash": pa.array(pair_hashes, pa.binary(32)), "kind": kinds, "split": splits}
    pq.write_table(pa.table(columns), path)
