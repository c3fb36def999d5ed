"""Selection methods of the field as scores, so that they are arms beside raters: `semdedup/top_k`, `density_ratio/top_k`.

Each is a function of frozen embeddings, captions or stored scores, and gives a higher score to a sample that its method keeps first. No
store, no torch. Letters: N samples of the corpus · M samples of the validation dataset · D numbers of an embedding · K clusters ·
B samples of a batch.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from alchemist_core.models.density import fit_logistic

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]

_BUCKETS = 10_000
_WORD = re.compile(r"\w+|[^\w\s]")
JEST_BATCH = 320
"""Samples of a large batch of JEST."""


def halves(image_hashes: Sequence[bytes]) -> NDArray[np.bool_]:
    """Return the half of each sample, for a score by a model that was trained on the other half: equal images are in one half.

    >>> halves([bytes([2]), bytes([5]), bytes([2])]).tolist()
    [False, True, False]
    """
    return np.array([image[-1] % 2 == 1 for image in image_hashes], bool)


def semdedup_score(unit_ND: Vectors, cluster_N: NDArray[np.int64], centroid_KD: Vectors) -> Scores:
    """Score a sample by how different it is from those of its cluster that are kept before it: minus the largest cosine.

    Within a cluster, samples far from the centroid come first. Keeping the best scores is then SemDeDup at the threshold that leaves so
    many samples.

    Source: Abbas et al. 2023, Algorithm A7.

    Args:
        unit_ND: Embeddings of length 1.
        cluster_N: Cluster of each.
        centroid_KD: Centroids of length 1.
    """
    score_N = np.ones(len(unit_ND))
    for cluster in np.unique(cluster_N):
        place_M = np.flatnonzero(cluster_N == cluster)
        from_centroid_M = unit_ND[place_M] @ centroid_KD[cluster]
        place_M = place_M[np.argsort(from_centroid_M, kind="stable")]
        cosine_MM = np.triu((unit_ND[place_M] @ unit_ND[place_M].T).astype(np.float64), 1)
        cosine_MM[np.tril_indices(len(place_M))] = -np.inf
        # Column j: the cosines with those before it.
        score_N[place_M[1:]] = -cosine_MM.max(axis=0)[1:]
    return score_N


def dsir_score(captions: Sequence[str], validation: Sequence[str], *, seed: int | None) -> Scores:
    """Score a caption by the logarithm of its importance weight under bags of hashed words and pairs of words, plus Gumbel noise.

    The best scores are then a sample without replacement by importance weight.

    Source: Xie et al. 2023 (DSIR), section 3.1 and Algorithm 1.

    Args:
        captions: Captions of the corpus.
        validation: Captions of the validation dataset.
        seed: Seed of the noise; None: none.
    """
    counts_N = [_hashed_words(caption) for caption in captions]
    ratio_V = np.log(_frequencies([_hashed_words(caption) for caption in validation]) / _frequencies(counts_N))
    score_N = np.array([ratio_V[words].sum() for words in counts_N])
    return score_N if seed is None else score_N + np.random.default_rng(seed).gumbel(size=len(score_N))


def _frequencies(found: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    count_V = 1.0 + np.bincount(np.concatenate([*found, np.empty(0, np.int64)]), minlength=_BUCKETS)
    return np.asarray(count_V / count_V.sum(), np.float64)


def _hashed_words(caption: str) -> NDArray[np.int64]:
    words = _WORD.findall(caption.lower())
    grams = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    digests = (hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest() for gram in grams)
    return np.array([int.from_bytes(digest, "big") % _BUCKETS for digest in digests], np.int64)


def rho_batch_score(score_N: NDArray[np.floating], *, batch_size: int = 320, seed: int) -> Scores:
    """Score a sample by its rank within a random batch: the best k scores are the best share of each batch.

    Source: Mindermann et al. 2022 (RHO-LOSS), Algorithm 1.
    Departs: theirs ranks each batch by the losses of the model in training; here the losses are those of the two finished proxies. With
    losses that do not depend on the other samples of a batch, JEST (Evans et al. 2024) draws from the same ranking.

    Args:
        score_N: Reducible loss of each sample: a rater's of rule learnability.
        batch_size: Samples from which a share is kept.
        seed: Seed of the batches.
    """
    order_N = np.random.default_rng(seed).permutation(len(score_N))
    found_N = np.empty(len(score_N))
    for start in range(0, len(score_N), batch_size):
        place_B = order_N[start : start + batch_size]
        best_first_B = np.argsort(-score_N[place_B], kind="stable")
        rank_B = np.empty(len(place_B))
        rank_B[best_first_B] = np.arange(len(place_B)) / len(place_B)
        found_N[place_B] = 1 - rank_B
    return found_N


@dataclass(frozen=True, slots=True)
class PairHead:
    """An image-text head on a corpus: the probability that an image and a caption belong together is σ(slope · cosine + offset)."""

    image_ND: Vectors
    text_ND: Vectors
    slope: float
    offset: float

    def losses(self, place_B: NDArray[np.int64]) -> Scores:
        """Return the loss of each pair of an image (row) and a caption (column) of some samples; pairs on the diagonal match.

        Source: Zhai et al. 2023 (SigLIP), Algorithm 1: −log σ(± logit).
        """
        logit_BB = self.slope * (self.image_ND[place_B] @ self.text_ND[place_B].T).astype(np.float64) + self.offset
        loss_BB: Scores = np.logaddexp(0, np.where(np.eye(len(place_B), dtype=bool), -logit_BB, logit_BB))
        return loss_BB


def fit_pair_head(heldout_MM: NDArray[np.floating], *, batch_size: int, penalty: float = 1e-3) -> tuple[float, float]:
    """Return slope and offset of a head whose cosines are given for held-out images (rows) and captions (columns).

    A head that was trained by a softmax over a batch has no probability of a single pair; this logistic regression gives it one.

    Args:
        heldout_MM: Cosines; those on the diagonal match.
        batch_size: Size of the batches in which pairs are judged: there are so many captions for each match.
        penalty: Weight of the squared slope.
    """
    n = len(heldout_MM)
    is_match = np.eye(n, dtype=bool).ravel()
    weight = np.where(is_match, 1.0, (batch_size - 1) / max(1, n - 1))
    cosine = heldout_MM.astype(np.float64).reshape(-1, 1)
    slope, offset = fit_logistic(cosine, is_match, weight / weight.sum() * len(weight), penalty=penalty).tolist()
    return slope, offset


def joint_learnability(learnability_BB: Scores, is_drawn_B: NDArray[np.bool_]) -> Scores:
    """Return by how much the learnability of the drawn samples, as a batch, grows with each further sample; −∞ for those drawn already.

    The learnability of a batch is the sum over its pairs of images and captions, so that a sample brings its own pair and those with all
    samples drawn before it.

    Source: Evans et al. 2024 (JEST), section 2.2 and the listing in its appendix.
    """
    joint_B = np.diag(learnability_BB) + learnability_BB[is_drawn_B].sum(0) + learnability_BB[:, is_drawn_B].sum(1)
    return np.where(is_drawn_B, -np.inf, joint_B)


def draw_jointly(learnability_BB: Scores, chunk: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the samples of a batch in the order in which JEST draws them, a chunk at a time, by the softmax of `joint_learnability`."""
    is_drawn_B, order = np.zeros(len(learnability_BB), bool), list[int]()
    while len(order) < len(is_drawn_B):
        # The largest sums of logit and Gumbel noise are a sample without replacement.
        key_B = joint_learnability(learnability_BB, is_drawn_B) + rng.gumbel(size=len(is_drawn_B))
        chosen = np.argsort(-key_B, kind="stable")[: min(chunk, len(is_drawn_B) - len(order))]
        is_drawn_B[chosen] = True
        order += chosen.tolist()
    return np.array(order)


def jest_score(
    learner: PairHead, reference: PairHead, *, batch_size: int = JEST_BATCH, chunk: int = 4, seed: int
) -> Scores:
    """Score a sample by its place in the order in which JEST draws a random batch: the best scores are the first share of each batch.

    Source: Evans et al. 2024 (JEST), Algorithm 1: learnability is the learner's loss less the reference's, and a small batch is drawn from
    a large one in chunks, each given the samples drawn before; 4 of 320 are the 16 chunks of a fifth of a batch.
    Departs: both heads are finished, and the learner is an image-text head of the corpus instead of the model in training.

    Args:
        learner: Head that was trained on the corpus.
        reference: Head that was trained on the validation dataset, on the samples of the corpus.
        batch_size: Samples of a large batch.
        chunk: Samples that are drawn at a time.
        seed: Seed of the batches and of the draws.
    """
    rng = np.random.default_rng(seed)
    order_N = rng.permutation(len(learner.image_ND))
    found_N = np.empty(len(order_N))
    for start in range(0, len(order_N), batch_size):
        place_B = order_N[start : start + batch_size]
        drawn_B = draw_jointly(learner.losses(place_B) - reference.losses(place_B), chunk, rng)
        found_N[place_B[drawn_B]] = 1 - np.arange(len(place_B)) / len(place_B)
    return found_N


METHODS: dict[str, str] = {
    "trained_critic": "Critic trained on the validation dataset: own caption against other captions",
    "crossed_critic": "The same critic, trained on the validation dataset and on that half of the corpus in which the sample is not",
    "clip_validation": "CLIP filter: cosine of image and caption by a head that was trained on the validation dataset",
    "clip_corpus": "CLIP filter: the same by a head that was trained on the corpus itself (Schuhmann et al. 2021)",
    "semdedup": "SemDeDup: few samples of each group of similar images (Abbas et al. 2023)",
    "density_ratio": "Density among validation samples relative to the corpus, on frozen embeddings (Sugiyama et al. 2012)",
    "image_density": "The same on embeddings of images alone",
    "dsir": "DSIR: importance weights of hashed words of the captions (Xie et al. 2023)",
    "rho_batches": "RHO-LOSS: the share with the highest reducible loss of each random batch (Mindermann et al. 2022)",
    "jest": "JEST: the share of each random batch that is most learnable together, by two image-text heads (Evans et al. 2024)",
}
"""Methods by the name of their arms, `NAME/top_k`."""
