"""The acceptance report of a rater: the checks that it must pass before it may be promoted, measured on clean samples.

The caller passes a loaded rater, samples of the validation dataset, and the metrics of the rater's training.

Letters: N samples.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.rating.acceptance import AcceptanceLimits
from alchemist_core.rating.config import ScoringRule
from alchemist_core.statistics import area_under_curve, interval_of_area, spearman
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.samples import Samples

_GRID = 4


def plain_images(image_NHW3: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "N H W 3"]:
    """Fill each image with its own mean colour, so that the caption has no content to match.

    >>> plain_images(np.array([[[[0, 0, 0], [10, 20, 30]]]], np.uint8)).tolist()
    [[[[5, 10, 15], [5, 10, 15]]]]
    """
    mean_N113 = image_NHW3.mean((1, 2), keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(mean_N113, image_NHW3.shape).copy()


def chaotic_images(image_NHW3: UInt8[np.ndarray, "N H W 3"], seed: int) -> UInt8[np.ndarray, "N H W 3"]:
    """Fill a grid with pieces of other images, each from a random position, and add noise.

    Args:
        image_NHW3: Images, of at least 4 pixels a side.
        seed: Seed of images, positions and noise.
    """
    generator = np.random.default_rng(seed)
    n, height, width, _ = image_NHW3.shape
    tall, wide = height // _GRID, width // _GRID
    chaotic = image_NHW3.copy()
    for row in range(_GRID):
        for column in range(_GRID):
            source_N = generator.integers(0, n, n)
            top, left = generator.integers(0, height - tall + 1), generator.integers(0, width - wide + 1)
            piece_NHW3 = image_NHW3[source_N, top : top + tall, left : left + wide]
            chaotic[:, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = piece_NHW3
    noise = generator.integers(-48, 49, chaotic.shape)
    noisy: UInt8[np.ndarray, "N H W 3"] = np.clip(chaotic.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return noisy


def shuffled_captions(captions: list[str], seed: int) -> list[str]:
    """Give each image another image's caption; images with equal captions may keep theirs.

    >>> sorted(shuffled_captions(["a", "b", "c"], 0)) == ["a", "b", "c"]
    True
    """
    shift = int(np.random.default_rng(seed).integers(1, len(captions))) if len(captions) > 1 else 0
    return captions[shift:] + captions[:shift]


_SEED = 20260101
_OTHER_SHAPE = 32
_LEAST_HELD_OUT = 2


class HealthCheck(NamedTuple):
    """One check of a rater: the measured value and its bounds (None: no bound); from `warns_from` on it warns instead of failing."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    note: str = ""
    warns_from: float | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the value is within its bounds; a value that was not measured passes."""
        if self.value is None:
            return True
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)

    @property
    def is_warning(self) -> bool:
        """Whether the value is one to warn of."""
        return self.value is not None and self.warns_from is not None and self.value >= self.warns_from

    def as_json(self) -> dict[str, Any]:
        """Return the check as the acceptance report stores it."""
        return {**self._asdict(), "is_ok": self.is_ok, "is_warning": self.is_warning}


class SampleScorer(Protocol):
    """Scores samples: `training.scoring.Scorer`."""

    def score(self, image_NHWC: Any, captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Return each sample's score."""
        ...


class EncodedScorer(Protocol):
    """Scores samples from the codes of their images: `training.scoring.Scorer`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer."""
        ...

    def score_codes(self, code_NS: Int64[torch.Tensor, "N S"], captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Return each sample's score."""
        ...


class ReportingScorer:
    """A scorer that encodes each image once for all checks, and reports after each of the times that they score all samples.

    Encoding takes most of the time at full size. Whether codes depend on the batch is a check of its own (`flipped_codes`).

    Args:
        scorer: The scorer.
        n_samples: Number of clean samples.
        n_held_out: How many of them are held out: the checks with synthetic defects score these alone.
        on_progress: Called with the images scored, the images to score in all checks, and a note.
    """

    N_SCORINGS, N_HELD_OUT_SCORINGS = 3, 3

    def __init__(
        self, scorer: EncodedScorer, n_samples: int, on_progress: OnProgress, *, n_held_out: int | None = None
    ) -> None:
        self._scorer, self._on_progress = scorer, on_progress
        n_held_out = n_samples if n_held_out is None else n_held_out
        self._n_done, self._n_images = 0, self.N_SCORINGS * n_samples + self.N_HELD_OUT_SCORINGS * n_held_out
        self._codes: dict[bytes, Int64[torch.Tensor, " S"]] = {}

    def encode(self, image_NHWC: UInt8[np.ndarray, "N H W 3"]) -> Int64[torch.Tensor, "N S"]:
        """Return the codes of images; those of images that were encoded before are remembered."""
        hashes = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in image_NHWC]
        new = list({key: at for at, key in enumerate(hashes) if key not in self._codes}.items())
        if new:
            code_NS = self._scorer.tokenizer.encode(image_NHWC[[at for _, at in new]])
            self._codes |= {key: codes for (key, _), codes in zip(new, code_NS, strict=True)}
        return torch.stack([self._codes[key] for key in hashes])

    def score(self, image_NHWC: UInt8[np.ndarray, "N H W 3"], captions: list[str]) -> Float32[np.ndarray, " N"]:
        """Return each sample's score."""
        score_N = self._scorer.score_codes(self.encode(image_NHWC), captions)
        self._n_done += len(captions)
        self._on_progress(self._n_done, self._n_images, "images scored for the checks")
        return score_N


class Training(NamedTuple):
    """Facts about a rater's training."""

    metrics: dict[str, Any]
    """The metrics of the training, with the history of its steps."""
    rule: ScoringRule
    """Scoring rule; a rater of rule `loss` may prefer plain images."""
    group_size: int
    n_held_out: int | None = None
    """How many of the clean samples, which come in the order of their hash, were held out, the first ones; None: all."""

    def count_held_out(self, n_samples: int) -> int:
        """Return how many of the first validation samples, in the order of their hash, trained nothing.

        Raters from before this number was stored held out a tenth of at least these samples.
        """
        n_held_out = int(self.metrics.get("n_held_out", n_samples // 10))
        return min(n_samples, max(n_held_out, min(_LEAST_HELD_OUT, n_samples)))


@torch.inference_mode()
def certify(
    scorer: SampleScorer,
    clean: Samples,
    training: Training,
    *,
    twin: SampleScorer | None = None,
    tokenizer: Tokenizer | None = None,
    limits: AcceptanceLimits | None = None,
) -> list[HealthCheck]:
    """Return the checks of a rater's acceptance report.

    The checks with synthetic defects are measured on held-out samples: on samples that trained the rater, it distinguishes wrong
    captions better than on any other one.

    Args:
        scorer: The rater.
        clean: Samples of the validation dataset, which the user considers good.
        training: Facts about its training.
        twin: A rater of the same config and data but another seed, if one was trained.
        tokenizer: The rater's tokenizer.
        limits: The bounds; None: the defaults.
    """
    limits = limits or AcceptanceLimits()
    held_out = clean if training.n_held_out is None else clean.rows(np.arange(training.n_held_out))
    score_N = scorer.score(clean.image_NHWC, clean.captions)
    return [
        *_invariance(scorer, clean, score_N, limits),
        *(_codes(tokenizer, clean, limits) if tokenizer is not None else []),
        HealthCheck(
            "score_spread", float(score_N.std()), limits.min_score_spread, None, "standard deviation over clean samples"
        ),
        *_training(training, limits),
        *_synthetic_defects(scorer, held_out, score_N[: len(held_out)], (training.rule, limits)),
        _stability(score_N, clean, twin, limits),
    ]


def _invariance(
    scorer: SampleScorer, clean: Samples, score_N: Float32[np.ndarray, " N"], limits: AcceptanceLimits
) -> list[HealthCheck]:
    spread = max(float(score_N.std()), 1e-12)
    backwards = clean.rows(np.arange(len(clean))[::-1].copy())
    moved_N = scorer.score(backwards.image_NHWC, backwards.captions)[::-1] - score_N
    broken = clean.image_NHWC.copy()
    broken[::2] = np.random.default_rng(_SEED).integers(0, 256, broken[::2].shape, np.uint8)
    captions = ["" if place % 2 == 0 else caption for place, caption in enumerate(clean.captions)]
    beside_N = (scorer.score(broken, captions) - score_N)[1::2]
    change, beside = float(np.abs(moved_N).max()) / spread, float(np.abs(beside_N).max(initial=0))
    return [
        HealthCheck("batch_invariance", change, None, limits.max_batch_change, "largest change by batch composition"),
        HealthCheck(
            "corruption_isolation",
            beside,
            None,
            limits.max_neighbour_change,
            "change by defective samples in the same batch",
        ),
    ]


def _codes(tokenizer: Tokenizer, clean: Samples, limits: AcceptanceLimits) -> list[HealthCheck]:
    """Count the images whose codes change with the batch composition (not allowed), and with the batch shape (only reported)."""
    image_NHWC = clean.image_NHWC
    code_NS = tokenizer.encode(image_NHWC)
    backwards_NS = tokenizer.encode(image_NHWC[::-1].copy()).flip(0)
    chunks = [image_NHWC[start : start + _OTHER_SHAPE] for start in range(0, len(image_NHWC), _OTHER_SHAPE)]
    shaped_NS = torch.cat([tokenizer.quantise(tokenizer.features(chunk))[0] for chunk in chunks])
    by_composition, by_shape = (int((codes != code_NS).any(1).sum()) for codes in (backwards_NS, shaped_NS))
    return [
        HealthCheck(
            "flipped_codes", by_composition, None, limits.max_flipped_codes,
            f"by batch composition; {by_shape} of {len(clean)} in batches of {_OTHER_SHAPE}",
        )
    ]  # fmt: skip


def _training(training: Training, limits: AcceptanceLimits) -> list[HealthCheck]:
    metrics, rule, group_size, _ = training
    correlation = metrics["spearman_score_minus_loss"]
    # A rater of rule `loss` ranks by loss by definition.
    limit = None if rule.ranks_plain_first else limits.max_loss_correlation
    return [
        *(_weights(metrics["history"], group_size, limits) if rule.trains_rater else []),
        HealthCheck("spearman_score_minus_loss", abs(correlation), None, limit, "1: the rater only ranks by loss"),
    ]


def _weights(history: Sequence[dict[str, float]], group_size: int, limits: AcceptanceLimits) -> list[HealthCheck]:
    last = history[-max(1, len(history) // 10) :]
    size = float(np.mean([step["effective_sample_size"] for step in last])) / group_size
    entropy = float(np.mean([step["entropy"] for step in last])) / np.log(group_size)
    sizes = limits.min_effective_samples / group_size, limits.max_effective_ratio
    entropies = limits.min_entropy_ratio, limits.max_entropy_ratio
    return [
        HealthCheck("effective_sample_size", size, *sizes, "share of its group, last tenth of the steps"),
        HealthCheck("entropy", float(entropy), *entropies, "share of the uniform weights', last tenth of the steps"),
    ]


def _synthetic_defects(
    scorer: SampleScorer,
    clean: Samples,
    score_N: Float32[np.ndarray, " N"],
    settings: tuple[ScoringRule, AcceptanceLimits],
) -> list[HealthCheck]:
    rule, limits = settings
    plain_N = scorer.score(plain_images(clean.image_NHWC), clean.captions)
    chaotic_N = scorer.score(chaotic_images(clean.image_NHWC, _SEED), clean.captions)
    other_N = scorer.score(clean.image_NHWC, shuffled_captions(clean.captions, _SEED))
    least_plain = None if rule.ranks_plain_first else limits.min_plain_auc
    on = f"{len(clean)} held-out samples"
    rows = (
        ("recall_of_plain", plain_N, least_plain, f"AUC, clean against plain, {on}"),
        ("recall_of_chaotic", chaotic_N, limits.min_chaotic_auc, f"AUC, clean against chaotic, {on}"),
        ("caption_sensitivity", other_N, limits.min_caption_auc, f"AUC, own against another's caption, {on}"),
    )
    return [HealthCheck(name, area_under_curve(score_N, bad_N), least, None, note) for name, bad_N, least, note in rows]


def _stability(
    score_N: Float32[np.ndarray, " N"], clean: Samples, twin: SampleScorer | None, limits: AcceptanceLimits
) -> HealthCheck:
    least = limits.min_rank_stability
    if twin is None:
        note = "not measured: train the same config with another seed"
        return HealthCheck("rank_stability", None, least, None, note)
    same = spearman(score_N, twin.score(clean.image_NHWC, clean.captions))
    return HealthCheck("rank_stability", same, least, None, "Spearman with a rater of another seed, over clean samples")


def check_resolution(
    resolution: int, dataset: str, median_side: int | None, limits: AcceptanceLimits | None = None
) -> HealthCheck:
    """Compare the side of the images that the rater reads with the dataset's: small copies hide what only full size shows.

    >>> check_resolution(16, "web", 512).is_warning, check_resolution(256, "web", 512).is_warning
    (True, False)
    """
    warns_from = (limits or AcceptanceLimits()).warn_resolution_ratio
    if median_side is None:
        return HealthCheck(
            "resolution_ratio", None, None, None, f"not measured: {dataset} has no samples left", warns_from
        )
    note = (
        f"The rater reads images of {resolution} px, but the median short side of those of {dataset} is {median_side:,} px: "
        "what only shows at full size does not influence a score"
    )
    return HealthCheck("resolution_ratio", median_side / resolution, None, None, note, warns_from)


MIN_FLAGS, MIN_BAD_FLAGS = 20, 10
"""Flags from which on the rater is compared with people: in all, and of samples that people call bad."""


class Judged(NamedTuple):
    """Scores of samples that people have judged."""

    bad_N: Float32[np.ndarray, " N"]
    """Of those flagged bad, wrong_caption or unsafe."""
    good_N: Float32[np.ndarray, " N"]
    """Of those flagged good; or of unflagged ones."""
    is_flagged_good: bool


def check_flags(judged: Judged) -> HealthCheck:
    """Compare a rater with what people say: does it rank samples that they call bad below the others? It is only reported.

    >>> check_flags(Judged(np.float32([1] * 10), np.float32([2] * 10), True)).note
    'AUC, 10 flagged good against 10 flagged bad, wrong_caption or unsafe; 95% interval 0.800 to 1.000'
    >>> check_flags(Judged(np.float32([1] * 12), np.float32([2] * 99), False)).note
    'not measured: 12 flags, 12 of them bad, wrong_caption or unsafe (at least 20 and 10)'
    """
    n_bad, n_good = len(judged.bad_N), len(judged.good_N)
    of_people = n_bad + (n_good if judged.is_flagged_good else 0)
    if n_bad < MIN_BAD_FLAGS or n_good < MIN_BAD_FLAGS or of_people < MIN_FLAGS:
        note = f"not measured: {of_people} flags, {n_bad} of them bad, wrong_caption or unsafe (at least {MIN_FLAGS} and {MIN_BAD_FLAGS})"
        return HealthCheck("auc_of_flags", None, None, None, note)
    area = area_under_curve(judged.good_N, judged.bad_N)
    low, high = interval_of_area(area, n_good, n_bad)
    note = (
        f"AUC, {n_good} {'flagged good' if judged.is_flagged_good else 'unflagged'} against {n_bad} flagged bad, wrong_caption or unsafe; "
        f"95% interval {low:.3f} to {high:.3f}"
    )
    return HealthCheck("auc_of_flags", area, None, None, note)


def failures(checks: Sequence[HealthCheck]) -> list[str]:
    """Describe the failed checks, with value and bound."""
    return [
        f"{check.name} {check.value:.4g} (must be {_bounds(check)}; {check.note})"
        for check in checks
        if not check.is_ok
    ]


def _bounds(check: HealthCheck) -> str:
    parts = [f"≥ {check.low:g}" if check.low is not None else "", f"≤ {check.high:g}" if check.high is not None else ""]
    return " and ".join(part for part in parts if part)
