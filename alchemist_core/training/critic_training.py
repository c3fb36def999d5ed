"""Training a critic on features of frozen encoders, with early stopping on held-out samples.

Letters: N samples · D C features of the two encoders · B samples of a step · K neighbours · R reference captions.
"""

import copy
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from alchemist_core.errors import DataError
from alchemist_core.models.critic import Critic, FrozenEncoders, caption_hashes
from alchemist_core.models.critic_config import CriticTrainingConfig
from alchemist_core.models.features import Features
from alchemist_core.models.image_text import Head
from alchemist_core.statistics import area_under_curve, quantiles_of
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.telemetry import OnProgress
from alchemist_core.training.image_text_training import SHARPEST, SHARPNESS, contrast
from alchemist_core.training.launching import start_from_seed
from alchemist_core.training.sample_reading import StoredSamples
from alchemist_core.training.samples import batch_index

_ONE_IN, _LEAST_TRAIN, _LEAST_HELDOUT = 10, 20, 5
"""One caption in _ONE_IN is held out. A critic needs at least so many different captions to train on and to hold out."""
_N_NEIGHBOURS, _MOST_NEIGHBOURS = 16, 16_384
"""Hard negatives are drawn from the nearest captions, which are searched among at most this many captions."""
_N_WRONG = 8
"""Number of other captions that each held-out image is scored with."""


class Encoded(NamedTuple):
    """Samples after the frozen encoders."""

    image_ND: Features
    text_NC: Features
    captions: list[str]

    def take(self, index_M: NDArray[np.int64]) -> "Encoded":
        """Gather some samples."""
        return Encoded(self.image_ND[index_M], self.text_NC[index_M], [self.captions[at] for at in index_M])

    def joined(self, other: "Encoded") -> "Encoded":
        """Return these samples followed by others."""
        image_ND, text_NC = (
            np.concatenate([self.image_ND, other.image_ND]),
            np.concatenate([self.text_NC, other.text_NC]),
        )
        return Encoded(image_ND, text_NC, [*self.captions, *other.captions])


class HeldoutScores(NamedTuple):
    """Scores of held-out samples, and of their images with the captions of other ones."""

    right_N: NDArray[np.float32]
    wrong_M: NDArray[np.float32]

    @property
    def auc(self) -> float:
        """How often a right one is higher than a wrong one."""
        return area_under_curve(self.right_N, self.wrong_M)

    def quantiles(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the quantiles of both from 0% to 100%, in steps of 1%."""
        return tuple(quantiles_of(self.right_N)), tuple(quantiles_of(self.wrong_M))


def encode_samples(
    rows: SampleTable, encoders: FrozenEncoders, on_progress: OnProgress
) -> tuple[NDArray[np.int64], Encoded]:
    """Encode the samples whose image can be decoded; return their rows, in ascending order, and the features."""
    index_M, image_MD = encode_images(rows, encoders, on_progress)
    captions = [rows[place].caption for place in index_M.tolist()]
    return index_M, Encoded(image_MD, encoders.encode_texts(captions), captions)


def encode_images(
    rows: SampleTable, encoders: FrozenEncoders, on_progress: OnProgress
) -> tuple[NDArray[np.int64], Features]:
    """Do the same with images alone."""
    image_ND = np.zeros((len(rows), encoders.dims[0]), np.float32)
    is_read_N = np.zeros(len(rows), np.bool_)
    for place_M, image_MHWC in StoredSamples(rows, encoders.side, lambda *_: None).read(np.arange(len(rows))):
        image_ND[place_M], is_read_N[place_M] = encoders.encode_images(image_MHWC), True
        on_progress(int(is_read_N.sum()), len(rows), "encoded")
    index_M = np.flatnonzero(is_read_N)
    return index_M, image_ND[index_M]


def hold_out(captions: Sequence[str], image_hashes: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples into those to train on and those held out; both sides have no caption and no image in common.

    A caption is held out by its hash, so that the split does not depend on the other samples.

    Raises:
        DataError: One side has too few captions.
    """
    is_heldout = [_is_held_out(caption) for caption in captions]
    heldout_images = {image for image, is_out in zip(image_hashes, is_heldout, strict=True) if is_out}
    train = [at for at, is_out in enumerate(is_heldout) if not is_out and image_hashes[at] not in heldout_images]
    heldout = [at for at, is_out in enumerate(is_heldout) if is_out]
    for side, name, least in ((train, "train on", _LEAST_TRAIN), (heldout, "hold out", _LEAST_HELDOUT)):
        if (found := len({captions[at] for at in side})) < least:
            raise DataError(
                f"The validation dataset has {found} different captions to {name}, but at least {least} are needed. "
                "Give a larger validation dataset."
            )
    return np.array(train), np.array(heldout)


def train_critic(
    train: Encoded, heldout: Encoded, config: CriticTrainingConfig, on_progress: OnProgress
) -> tuple[Critic, int]:
    """Train by contrast within a step; keep the weights with the lowest held-out loss. Return the critic and the steps it had.

    Half of a step's samples (`hard_negatives`) have captions that are among the nearest ones to the caption of another sample of the
    step, so that the negatives include captions that differ in a word.

    Source: Radford et al. 2021, Fig. 3 (symmetric InfoNCE).
    Departs: samples of a step with equal captions are positives of each other; hard negatives.

    Args:
        train: The samples to train on.
        heldout: The held-out samples.
        config: Sizes, length and rates.
        on_progress: Called with the steps done, the steps planned, and a note.
    """
    start_from_seed(config.seed)
    caption_N, heldout_caption_N = caption_hashes(train.captions), caption_hashes(heldout.captions)
    head = Head(
        config.hidden, config.dim, config.dropout, dims=(train.image_ND.shape[1], train.text_NC.shape[1])
    ).train()
    log_sharpness = torch.nn.Parameter(torch.tensor(SHARPNESS).log())
    optimizer = torch.optim.AdamW(
        [*head.parameters(), log_sharpness], config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.max_train_steps)
    batches = _Batches(train, config)
    images, texts = torch.from_numpy(train.image_ND), torch.from_numpy(train.text_NC)
    best = _Best()
    for step in range(config.max_train_steps):
        index_B = batches.at(step)
        image_BE, text_BE = head(images[index_B], texts[index_B])
        sharpness = log_sharpness.exp().clamp(max=SHARPEST)
        optimizer.zero_grad()
        torch.autograd.backward(contrast(sharpness * (image_BE @ text_BE.T), caption_N[index_B]))
        optimizer.step()
        schedule.step()
        if (step + 1) % config.validation_steps == 0 or step + 1 == config.max_train_steps:
            sharpness = log_sharpness.detach().exp().clamp(max=SHARPEST)
            loss = _heldout_loss(head, sharpness, heldout, heldout_caption_N)
            best.consider(loss, step + 1, head, float(sharpness))
            on_progress(step + 1, config.max_train_steps, f"held-out loss {loss:.3f}, lowest {best.loss:.3f}")
            if best.n_worse >= config.early_stopping_patience:
                break
    head.load_state_dict(best.weights)
    head.eval().requires_grad_(requires_grad=False)
    return _with_references(head, best.sharpness, train, config), best.step


def score_heldout(critic: Critic, heldout: Encoded) -> HeldoutScores:
    """Score held-out images with their own captions, and with those of the next eight samples, except equal ones."""
    image_NE, text_NE = critic.project(heldout.image_ND, heldout.text_NC)
    captions = heldout.captions
    right_N = critic.score(image_NE, text_NE, captions)
    wrong = []
    for turn in range(1, min(_N_WRONG + 1, len(captions))):
        others = [*captions[turn:], *captions[:turn]]
        is_other_N = np.array([own != other for own, other in zip(captions, others, strict=True)])
        wrong.append(critic.score(image_NE, text_NE.roll(-turn, 0), others)[is_other_N])
    return HeldoutScores(right_N, np.concatenate(wrong))


def _is_held_out(caption: str) -> bool:
    digest = hashlib.sha256(b"critic held out " + caption.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _ONE_IN == 0


class _Best:
    """The weights with the lowest held-out loss so far."""

    def __init__(self) -> None:
        self.loss, self.step, self.n_worse, self.sharpness = float("inf"), 0, 0, SHARPNESS
        self.weights: dict[str, Tensor] = {}

    def consider(self, loss: float, step: int, head: Head, sharpness: float) -> None:
        if loss < self.loss or not self.weights:
            self.loss, self.step, self.n_worse, self.sharpness = loss, step, 0, sharpness
            self.weights = copy.deepcopy(head.state_dict())
        else:
            self.n_worse += 1


class _Batches:
    """The samples of each step: some in a random order, and for some of these a hard negative each."""

    def __init__(self, train: Encoded, config: CriticTrainingConfig) -> None:
        n = len(train.captions)
        self._n, self._seed = n, config.seed
        size = min(config.batch_size, n)
        self._n_hard = min(round(size * config.hard_negatives), size // 2)
        self._n_plain = size - self._n_hard
        self._neighbour_NK = _neighbours(train, config.seed) if self._n_hard else np.zeros((n, 1), np.int64)

    def at(self, step: int) -> Int64[np.ndarray, " B"]:
        plain_P: Int64[np.ndarray, " P"] = batch_index(self._n, step, batch_size=self._n_plain, seed=self._seed).numpy()
        generator = np.random.default_rng([self._seed, step])
        column_H = generator.integers(0, self._neighbour_NK.shape[1], self._n_hard)
        hard_H = self._neighbour_NK[plain_P[: self._n_hard], column_H]
        # Each sample once: a neighbour may be in the step already.
        return np.unique(np.concatenate([plain_P, hard_H]))


def _neighbours(train: Encoded, seed: int) -> Int64[np.ndarray, "N K"]:
    """Return for each sample some samples whose captions are the most similar ones by the text encoder, but not equal."""
    n = len(train.captions)
    others_M = np.sort(np.random.default_rng([seed, 1]).permutation(n)[:_MOST_NEIGHBOURS])
    text_NC = torch.nn.functional.normalize(torch.from_numpy(train.text_NC))
    caption_N, other_MC = caption_hashes(train.captions), text_NC[others_M]
    found = []
    for start in range(0, n, 1024):
        part = slice(start, start + 1024)
        cosine_PM = text_NC[part] @ other_MC.T
        cosine_PM.masked_fill_(caption_N[part, None] == caption_N[others_M], -torch.inf)
        found.append(cosine_PM.topk(min(_N_NEIGHBOURS, len(others_M)), dim=1).indices)
    neighbour_NK: Int64[np.ndarray, "N K"] = others_M[torch.cat(found).numpy()]
    return neighbour_NK


@torch.inference_mode()
def _heldout_loss(head: Head, sharpness: Tensor, heldout: Encoded, caption_N: Int64[Tensor, " N"]) -> float:
    head.eval()
    total, size = 0.0, 512
    for start in range(0, len(heldout.captions), size):
        part = slice(start, start + size)
        image_PE, text_PE = head(torch.from_numpy(heldout.image_ND[part]), torch.from_numpy(heldout.text_NC[part]))
        total += float(contrast(sharpness * (image_PE @ text_PE.T), caption_N[part])) * len(image_PE)
    head.train()
    return total / len(heldout.captions)


@torch.inference_mode()
def _with_references(head: Head, sharpness: float, train: Encoded, config: CriticTrainingConfig) -> Critic:
    """Choose the reference captions: different ones of the training samples, drawn by the seed."""
    first_of = {caption: at for at, caption in reversed(list(enumerate(train.captions)))}
    distinct = np.array(sorted(first_of.values()))
    chosen_R = np.sort(np.random.default_rng([config.seed, 2]).permutation(distinct)[: config.n_references])
    text_RE = torch.nn.functional.normalize(head.text(torch.from_numpy(train.text_NC[chosen_R])))
    return Critic(head, sharpness, text_RE, caption_hashes([train.captions[at] for at in chosen_R]))
