"""Tars of synthetic JPEGs with captions, the input of the scoring benchmark."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from alchemist_core.shards.tar_writer import write_tar

WORDS = ("red", "green", "small", "large", "house", "tree", "near", "above", "dog", "river", "old", "bright")


def write_corpus(root: Path, *, side: int, n_pairs: int, shard_pairs: int) -> None:
    """Write JPEGs of the size of photographs, each made distinct by a comment, so that few have to be rendered."""
    root.mkdir()
    rng = np.random.default_rng(side)
    pictures = [draw_jpeg(rng, side) for _ in range(32)]
    for first in range(0, n_pairs, shard_pairs):
        numbers = range(first, min(first + shard_pairs, n_pairs))
        entries = [entry for number in numbers for entry in record(rng, pictures, number)]
        write_tar(root / f"{first:09d}.tar", entries)


def draw_jpeg(rng: np.random.Generator, side: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(int) + rng.integers(-6, 7, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def record(rng: np.random.Generator, pictures: list[bytes], number: int) -> list[tuple[str, bytes]]:
    picture, comment = pictures[number % len(pictures)], number.to_bytes(8, "big")
    data = picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]
    caption = " ".join(rng.choice(WORDS, rng.integers(4, 12)))
    return [(f"{number:09d}.jpg", data), (f"{number:09d}.txt", caption.encode())]
