"""Which packages hold emoji, how each names its pictures, and under which licence they are. Writes no corpus."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alchemist_core.errors import DataError, MissingDependencyError

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
        """Name and version, as the picture's JSON carries them."""
        return f"npm:{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class EmojiPicture:
    """One picture of one concept in one style. Concepts are what train and validation never share."""

    concept: str
    name: str
    aliases: tuple[str, ...]
    path: Path
    package: Package

    @property
    def caption(self) -> str:
        """The style, the name, and other names that say more."""
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
    """Return the packages whose pictures may be used for anything, or all of them."""
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
    """Yield the pictures of installed packages, without variants of skin tone."""
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
    # The package names pictures by code point only; another package of the build says what they are.
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
    # "flag et" says no more than "ethiopia flag".
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
