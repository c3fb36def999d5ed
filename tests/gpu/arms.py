"""STAR-40M at 256 px, trained on the best samples of a rater, on as many random ones, and on all: held-out loss over two seeds.

The corpus is a folder of image-text tars, or the synthetic scenes. No weights are published with this repository, so the tokenizer has
random convolutions and a codebook that is fitted to the corpus; losses compare with each other only.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from alchemist_core.metrics.heldout import heldout_losses
from alchemist_core.models.config import published_tokenizer
from alchemist_core.models.published.tokenizer import export_tokenizer, load_tokenizer
from alchemist_core.models.quantiser import fit_codebook
from alchemist_core.training.downstream_training import train_downstream
from alchemist_core.training.launching import own_device
from alchemist_core.training.pinning import pin
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import Scorer
from tests.benchmarks.rows import Row
from tests.benchmarks.scenes_study import load_study, read_tars
from tests.gpu.networks import preset_config
from tests.gpu.parts import Given, release_memory

RETENTION, SEEDS = 0.2, (0, 1)
N_FITTED = 512
MOST = 6000
"""Images of a corpus; in memory each takes 200 kB."""


def measure(given: Given) -> Iterator[Row]:
    """Train the rater and the six models."""
    train, validation, test = map(_with_keys, _read(given, given.pick(256, 16)))
    rater, cache = given.place / "rater", given.place / "codes"
    preset = {"text_encoder": "words", "mixed_precision": given.pick("bf16", "no")}
    lengths = given.pick(
        {"proxy_warmup_steps": 100, "max_train_steps": 200}, {"proxy_warmup_steps": 1, "max_train_steps": 1}
    )
    config = preset_config(given, "train_rater", "gpu24", **preset, **lengths)
    if config.tokenizer_weights is not None:
        _fit(Path(config.tokenizer_weights), train)
    pinned = pin(config)
    train_rater(pinned, train, validation, out=rater, on_progress=lambda *_: None, cache=cache)
    score_N = Scorer.load(rater, own_device()).score(train.image_NHWC, train.captions)
    release_memory()
    n_kept = max(2, round(RETENTION * len(train)))
    random_N = np.random.default_rng(0).permutation(len(train))
    arms = {"subset": np.argsort(-score_N)[:n_kept], "random": random_N[:n_kept], "full": np.arange(len(train))}
    recipe = given.pick(
        {"batch_size": 64, "gradient_accumulation_steps": 1, "num_train_epochs": 10}, {"num_train_epochs": 1}
    )
    losses: dict[str, list[float]] = {}
    for arm, index_K in arms.items():
        for seed in SEEDS:
            out = given.place / f"{arm}-{seed}"
            model = preset_config(given, "train_downstream", "gpu24", **preset, **recipe, seed=seed)
            train_downstream(
                pin(model), train.rows(index_K), tokenizer_from=rater, out=out, on_progress=lambda *_: None, cache=cache
            )
            losses.setdefault(arm, []).append(float(heldout_losses(out, test).mean()))
        detail = f"seeds {SEEDS}: {', '.join(f'{loss:.4f}' for loss in losses[arm])}; {len(index_K):,} samples"
        yield Row(f"{arm}: held-out loss", float(np.mean(losses[arm])), "nats/token", None, None, detail)
    gain = float(np.mean(losses["random"]) - np.mean(losses["subset"]))
    corpus = given.corpus or "synthetic scenes, scaled up"
    yield Row(
        "random minus subset", gain, "nats/token", None, None, f"corpus: {corpus}; more than 0: the subset is better"
    )


def _read(given: Given, side: int) -> tuple[Samples, Samples, Samples]:
    """Return training, validation and held-out samples; those of a folder are split at random."""
    if given.corpus is None:
        sizes = given.pick(
            {"n_train": 4000, "n_validation": 1500, "n_test": 500}, {"n_train": 10, "n_validation": 4, "n_test": 2}
        )
        study = load_study(given.place / "scenes", seed=0, side=side, **sizes)
        return study.train, study.validation, study.test
    samples, _ = read_tars(Path(given.corpus), side)
    order_N = np.random.default_rng(0).permutation(len(samples))[: given.pick(MOST, 16)]
    stops = np.cumsum([len(order_N) * 2 // 3, len(order_N) // 4])
    train, validation, test = (samples.rows(index_N) for index_N in np.split(order_N, stops))
    return train, validation, test


def _with_keys(samples: Samples) -> Samples:
    """Name images by their hashes, so that all trainings share their codes in the cache."""
    keys = b"".join(hashlib.sha256(image.tobytes()).digest() for image in samples.image_NHWC)
    return Samples(samples.image_NHWC, samples.captions, np.frombuffer(keys, np.uint8).reshape(-1, 32))


def _fit(path: Path, samples: Samples) -> None:
    """Fit the codebook of a published tokenizer with random weights, and write it back."""
    tokenizer = load_tokenizer(path, published_tokenizer()).to(own_device())
    with torch.no_grad():
        some = [samples.image_NHWC[at : at + 16] for at in range(0, min(N_FITTED, len(samples)), 16)]
        feature_NDHW = torch.cat([tokenizer.features(image_BHWC) for image_BHWC in some])
    fit_codebook(tokenizer.quantiser.cpu(), feature_NDHW.cpu(), n_rounds=5, generator=np.random.default_rng(0))
    torch.save(export_tokenizer(tokenizer.cpu()), path)
