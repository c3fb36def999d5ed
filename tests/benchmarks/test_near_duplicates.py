"""Near-duplicates are told by the distance of perceptual hashes, and the page has the figures that git keeps."""

import json

import numpy as np

from alchemist_core.statistics import estimate
from alchemist_core.training.samples import Samples
from tests.benchmarks.near_duplicates import AIM, KEPT_AREAS, measure
from tests.benchmarks.promises_page import RESEARCH
from tests.benchmarks.study import PLANS


def test_a_copy_is_told_from_other_images_if_its_original_is_in_the_corpus() -> None:
    generator = np.random.default_rng(0)
    # Coarse patterns, since a perceptual hash ignores fine ones.
    images = generator.integers(0, 256, (12, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images[10] = np.clip(images[0] + generator.integers(-6, 7, images[0].shape), 0, 255)
    kinds = np.array(["clean"] * 10 + ["near_duplicate"] * 2)
    found = measure(Samples(images.astype(np.uint8), [str(at) for at in range(12)]), kinds)
    assert (found["n_copies"], found["n_with_original"]) == (2, 1)
    # The original is as near to its copy as the copy to it: nine samples are right, and one is a tie.
    assert found["auc_with_original"] == 0.95
    assert found["auc"] < 0.95
    assert (found["recall"], found["clean_share"]) == (1.0, 0.1)


def test_the_page_has_the_figures_that_git_keeps() -> None:
    kept = json.loads(KEPT_AREAS.read_text("utf-8"))
    assert tuple(one["seed"] for one in kept) == PLANS["value"].seeds
    words = {
        name: f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
        for name in ("auc", "auc_with_original")
        if (value := estimate([one[name] for one in kept])).low is not None
    }
    recall, clean = (f"{estimate([one[name] for one in kept]).mean:.0%}" for name in ("recall", "clean_share"))
    page = " ".join((RESEARCH / "035-fused-scores.md").read_text("utf-8").split())
    lost = 1 - sum(one["n_with_original"] for one in kept) / sum(one["n_copies"] for one in kept)
    assert f"an AUC of {words['auc_with_original']} (aim {AIM:.2f})" in page
    assert f"{recall} of them are within 2 bits" in page
    assert f"so are {clean} of the undamaged images" in page
    assert f"{lost:.0%} of the copies have no original" in page
    assert f"over all copies the AUC is {words['auc']}" in page
