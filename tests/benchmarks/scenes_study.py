"""A synthetic corpus in memory with the known value of each sample, on which the rater's studies train."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.shards.images import decode_image
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.statistics import area_under_curve
from alchemist_core.training.samples import Samples

KINDS = ("plain", "chaotic", "wrong_caption")


class Study(NamedTuple):
    """Training samples with their kinds, and the clean validation and test samples."""

    train: Samples
    kinds: np.ndarray
    validation: Samples
    test: Samples


def load_study(root: Path, *, seed: int, side: int = 16, **sizes: int) -> Study:
    """Make the corpus of a seed under `root`, once, and decode it to `side` pixels."""
    folder = root / f"scenes-{seed}"
    draw_scenes(folder, seed=seed, **sizes)
    truth = pq.read_table(folder / "truth.parquet").to_pydict()
    kind_of = dict(zip(truth["pair_hash"], truth["kind"], strict=True))
    parts = {name: read_tars(folder / name, side) for name in ("train", "validation", "test")}
    kinds = np.array([kind_of[pair_hash] for pair_hash in parts["train"][1]])
    return Study(parts["train"][0], kinds, parts["validation"][0], parts["test"][0])


def kind_aucs(score_N: np.ndarray, kind_N: np.ndarray) -> dict[str, float]:
    """Return how well a score distinguishes informative samples from each kind of damage."""
    good = score_N[kind_N == "informative"]
    return {kind: area_under_curve(good, score_N[kind_N == kind]) for kind in KINDS}


def read_tars(folder: Path, side: int) -> tuple[Samples, list[bytes]]:
    """Decode every sample of a folder's tars; also return their pair hashes."""
    images, captions, hashes = [], [], []
    for path in sorted(folder.rglob("*.tar")):
        with path.open("rb") as file:
            pairs = list(read_samples(file, path.stat().st_size, Reading(has_perceptual_hash=False)))
            for pair in pairs:
                if not isinstance(pair, Sample):
                    continue
                picture = next(member for member in pair.record.files if member.ext in IMAGE_EXTS)
                file.seek(picture.offset)
                images.append(decode_image(file.read(picture.size), side))
                captions.append(pair.caption)
                hashes.append(pair.pair_hash)
    return Samples(np.stack(images), captions), hashes
