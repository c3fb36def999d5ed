"""Real images with captions and licences, from npm packages of emoji: what benchmarks read as `--corpus FOLDER`.

`python -m tests.benchmarks.emoji_corpus FOLDER [--all-licences] [--side 96] [--seed 0]` writes `FOLDER/train` and `FOLDER/validation`.
"""

import argparse
import hashlib
import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from alchemist_core.errors import DataError, MissingDependencyError
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.shards.tars import index_tar

_METADATA = "emoji-datasource-google"
_SKIN_TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")


@dataclass(frozen=True, slots=True)
class Package:
    """One style of emoji and where it comes from."""

    name: str
    version: str
    style: str
    licence: str
    author: str
    is_permissive: bool

    @property
    def source(self) -> str:
        """Name and version, as in the image's JSON."""
        return f"npm:{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class EmojiPicture:
    """One image of one concept in one style. Train and validation share no concept."""

    concept: str
    name: str
    aliases: tuple[str, ...]
    path: Path
    package: Package

    @property
    def caption(self) -> str:
        """The style, the name, and other names with further words."""
        extra = [alias for alias in self.aliases if not set(alias.split()) <= set(self.name.split())]
        return ", ".join([f"{self.package.style} of {self.name}", *extra[:2]])


NOTO = Package(_METADATA, "16.0.0", "noto emoji", "Apache-2.0", "Google (Noto Color Emoji)", is_permissive=True)
TWEMOJI = Package(
    "emoji-datasource-twitter", "16.0.0", "flat icon", "CC-BY-4.0", "Twitter (Twemoji)", is_permissive=True
)
FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "3d icon with soft shading",
    "MIT",
    "Microsoft (Fluent Emoji)",
    is_permissive=True,
)
OPENMOJI = Package("openmoji", "17.0.0", "outlined drawing", "CC-BY-SA-4.0", "OpenMoji", is_permissive=False)


def chosen_packages(*, permissive_only: bool) -> list[Package]:
    """Return the packages whose images may be used for any purpose, or all of them."""
    return [package for package in _READERS if package.is_permissive or not permissive_only]


def install_packages(packages: Sequence[Package], folder: Path) -> None:
    """Install packages by the ordinary npm client; no script of theirs is run.

    Raises:
        MissingDependencyError: There is no npm.
        DataError: npm failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            "The emoji corpus comes from npm packages, and npm is not installed: install Node.js."
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{package.name}@{package.version}" for package in packages]
    flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder)]
    done = subprocess.run([npm, "install", *flags, *wanted], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise DataError(f"npm install of {', '.join(wanted)} failed ({reason[0]}); check the network and run again")


def find_pictures(packages: Sequence[Package], folder: Path) -> Iterator[EmojiPicture]:
    """Yield the images of installed packages, without variants of skin tone."""
    modules = folder / "node_modules"
    for package in packages:
        for picture in _READERS[package](modules, package):
            if picture.path.is_file():
                yield picture


def _find_datasource(modules: Path, package: Package) -> Iterator[EmojiPicture]:
    vendor = package.name.rpartition("-")[2]
    for row in _read_rows(modules / package.name / "emoji.json"):
        yield _describe(row, modules / package.name / "img" / vendor / "64" / row["image"], package)


def _find_fluent(modules: Path, package: Package) -> Iterator[EmojiPicture]:
    # The package names images by code point only; another package has their names.
    for row in _read_rows(modules / _METADATA / "emoji.json"):
        yield _describe(row, modules / package.name / "assets" / f"{row['unified'].lower()}.webp", package)


def _find_openmoji(modules: Path, package: Package) -> Iterator[EmojiPicture]:
    for row in _read_rows(modules / package.name / "data" / "openmoji.json"):
        if row["skintone"]:
            continue
        tags = tuple(tag.strip() for tag in row["tags"].split(",") if tag.strip())
        path = modules / package.name / "color" / "svg" / f"{row['hexcode']}.svg"
        yield EmojiPicture(_concept(row["hexcode"]), row["annotation"].lower(), tags, path, package)


def _describe(row: dict[str, Any], path: Path, package: Package) -> EmojiPicture:
    aliases = tuple(name.replace("_", " ").replace("-", " ") for name in row["short_names"])
    name = (row["name"] or aliases[0]).lower()
    # "flag et" adds nothing to "ethiopia flag".
    said = tuple(alias for alias in aliases if not alias.startswith("flag "))
    return EmojiPicture(_concept(row["unified"]), name, said, path, package)


def _concept(code_points: str) -> str:
    """Name what is shown, without presentation, skin tone and gender: a running man and woman are one concept.

    >>> _concept("1F3C3-1F3FB-200D-2642-FE0F")
    '1F3C3'
    """
    base = code_points.upper().partition("-200D")[0]
    return "-".join(part for part in base.split("-") if part != "FE0F" and part not in _SKIN_TONES) or base


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove the folder and run again") from error


_READERS: dict[Package, Callable[[Path, Package], Iterator[EmojiPicture]]] = {
    NOTO: _find_datasource,
    TWEMOJI: _find_datasource,
    FLUENT: _find_fluent,
    OPENMOJI: _find_openmoji,
}


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
        # Hidden, so that an ingest of the parent folder skips it.
        folder = out_root / ".packages"
        install_packages(packages, folder)
        write_pictures(out_root, find_pictures(packages, folder), side=side, seed=seed)
        shutil.rmtree(folder)
        marker.finish()
    return count_samples(out_root)


def write_pictures(out_root: Path, pictures: Iterable[EmojiPicture], *, side: int, seed: int) -> None:
    """Write images as shards, split by concept; of near-duplicate images the first is kept."""
    splits: dict[str, list[_Sample]] = {split: [] for split in _SPLITS}
    seen: set[bytes] = set()
    for picture in pictures:
        image = _load(picture, side)
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            splits[split_of(picture.concept, seed)].append(_make_sample(picture, image))
    for split, samples in splits.items():
        random.Random(f"{split} {seed}").shuffle(samples)
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
    """Count the samples in the shards of each split."""
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
    import resvg_py

    # Fonts of this machine would change the bytes, and every call would search for them again.
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


def main() -> None:
    """Write the corpus and print how many samples each split has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--all-licences", action="store_true", help="also OpenMoji, which is CC-BY-SA")
    parser.add_argument("--side", type=int, default=96, help="longest side in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the order")
    given = parser.parse_args()
    print(build_emoji_corpus(given.out, permissive_only=not given.all_licences, side=given.side, seed=given.seed))


if __name__ == "__main__":
    main()
