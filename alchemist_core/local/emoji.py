"""A corpus of real pictures from ordinary package installs, each with its licence. Knows no rater and no database."""

import hashlib
import io
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alchemist_core.data.tar_writer import write_tar
from alchemist_core.data.tars import index_tar
from alchemist_core.extras import missing_library
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.emoji_packages import EmojiPicture, chosen_packages, find_pictures, install_packages

VALIDATION_RATIO = 0.2
_SHARD_SIZE = 1000
_SPLITS = ("train", "validation")


class _Sample(NamedTuple):
    image: bytes
    caption: str
    about: bytes


def build_emoji_corpus(
    out_root: Path, *, permissive_only: bool = True, side: int = 96, seed: int = 0
) -> dict[str, int]:
    """Install the packages, and write `train/` and `validation/` under `out_root`, or find them already there.

    No concept is on both sides, whatever its style. Pictures are scaled down to `side`, never up, and lie on white.

    Args:
        out_root: Folder of the corpus; the packages are installed under it for the while.
        permissive_only: Only licences that allow any use: Apache-2.0, MIT, CC-BY.
        side: Longest side, in pixels.
        seed: Of the split and of the order.

    Returns:
        Samples of each split.

    Raises:
        DataError: The folder holds something else, or npm failed.
        MissingDependencyError: npm, or what draws SVG, is not installed.
    """
    packages = chosen_packages(permissive_only=permissive_only)
    sources = " ".join(package.source for package in packages)
    marker = CorpusMarker(out_root, "emoji", {"side": side, "seed": seed, "packages": sources})
    if not marker.is_finished():
        marker.start()
        # Hidden, so that an ingest of the folder above never looks into it.
        folder = out_root / ".packages"
        install_packages(packages, folder)
        write_pictures(out_root, find_pictures(packages, folder), side=side, seed=seed)
        shutil.rmtree(folder)
        marker.finish()
    return count_samples(out_root)


def write_pictures(out_root: Path, pictures: Iterable[EmojiPicture], *, side: int, seed: int) -> None:
    """Write pictures as shards, split by concept; of pictures that look the same, the first is kept."""
    splits: dict[str, list[_Sample]] = {split: [] for split in _SPLITS}
    seen: set[bytes] = set()
    for picture in pictures:
        image = _load(picture, side)
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            splits[split_of(picture.concept, seed)].append(_make_sample(picture, image))
    for split, samples in splits.items():
        random.Random(f"{split} {seed}").shuffle(samples)  # noqa: S311  an order, not a secret
        for shard, first in enumerate(range(0, len(samples), _SHARD_SIZE)):
            write_tar(out_root / split / f"{shard:06d}.tar", _entries(samples, first))


def split_of(concept: str, seed: int) -> str:
    """Say on which side a concept is: a function of it and the seed, not of what else there is.

    >>> split_of("1F600", 0)
    'train'
    """
    digest = hashlib.sha256(f"{seed} {concept}".encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < VALIDATION_RATIO * 2**64 else "train"


def count_samples(out_root: Path) -> dict[str, int]:
    """Count what lies in the shards, split by split."""
    return {split: sum(_count(path) for path in (out_root / split).glob("*.tar")) for split in _SPLITS}


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in index_tar(file, path.stat().st_size))


def _load(picture: EmojiPicture, side: int) -> Image.Image:
    source = io.BytesIO(_draw_svg(picture.path, side)) if picture.path.suffix == ".svg" else picture.path
    with Image.open(source) as found:
        drawn = found.convert("RGBA")
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def _draw_svg(path: Path, side: int) -> bytes:
    try:
        import resvg_py  # noqa: PLC0415  only one of the styles is SVG
    except ImportError as error:
        raise missing_library("resvg_py", "leave permissive_only on: OpenMoji is SVG") from error
    # Fonts of this machine would make the bytes differ from those of another, and are looked for anew at every call.
    return bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=side, skip_system_fonts=True))


def _make_sample(picture: EmojiPicture, image: Image.Image) -> _Sample:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    package = picture.package
    about = {
        "name": picture.name,
        "concept": picture.concept,
        "style": package.style,
        "source": package.source,
        "file": picture.path.name,
        "license": package.licence,
        "author": package.author,
        "changes": "scaled, laid on white",
        "caption_source": "template(style, name, short names)",
        "width": image.width,
        "height": image.height,
    }
    return _Sample(buffer.getvalue(), picture.caption, json.dumps(about).encode())


def _entries(samples: list[_Sample], first: int) -> Iterator[tuple[str, bytes]]:
    for index, sample in enumerate(samples[first : first + _SHARD_SIZE], first):
        yield f"{index:09d}.png", sample.image
        yield f"{index:09d}.txt", sample.caption.encode()
        yield f"{index:09d}.json", sample.about
