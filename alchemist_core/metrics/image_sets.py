"""Generated images as tars: each beside its prompt and its seed, so that a metric needs no model. Knows no model and no metric.

A shard that exists is whole; the set is whole when its list of shards and their hashes exists.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.files import file_sha256, write_bytes_atomically
from alchemist_core.shards.tar_writer import write_tar

SHARD_SIZE = 256
_LIST = "images.json"


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one size in the order of their prompts: a set, or one shard of it."""

    image_NHWC: NDArray[np.uint8]
    prompts: list[str]
    seeds: list[int]

    def resized(self, side: int) -> NDArray[np.uint8]:
        """Bring every image to a square by Pillow's bicubic filter, as references are; one that has the side stays as it is."""
        if self.image_NHWC.shape[1:3] == (side, side):
            return self.image_NHWC
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in self.image_NHWC]
        return np.stack([np.asarray(image) for image in resized])


def missing_shards(folder: Path, n_images: int) -> list[range]:
    """Return the places in the set of those shards that are not written yet."""
    return [places for places in _shards(n_images) if not _shard_path(folder, places).exists()]


def write_shard(folder: Path, places: range, images: ImageSet) -> None:
    """Write the images of some places; the same images give the same bytes."""
    entries = []
    for place, image, prompt, seed in zip(places, images.image_NHWC, images.prompts, images.seeds, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        key = f"{place:09d}"
        about = json.dumps({"seed": seed}).encode()
        entries += [(f"{key}.png", buffer.getvalue()), (f"{key}.txt", prompt.encode()), (f"{key}.json", about)]
    write_tar(_shard_path(folder, places), entries)


def finish_set(folder: Path, n_images: int, about: dict[str, Any]) -> None:
    """Declare the set whole.

    Args:
        folder: Where its shards lie.
        n_images: Images of all shards.
        about: What the images were made from, in words and hashes.
    """
    paths = [_shard_path(folder, places) for places in _shards(n_images)]
    listed = {"about": about, "n_images": n_images, "shards": {path.name: _sha256(path) for path in paths}}
    write_bytes_atomically(folder / _LIST, (json.dumps(listed, indent=2, sort_keys=True) + "\n").encode())


def is_finished(folder: Path) -> bool:
    """Tell whether every image of a set is there."""
    return (folder / _LIST).exists()


def read_set(folder: Path) -> Iterator[ImageSet]:
    """Yield a whole set shard by shard, each compared with the hash taken when it was made.

    Raises:
        DataError: The set is not whole, or a shard was changed.
    """
    if not is_finished(folder):
        raise DataError(f"{folder} holds no whole set of images; run alchemist evaluate again to draw what is missing")
    listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    for name, sha256 in sorted(listed["shards"].items()):
        if _sha256(folder / name) != sha256:
            raise DataError(f"{folder / name} was changed after it was made; delete {folder} to have it drawn again")
        images, prompts, seeds = zip(*_read_shard(folder / name), strict=True)
        yield ImageSet(np.stack(images), list(prompts), list(seeds))


def _read_shard(path: Path) -> Iterator[tuple[NDArray[np.uint8], str, int]]:
    with tarfile.open(path) as tar:
        members = [tar.extractfile(info) for info in tar]
        data = [member.read() for member in members if member is not None]
    for png, text, about in zip(data[::3], data[1::3], data[2::3], strict=True):
        yield np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), text.decode(), int(json.loads(about)["seed"])


def _shards(n_images: int) -> Sequence[range]:
    return [range(start, min(start + SHARD_SIZE, n_images)) for start in range(0, n_images, SHARD_SIZE)]


def _shard_path(folder: Path, places: range) -> Path:
    return folder / f"{places.start // SHARD_SIZE:06d}.tar"


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} is missing; delete {path.parent} to have its images drawn again")
    return file_sha256(path).hex()
