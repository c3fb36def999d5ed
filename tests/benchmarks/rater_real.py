"""Quality of a rater's scores on real images, some of which were damaged on purpose: the study of the synthetic corpus on real data.

`python -m tests.benchmarks.rater_real --corpus FOLDER [--seeds 0,1,2]` reads the tars of a folder, keeps a third as validation data,
damages half of the rest by known shares and trains one rater per seed. It writes `.alchemist/bench/rater_real.json`.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from alchemist_core.statistics import area_under_curve, mean_ranks
from alchemist_core.training.acceptance_report import plain_images, shuffled_captions
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import Scorer
from tests.benchmarks.rows import Row, interval, write_rows
from tests.benchmarks.scenes_study import read_tars

SHARES = {"blank": 0.1, "noise": 0.1, "collage": 0.1, "wrong_caption": 0.15, "near_duplicate": 0.05}


def main() -> None:
    """Train one rater per seed and write how well it distinguishes clean samples from each kind of damage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--text-encoder", default="minilm")
    given = parser.parse_args()
    pairs, _ = read_tars(given.corpus, given.resolution)
    config = {"resolution": given.resolution, "text_encoder": given.text_encoder}
    found = [_study(pairs, int(seed), config) for seed in given.seeds.split(",")]
    rows = []
    for kind in SHARES:
        mean, half = interval([aucs[kind][0] for aucs in found])
        ranks = ", ".join(f"{aucs[kind][1]:.2f}" for aucs in found)
        rows.append(
            Row(f"real: AUC against {kind}", round(mean, 4), "AUC", None, None, f"± {half:.4f}; mean ranks {ranks}")
        )
    write_rows("rater_real", rows)


def damage(pairs: Samples, seed: int, shares: Mapping[str, float] = SHARES) -> tuple[Samples, np.ndarray]:
    """Damage known shares of some samples; return the damage of each."""
    generator = np.random.default_rng(seed)
    kinds = np.full(len(pairs), "clean", dtype="<U16")
    order, start = generator.permutation(len(pairs)), 0
    images, captions = pairs.image_NHWC.copy(), np.array(pairs.captions, dtype=object)
    for kind, share in shares.items():
        rows = order[start : start + round(share * len(pairs))]
        start += len(rows)
        kinds[rows] = kind
        images[rows], captions[rows] = _DAMAGES[kind](pairs, rows, generator)
    return Samples(images, captions.tolist()), kinds


def _blank(pairs: Samples, rows: np.ndarray, _generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    own = pairs.rows(rows)
    return plain_images(own.image_NHWC), own.captions


def _noise(pairs: Samples, rows: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    own = pairs.rows(rows)
    drowned = 0.25 * own.image_NHWC + 0.75 * generator.integers(0, 256, own.image_NHWC.shape)
    return drowned.astype(np.uint8), own.captions


def _collage(pairs: Samples, rows: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    own = pairs.rows(rows)
    images, third = own.image_NHWC.copy(), own.image_NHWC.shape[1] // 3
    small = pairs.image_NHWC[:, ::3, ::3][:, :third, :third]
    for down in range(0, 3 * third, third):
        for right in range(0, 3 * third, third):
            others = generator.integers(0, len(pairs), len(rows))
            images[:, down : down + third, right : right + third] = small[others]
    return images, own.captions


def _wrong_caption(pairs: Samples, rows: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    own = pairs.rows(rows)
    return own.image_NHWC, shuffled_captions(own.captions, int(generator.integers(2**31)))


def _near_duplicate(pairs: Samples, rows: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    other = pairs.rows(generator.integers(0, len(pairs), len(rows)))
    jittered = other.image_NHWC.astype(int) + generator.integers(-6, 7, other.image_NHWC.shape)
    return np.clip(jittered, 0, 255).astype(np.uint8), other.captions


def _blur(pairs: Samples, rows: np.ndarray, _generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    own = pairs.rows(rows)
    radius = own.image_NHWC.shape[1] / 16
    blurred = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)) for image in own.image_NHWC]
    return np.stack([np.asarray(image) for image in blurred]), own.captions


_DAMAGES = {
    "blank": _blank,
    "noise": _noise,
    "collage": _collage,
    "wrong_caption": _wrong_caption,
    "near_duplicate": _near_duplicate,
    "blur": _blur,
}


def _study(pairs: Samples, seed: int, config: dict[str, Any]) -> dict[str, tuple[float, float]]:
    order = np.random.default_rng(seed).permutation(len(pairs))
    third = len(pairs) // 3
    validation = pairs.rows(order[:third])
    train, kinds = damage(pairs.rows(order[third:]), seed)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rater"
        full = RaterTrainingConfig.model_validate(config | {"seed": seed})
        train_rater(full, train, validation, out=out, on_progress=lambda *_: None)
        score_N = Scorer.load(out).score(train.image_NHWC, train.captions)
    rank_N = 1 - mean_ranks(score_N) / len(score_N)
    found = {
        kind: (area_under_curve(score_N[kinds == "clean"], score_N[kinds == kind]), float(rank_N[kinds == kind].mean()))
        for kind in SHARES
    }
    print(f"seed {seed}: {time.perf_counter() - began:.0f} s {found}", flush=True)
    return found


if __name__ == "__main__":
    main()
