"""A set of generated images in tars, each image with its prompt and its seed, so that metrics need no model.

A shard that exists is complete, so an interrupted run continues with the missing ones. The set is complete when the file with the hashes
of its shards exists.
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
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.telemetry import OnProgress

SHARD_SIZE = 256
_LIST = "images.json"


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one size in the order of their prompts: a whole set, or one shard of it."""

    image_NHWC: NDArray[np.uint8]
    prompts: list[str]
    seeds: list[int]

    def resized(self, side: int) -> NDArray[np.uint8]:
        """Return the images at one side, by the filter that references are resized with: Pillow's bicubic."""
        if self.image_NHWC.shape[1:3] == (side, side):
            return self.image_NHWC
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC) for image in self.image_NHWC]
        return np.stack([np.asarray(image) for image in resized])


def generate_images(
    model_path: Path,
    prompts: Sequence[str],
    *,
    first_seed: int,
    sampling: SamplingConfig | FlowSamplingConfig,
    out: Path,
    on_progress: OnProgress,
) -> None:
    """Generate one image per prompt into a set, and finish it; images of an earlier run are kept.

    Args:
        model_path: Folder that `train_downstream` made.
        prompts: One per image.
        first_seed: Seed of the first image; it increases by 1 with each image.
        sampling: Options of the sampler of the model's family.
        out: Folder of the set.
        on_progress: Called with the images done, the images planned, and a note.
    """
    missing = missing_shards(out, len(prompts))
    n_done = len(prompts) - sum(map(len, missing))
    if missing:
        from alchemist_core.training.generators import load_drawer  # noqa: PLC0415  torch only when there is work
        from alchemist_core.training.launching import own_device  # noqa: PLC0415

        draw = load_drawer(model_path, own_device())
    for places in missing:
        chunk = [prompts[place] for place in places]
        seeds = [first_seed + place for place in places]
        write_shard(out, places, ImageSet(draw(chunk, seeds, sampling), chunk, seeds))
        n_done += len(places)
        on_progress(n_done, len(prompts), "images generated")
    about: dict[str, Any] = {"first_seed": first_seed, "sampling": sampling.hashed_json()}
    finish_set(out, len(prompts), about | {"model": model_path.name})


def missing_shards(folder: Path, n_images: int) -> list[range]:
    """Return which images each shard holds that is not written yet, by their places in the set."""
    return [places for places in _shards(n_images) if not _shard_path(folder, places).exists()]


def write_shard(folder: Path, places: range, images: ImageSet) -> None:
    """Write one shard; the same images give the same bytes."""
    entries = []
    for place, image, prompt, seed in zip(places, images.image_NHWC, images.prompts, images.seeds, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        key = f"{place:09d}"
        about = json.dumps({"seed": seed}).encode()
        entries += [(f"{key}.png", buffer.getvalue()), (f"{key}.txt", prompt.encode()), (f"{key}.json", about)]
    write_tar(_shard_path(folder, places), entries)


def finish_set(folder: Path, n_images: int, about: dict[str, Any]) -> None:
    """Write the list of shards with their hashes, which marks the set as complete.

    Args:
        folder: Folder of the set.
        n_images: Number of images in all shards.
        about: Model and options that the images were generated with.
    """
    paths = [_shard_path(folder, places) for places in _shards(n_images)]
    listed = {"about": about, "n_images": n_images, "shards": {path.name: _sha256(path) for path in paths}}
    write_bytes_atomically(folder / _LIST, (json.dumps(listed, indent=2, sort_keys=True) + "\n").encode())


def is_finished(folder: Path) -> bool:
    """Return whether the set is complete."""
    return (folder / _LIST).exists()


def read_set(folder: Path) -> Iterator[ImageSet]:
    """Yield a complete set shard by shard, after comparing each shard with its hash.

    Raises:
        DataError: The set is not complete, or a shard was changed.
    """
    if not is_finished(folder):
        raise DataError(
            f"The set of images in {folder} is not complete. Run alchemist evaluate again to generate what is missing."
        )
    listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    for name, sha256 in sorted(listed["shards"].items()):
        if _sha256(folder / name) != sha256:
            raise DataError(
                f"{folder / name} was changed after it was written. Delete {folder} to generate its images again."
            )
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
        raise DataError(f"{path} is missing. Delete {path.parent} to generate its images again.")
    return file_sha256(path).hex()
