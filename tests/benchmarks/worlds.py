"""Corpora of known kinds on which selections are compared, each with its validation, test and truth: `train`, `validation`, `test`.

`redundant`: few different images, many near-duplicates of some of them. `skewed`: few concepts dominate, validation and test are uniform.
`shifted`: validation and test show 5% of the corpus' concepts. `half_seen`: a fifth of the captions is wrong, test shows all concepts, and
validation only half of them. `alike`: corpus, validation and test are drawn in the same way, so that no
sample is better than another. `openclipart`: drawings with titles and tags by their makers.

A corpus is a function of its `World`; equal values give equal bytes. Size of the validation dataset: a share of the corpus.
"""

import csv
import hashlib
import io
import json
import random
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from subprocess import run
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from alchemist_core.errors import DataError, MissingDependencyError
from alchemist_core.files import atomic_folder
from alchemist_core.local.corpus_marker import CorpusMarker
from alchemist_core.local.scenes import COLOURS, SHAPES, Scene, draw_shape
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.shards.tars import index_tar

SHARD_SIZE = 1000
CONCEPTS = [(colour, shape) for shape in SHAPES for colour in COLOURS]
"""48 concepts of the drawn worlds."""
GOOD = "informative"
"""The kind of the samples that the arm oracle trains on."""
UNSEEN = "_unseen"
"""Behind a kind: of samples whose concepts the validation dataset does not show."""


@dataclass(frozen=True, slots=True)
class World:
    """A corpus to make."""

    kind: str
    seed: int
    n_train: int = 12_000
    n_test: int = 1_000
    # Size of the validation dataset as a share of the corpus.
    validation_share: float = 0.05
    side: int = 64

    @property
    def n_validation(self) -> int:
        """Number of validation samples."""
        return max(1, round(self.validation_share * self.n_train))


class Sample(NamedTuple):
    """An encoded image, its caption, and its kind."""

    image: bytes
    caption: str
    kind: str


def make_world(
    world: World, root: Path, *, drawings: Path | None = None, without: frozenset[str] = frozenset()
) -> dict[str, int]:
    """Write a corpus under a folder, or find it there; return the samples of each part.

    Args:
        world: The corpus.
        root: Its folder.
        drawings: Folder of drawings, for openclipart.
        without: Drawings that are left out, as `read_drawings` takes them.

    Raises:
        DataError: The folder holds something else, or there are too few drawings.
    """
    marker = CorpusMarker(root, "world", asdict(world))
    if not marker.is_finished():
        marker.start()
        rng = random.Random(f"{world.kind} {world.seed}")
        parts = (
            sort_drawings(world, drawings, without=without)
            if world.kind == "openclipart"
            else _DRAWN[world.kind](world, rng)
        )
        rng.shuffle(parts["train"])
        for part, samples in parts.items():
            _write(root / part / ("2026-01-01" if part == "train" else ""), samples, world.side)
        _write_truth(root / "truth.parquet", parts)
        marker.finish()
    return {part: sum(map(_count, (root / part).rglob("*.tar"))) for part in ("train", "validation", "test")}


def _redundant(world: World, rng: random.Random) -> dict[str, list[Sample]]:
    """Draw a fifth of the corpus; the rest are near-duplicates of these images, most of a few of them."""
    n_different = max(1, world.n_train // 5)
    scenes = [_draw(rng, world.side, rng.choice(CONCEPTS)) for _ in range(n_different)]
    generator = np.random.default_rng([world.seed, 1])
    # Popularity by Zipf's law: a tenth of the images has most of the copies.
    popularity = 1 / np.arange(1, n_different + 1)
    copied = generator.choice(n_different, world.n_train - n_different, p=popularity / popularity.sum())
    train = [_grained(scene, GOOD, generator) for scene in scenes]
    train += [_grained(scenes[at], "copy", generator) for at in copied]
    # Validation and test have the same grain: without it, every copy would differ from them, and no first image would.
    held_out = {
        part: [
            _grained(_draw(rng, world.side, CONCEPTS[number % len(CONCEPTS)]), GOOD, generator) for number in range(n)
        ]
        for part, n in (("validation", world.n_validation), ("test", world.n_test))
    }
    return {"train": train, **held_out}


def _skewed(world: World, rng: random.Random) -> dict[str, list[Sample]]:
    """Draw few concepts often. Informative are as many of each concept as the half of a uniform corpus would have."""
    counts = zipf_counts(world.n_train, len(CONCEPTS), exponent=1.5)
    concepts = rng.sample(CONCEPTS, len(CONCEPTS))
    most = world.n_train // 2 // len(CONCEPTS)
    train = [
        _sample(_draw(rng, world.side, concept), GOOD if number < most else "surplus")
        for concept, count in zip(concepts, counts, strict=True)
        for number in range(count)
    ]
    return {"train": train, **_uniform(world, rng)}


def _shifted(world: World, rng: random.Random) -> dict[str, list[Sample]]:
    """Draw all concepts; the user wants those of two shapes in two colours, which are 5% of the corpus."""
    wanted = [(colour, shape) for shape in rng.sample(SHAPES, 2) for colour in rng.sample(list(COLOURS), 2)]
    others = [concept for concept in CONCEPTS if concept not in wanted]
    n_wanted = round(0.05 * world.n_train)
    train = [_sample(_draw(rng, world.side, rng.choice(wanted)), GOOD) for _ in range(n_wanted)]
    train += [_sample(_draw(rng, world.side, rng.choice(others)), "other") for _ in range(world.n_train - n_wanted)]
    return {"train": train, **_uniform(world, rng, wanted)}


def _half_seen(world: World, rng: random.Random) -> dict[str, list[Sample]]:
    """Draw all concepts, a fifth with a wrong caption; validation shows half of the shapes, and test all of them."""
    shapes = rng.sample(SHAPES, len(SHAPES))
    halves = {
        suffix: [concept for concept in CONCEPTS if (concept[1] in shapes[: len(shapes) // 2]) == is_seen]
        for suffix, is_seen in (("", True), (UNSEEN, False))
    }
    train = []
    for suffix, concepts in halves.items():
        scenes = [_draw(rng, world.side, rng.choice(concepts)) for _ in range(world.n_train // 2)]
        n_wrong = len(scenes) // 5
        for at, scene in enumerate(scenes):
            caption = scene.caption
            while at < n_wrong and caption == scene.caption:
                caption = _draw(rng, world.side, rng.choice(concepts)).caption
            kind = "wrong_caption" if at < n_wrong else GOOD
            train.append(_sample(scene._replace(caption=caption), kind + suffix))
    seen = _uniform(world, rng, halves[""])["validation"]
    return {"train": train, "validation": seen, "test": _uniform(world, rng)["test"]}


def _alike(world: World, rng: random.Random) -> dict[str, list[Sample]]:
    """Draw all parts in the same way: there is nothing that a selection could find."""
    sizes = {"train": world.n_train, "validation": world.n_validation, "test": world.n_test}
    return {
        part: [_sample(_draw(rng, world.side, rng.choice(CONCEPTS)), GOOD) for _ in range(n)]
        for part, n in sizes.items()
    }


_DRAWN: dict[str, Callable[[World, random.Random], dict[str, list[Sample]]]] = {
    "redundant": _redundant,
    "skewed": _skewed,
    "shifted": _shifted,
    "half_seen": _half_seen,
    "alike": _alike,
}
KINDS = ("redundant", "skewed", "shifted", "openclipart")
"""The worlds of the study of the same name."""


def zipf_counts(n: int, n_kinds: int, *, exponent: float) -> list[int]:
    """Return how many of n samples each kind has by Zipf's law, the most frequent first; their sum is n, and none is 0 if n allows it.

    >>> zipf_counts(100, 4, exponent=1.0)
    [48, 24, 16, 12]
    """
    share = np.arange(1, n_kinds + 1) ** -exponent
    bounds = np.rint(np.cumsum(share / share.sum()) * n).astype(int)
    return np.diff(bounds, prepend=0).tolist()


def _uniform(world: World, rng: random.Random, concepts: list[tuple[str, str]] = CONCEPTS) -> dict[str, list[Sample]]:
    """Draw validation and test: every concept equally often."""
    return {
        part: [_sample(_draw(rng, world.side, concepts[number % len(concepts)]), GOOD) for number in range(n)]
        for part, n in (("validation", world.n_validation), ("test", world.n_test))
    }


def _draw(rng: random.Random, side: int, concept: tuple[str, str]) -> Scene:
    return draw_shape(rng, side, *concept)


def _sample(scene: Scene, kind: str) -> Sample:
    return Sample(_png(scene.image), scene.caption, kind)


def _grained(scene: Scene, kind: str, generator: np.random.Generator) -> Sample:
    return Sample(_png(_jitter(scene.image, generator)), scene.caption, kind)


def _jitter(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return a near-duplicate: shifted by at most a pixel, in another brightness, with grain."""
    pixels = np.roll(np.asarray(image).astype(np.int16), generator.integers(-1, 2, 2), axis=(0, 1))
    pixels = pixels + generator.integers(-6, 7) + generator.integers(-2, 3, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


PACKAGE = "openclipart-svg"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_WORK = "}Work"
MAX_TAGS = 4


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing with what its maker wrote about it."""

    path: Path
    title: str
    tags: tuple[str, ...]

    @property
    def caption(self) -> str:
        """Title and some tags, as a crawl would have them."""
        extra = [tag for tag in self.tags if not set(tag.lower().split()) <= set(self.title.lower().split())]
        return ", ".join([self.title, *extra[:MAX_TAGS]])

    @property
    def names_a_file(self) -> bool:
        """Whether its title looks like the name of a file."""
        return "_" in self.title


def fetch_drawings(folder: Path) -> Path:
    """Download and unpack Debian's package of drawings by apt, or find it there; nothing is installed.

    Raises:
        MissingDependencyError: There is no apt, or it does not have the package.
    """
    root = folder / "usr/share/openclipart/svg"
    if root.is_dir():
        return root
    # Half of the drawings would be taken for all of them, so the folder gets its name when it is complete.
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as partial:
        for words in (["apt-get", "download", "-qq", PACKAGE], ["sh", "-c", f"dpkg-deb -x {PACKAGE}_*.deb ."]):
            try:
                done = run(words, cwd=partial, capture_output=True, text=True, check=False)
            except OSError as error:
                raise MissingDependencyError(
                    f"{words[0]} is not installed, so the drawings of {PACKAGE} cannot be had."
                ) from error
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise MissingDependencyError(f"Debian's package {PACKAGE} cannot be downloaded: {reason}")
    return root


def read_drawings(root: Path, *, without: frozenset[str] = frozenset()) -> Iterator[Drawing]:
    """Yield the drawings with a title, in the order of their paths.

    Args:
        root: Folder of SVG files.
        without: Paths under it, without their ending, that are left out: those that another corpus already holds.
    """
    for path in sorted(root.rglob("*.svg")):
        if path.relative_to(root).with_suffix("").as_posix() in without:
            continue
        try:
            work = next((node for node in ET.parse(path).iter() if node.tag.endswith(_WORK)), None)
        except (ET.ParseError, ValueError, LookupError):
            continue
        title = "" if work is None else (work.findtext(f"{_DUBLIN_CORE}title") or "").strip()
        if work is None or not title:
            continue
        tags = [(node.text or "").strip() for node in work.iterfind(f"{_DUBLIN_CORE}subject//{_RDF}li")]
        yield Drawing(path, " ".join(title.split()), tuple(tag for tag in dict.fromkeys(tags) if tag))


LOOKS = Path(__file__).with_name("openclipart.csv")
"""What two looks at 1,200 drawings said, each without the other: good, or vague, wrong, unseen."""
NOT_NAMED = "not named"
"""Kind of the drawings whose title names a file, or is shared by more than `MOST_OF_A_TITLE`: of a collection, not of what is seen."""
MOST_OF_A_TITLE = 3


def read_looks() -> dict[str, str]:
    """Return what was seen of each drawing, by its path without the ending: the word of both looks, or `disputed`."""
    with LOOKS.open(encoding="utf-8", newline="") as file:
        return {
            row["path"]: row["first"] if row["first"] == row["second"] else "disputed" for row in csv.DictReader(file)
        }


def sort_drawings(
    world: World,
    drawings: Path | None,
    *,
    without: frozenset[str] = frozenset(),
    looks: Mapping[str, str] | None = None,
) -> dict[str, list[Sample]]:
    """Split the drawings: validation and test are drawn from those whose captions were looked at and found good, the corpus has all others.

    Args:
        world: The corpus.
        drawings: Folder of SVG files.
        without: As `read_drawings` takes them.
        looks: What was seen, as `read_looks` returns it, which is used if there is none.

    Raises:
        DataError: There is no folder, or it has too few good drawings.
    """
    if drawings is None:
        raise DataError("The world openclipart needs a folder of drawings.")
    looks = read_looks() if looks is None else looks
    found = list(read_drawings(drawings, without=without))
    seen = {drawing: looks.get(drawing.path.relative_to(drawings).with_suffix("").as_posix()) for drawing in found}
    good = [drawing for drawing in found if seen[drawing] == "good"]
    rng = random.Random(f"openclipart {world.seed}")
    rng.shuffle(good)
    n_validation = max(1, round(world.validation_share * min(world.n_train, len(found))))
    n_test = min(world.n_test, 2 * len(good) // 3)
    if len(good) < n_validation + n_test:
        raise DataError(f"Only {len(good)} drawings of {drawings} were looked at and found good.")
    chosen = {"validation": good[:n_validation], "test": good[n_validation : n_validation + n_test]}
    held_out = {drawing for part in chosen.values() for drawing in part}
    rest = [drawing for drawing in found if drawing not in held_out]
    rng.shuffle(rest)
    n_of = Counter(drawing.title for drawing in found)
    unseen = {
        drawing: NOT_NAMED if drawing.names_a_file or n_of[drawing.title] > MOST_OF_A_TITLE else GOOD
        for drawing in found
    }
    kinds = {drawing: GOOD if seen[drawing] == "good" else seen[drawing] or unseen[drawing] for drawing in found}
    parts = {"train": rest[: world.n_train], **chosen}
    return {part: _render_all(each, kinds, world.side) for part, each in parts.items()}


def _render_all(drawings: list[Drawing], kinds: Mapping[Drawing, str], side: int) -> list[Sample]:
    """Draw each on white; a drawing that cannot be drawn, or is empty, is left out."""
    return [
        Sample(image, drawing.caption, kinds[drawing])
        for drawing in drawings
        if (image := _render(drawing.path, side)) is not None
    ]


# Corpora of several seeds share most of their drawings.
@cache
def _render(path: Path, side: int) -> bytes | None:
    import resvg_py

    try:
        # Fonts of this machine would change the bytes.
        data = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=2 * side, dpi=96, skip_system_fonts=True))
        with Image.open(io.BytesIO(data)) as found:
            drawn = found.convert("RGBA")
    except (ValueError, OSError, RuntimeError):
        return None
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    image = square.convert("RGB")
    return None if image.getcolors(1) else _png(image)


def files_of_corpus(corpus: Path) -> frozenset[str]:
    """Return which drawings a folder of tars already holds, by the field `file` of their records."""
    found = set()
    for path in sorted(corpus.glob("*.tar")):
        with path.open("rb") as file:
            for record in index_tar(file, path.stat().st_size):
                member = next((one for one in record.files if one.ext == "json"), None)
                if member is None:
                    continue
                file.seek(member.offset)
                about = json.loads(file.read(member.size))
                if "openclipart" in str(about.get("source", "")):
                    found.add(str(about.get("file", "")).rpartition(".")[0])
    return frozenset(found)


def _write(folder: Path, samples: list[Sample], side: int) -> None:
    for shard, start in enumerate(range(0, len(samples), SHARD_SIZE)):
        part = range(start, min(start + SHARD_SIZE, len(samples)))
        write_tar(folder / f"{shard:06d}.tar", _entries(samples, part, side))


def _entries(samples: list[Sample], indices: range, side: int) -> Iterator[tuple[str, bytes]]:
    about = json.dumps({"width": side, "height": side}).encode()
    for index in indices:
        yield f"{index:09d}.png", samples[index].image
        yield f"{index:09d}.txt", samples[index].caption.encode()
        yield f"{index:09d}.json", about


def _write_truth(path: Path, parts: dict[str, list[Sample]]) -> None:
    rows = [(pair_hash(sample), sample.kind, part) for part, samples in parts.items() for sample in samples]
    hashes, kinds, splits = zip(*rows, strict=True)
    pq.write_table(pa.table({"pair_hash": pa.array(hashes, pa.binary(32)), "kind": kinds, "split": splits}), path)


def pair_hash(sample: Sample) -> bytes:
    """Return the hash by which the store names a sample."""
    parts = (hashlib.sha256(part).digest() for part in (sample.image, sample.caption.encode()))
    return hashlib.sha256(b"".join(parts)).digest()


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in index_tar(file, path.stat().st_size))


def smaller(world: World, n_train: int) -> World:
    """Return the same world with fewer samples, to try a program."""
    return replace(world, n_train=n_train, n_test=max(24, n_train // 8), side=32)
