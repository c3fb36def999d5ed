"""How well the distance of perceptual hashes tells the near-duplicates of the damaged corpus, on the seeds of research page 035.

`python -m tests.benchmarks.near_duplicates --corpus FOLDER [--keep]` makes the training samples of each seed, hashes their images, and
ranks them by the distance to the nearest other image. It writes `.alchemist/bench/near_duplicates.json`. Some copies have lost their
original, because it was damaged itself: these have nothing that they duplicate, so the figures without them stand beside those of all.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from alchemist_core.selection.duplicates import MAX_DISTANCE
from alchemist_core.shards.images import perceptual_hash
from alchemist_core.statistics import area_under_curve, estimate
from alchemist_core.training.samples import Samples
from tests.benchmarks.damaged_corpus import read_pairs, split
from tests.benchmarks.rater_real import damage
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.study import N_PICTURES, PLANS

KEPT_AREAS = Path(__file__).with_name("tables") / "near-duplicates.json"
JITTER = 6.0
"""Largest difference of a copy and its original, in levels of 256; so no copy differs by more on average."""
AIM = 0.9


def main() -> None:
    """Measure every seed; with --keep, write what git keeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of real tars")
    parser.add_argument("--keep", action="store_true", help="write the figures to where git keeps them")
    given = parser.parse_args()
    plan = PLANS["value"]
    pairs = read_pairs(given.corpus)
    found = []
    for seed in plan.seeds:
        _, chosen = split(len(pairs), seed, validation_share=plan.validation_share, n_train=N_PICTURES)
        found.append({"seed": seed, **measure(*damage(pairs.rows(chosen), seed))})
        print(found[-1], flush=True)
    if given.keep:
        KEPT_AREAS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    rows = []
    for name in ("auc", "auc_with_original", "recall", "clean_share"):
        value = estimate([one[name] for one in found])
        is_judged = name.startswith("auc")
        rows.append(
            Row(
                f"damaged: near-duplicates by perceptual hash, {name}", round(value.mean, 4), "", f"≥ {AIM}" if is_judged else None,
                value.mean >= AIM if is_judged else None, f"[{value.low:.4f}, {value.high:.4f}], {value.n} corpus seeds",
            )
        )  # fmt: skip
    write_rows("near_duplicates", rows)


def measure(train: Samples, kinds: np.ndarray) -> dict[str, float]:
    """Return the areas under the curve against undamaged samples, of all copies and of those whose original is in the corpus.

    Beside them: the share of these copies that are within the distance at which the product calls images near-duplicates, and the same
    share of the undamaged samples, many of which are an original or resemble another image.
    """
    hash_N = np.array([perceptual_hash(Image.fromarray(image)) for image in train.image_NHWC]).astype(np.uint64)
    distance_N = np.array([_nearest(hash_N, at) for at in range(len(hash_N))])
    is_copy_N, is_clean_N = kinds == "near_duplicate", kinds == "clean"
    has_original_N = np.zeros(len(kinds), bool)
    has_original_N[is_copy_N] = [_resembles_another(train.image_NHWC, int(at)) for at in np.flatnonzero(is_copy_N)]
    clean_C = distance_N[is_clean_N]
    return {
        "n_copies": int(is_copy_N.sum()),
        "n_with_original": int(has_original_N.sum()),
        "auc": round(area_under_curve(clean_C, distance_N[is_copy_N]), 4),
        "auc_with_original": round(area_under_curve(clean_C, distance_N[has_original_N]), 4),
        "recall": round(float((distance_N[has_original_N] <= MAX_DISTANCE).mean()), 4),
        "clean_share": round(float((clean_C <= MAX_DISTANCE).mean()), 4),
    }


def _nearest(hash_N: np.ndarray, at: int) -> float:
    distance_N = np.bitwise_count(hash_N ^ hash_N[at])
    return float(np.delete(distance_N, at).min())


def _resembles_another(image_NHWC: np.ndarray, at: int) -> bool:
    """Return whether another image differs by less than a copy may. A coarse grid finds the five that may."""
    coarse_ND = image_NHWC[:, ::4, ::4].reshape(len(image_NHWC), -1).astype(np.int16)
    coarse_N = np.abs(coarse_ND - coarse_ND[at]).mean(axis=1)
    coarse_N[at] = np.inf
    nearest = image_NHWC[np.argsort(coarse_N)[:5]].astype(np.int16)
    return bool((np.abs(nearest - image_NHWC[at]).mean(axis=(1, 2, 3)) < JITTER).any())


if __name__ == "__main__":
    main()
