"""Gives the corpus of a seed the scores of a method of `methods`: encodes images and captions once, computes, and stores the scores.

Letters: N samples of the corpus · D C numbers of the embeddings of images and of captions.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from alchemist_core.config import Config, Result, fingerprint
from alchemist_core.errors import ConfigError
from alchemist_core.experiments import methods
from alchemist_core.experiments.arms import RHO_BATCHES
from alchemist_core.files import METHOD_FILES, artifact_path, atomic_write
from alchemist_core.models.critic_config import OFFLINE, CriticTrainingConfig
from alchemist_core.models.density import fit_density, is_held_out
from alchemist_core.scorers.density import unit
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.statistics import quantiles_of
from alchemist_core.store.eligible import EligibleSamples
from alchemist_core.store.engine import open_store
from alchemist_core.store.imported_scores import KEYS, ScoreImport, import_scores
from alchemist_core.store.manifests import HASH_BYTES
from alchemist_core.store.raters import find_named, find_rater
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.sample_table import SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.score_files import SCORE, ScoreChunk
from alchemist_core.store.snapshots import take_snapshot

if TYPE_CHECKING:
    from alchemist_core.models.critic import Critic, FrozenEncoders
    from alchemist_core.training.critic_training import Encoded


_MOST_HELDOUT = 1024


class Scored(NamedTuple):
    """The scores of the corpus, and those of validation samples that trained nothing, if a method holds some out."""

    score_N: NDArray[np.float64]
    held_out_H: NDArray[np.float64] | None = None


class MethodConfig(Config):
    """Which method scores which corpus."""

    method: str = Field(..., description=f"Method: {', '.join(methods.METHODS)}")
    dataset: str = Field(..., description="Training dataset")
    validation: str = Field(..., description="Validation dataset")
    rater: str = Field(..., description="Rater whose scores method rho_batches reads")
    encoders: str = Field(OFFLINE, description="Frozen encoders, as for alchemist scorer train")
    resolution: int = Field(224, ge=32, le=1024, description="Side of the images in pixels, for the encoders offline")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of batches, clusters, noise and heads")


class MethodResult(Result):
    """The scores of a method, and what they cost."""

    name: str
    n_samples: int
    # Seconds of this process's cores, the encoding of images included.
    core_seconds: float
    # Seconds in which images and captions were encoded, which later methods need not repeat.
    encoding_seconds: float = 0.0


def score_by_method(config: MethodConfig) -> str:
    """Give every sample of a dataset the score of a method, unless it has one, and return the name of the scores."""
    if config.method not in methods.METHODS:
        raise ConfigError(f"There is no method {config.method!r}. Methods: {', '.join(methods.METHODS)}.")
    rows, validation = _read(config)
    name = _name(config, rows, validation)
    if not find_named(open_store(), [name]):
        execute("score_method", config, lambda run: _Scoring(config, run, rows, validation).store(name), MethodResult)
    return name


def name_of_scores(config: MethodConfig) -> str:
    """Return the name of the scores of a method, whether they exist or not."""
    return _name(config, *_read(config))


def _read(config: MethodConfig) -> tuple[SampleTable, SampleTable]:
    engine = open_store()
    rows, validation = (
        read_training_samples(engine, find_dataset(engine, name).dataset_id)
        for name in (config.dataset, config.validation)
    )
    return rows, validation


def _name(config: MethodConfig, rows: SampleTable, validation: SampleTable) -> str:
    members = [members_sha256(table) for table in (rows, validation)]
    # Only one method reads a rater, so that the others compute once for all raters.
    unused = set() if config.method == RHO_BATCHES else {"rater"}
    given = {key: value for key, value in config.as_json().items() if key not in unused}
    return f"{config.method}_{fingerprint([given, members])[:12]}"


def members_sha256(rows: SampleTable) -> str:
    """Return a hash of the samples of a dataset."""
    return hashlib.sha256(np.ascontiguousarray(rows.hashes("pair_hash")).data).hexdigest()


class _Scoring:
    """The scores of one method."""

    def __init__(self, config: MethodConfig, stage_run: StageRun, rows: SampleTable, validation: SampleTable) -> None:
        self._config, self._run, self._rows, self._validation = config, stage_run, rows, validation
        self._encoding_s = 0.0

    def store(self, name: str) -> MethodResult:
        """Compute the scores and store them as imported ones, with what held-out validation samples get."""
        began = time.process_time()
        index_M, (score_M, held_out_H) = self._score()
        hash_N32 = np.ascontiguousarray(self._rows.hashes("pair_hash"))
        columns = {
            "pair_hash": np.ascontiguousarray(hash_N32[index_M]).view(f"V{HASH_BYTES}").ravel(),
            SCORE: score_M.astype(np.float32),
        }
        chunk = ScoreChunk(columns, n_rows=len(index_M), n_non_finite=0)
        held_out = () if held_out_H is None or not len(held_out_H) else quantiles_of(held_out_H)
        wanted = ScoreImport(name, KEYS["pair_hash"], run_id=self._run.run_id, held_out=held_out)
        import_scores(self._run.engine, wanted, [chunk], lambda _: None)
        core_s = time.process_time() - began
        return MethodResult(
            name=name,
            n_samples=len(index_M),
            core_seconds=round(core_s, 2),
            encoding_seconds=round(self._encoding_s, 2),
        )

    def _score(self) -> tuple[NDArray[np.int64], "Scored"]:
        """Return the samples that have a score, and their scores."""
        config = self._config
        everything = np.arange(len(self._rows))
        if config.method == "dsir":
            captions, validation = (
                [table[at].caption for at in range(len(table))] for table in (self._rows, self._validation)
            )
            return everything, Scored(methods.dsir_score(captions, validation, seed=config.seed))
        if config.method == RHO_BATCHES:
            return self._rho_batches()
        hold_device(self._run, is_on_cpu=True)
        from alchemist_core.models.critic import load_encoders  # noqa: PLC0415  torch only when there is work

        encoders, began = load_encoders(config.encoders, config.resolution), time.monotonic()
        index_M, corpus = encode(self._run, self._rows, encoders, config.dataset)
        _, validation_set = encode(self._run, self._validation, encoders, config.validation)
        self._encoding_s = time.monotonic() - began
        return index_M, EMBEDDED[config.method](config, self._run, corpus, validation_set)

    def _rho_batches(self) -> tuple[NDArray[np.int64], "Scored"]:
        pairs = self._rater_scores()
        place_N = _places(self._rows, pairs)
        score_N, is_here_N = methods.rho_batch_score(pairs.score_N, seed=self._config.seed), place_N >= 0
        return place_N[is_here_N], Scored(score_N[is_here_N])

    def _rater_scores(self) -> EligibleSamples:
        rater = find_rater(self._run.engine, self._config.rater)
        assert rater is not None
        return take_snapshot(self._run.engine, rater, [self._config.dataset], should_store=False).pairs


def _places(rows: SampleTable, pairs: EligibleSamples) -> NDArray[np.int64]:
    """Return the row of each scored sample; -1 for one that is in no shard any more."""
    of_hash = {row.tobytes(): place for place, row in enumerate(np.ascontiguousarray(rows.hashes("pair_hash")))}
    return np.array([of_hash.get(row.tobytes(), -1) for row in pairs.pair_hash_N32], np.int64)


def encode(
    stage_run: StageRun, rows: SampleTable, encoders: "FrozenEncoders", dataset: str
) -> tuple[NDArray[np.int64], "Encoded"]:
    """Return the embeddings of a dataset's samples, and the rows that can be decoded; they are computed once and kept in a file."""
    from alchemist_core.training.critic_training import Encoded, encode_samples  # noqa: PLC0415  imports torch

    key = fingerprint([members_sha256(rows), list(encoders.sha256s), encoders.side])
    path = artifact_path(f"{METHOD_FILES}/{re.sub('[^A-Za-z0-9._-]', '_', dataset)[:60]}-{key[:16]}.npz")
    if not path.exists():
        index_M, encoded = encode_samples(rows, encoders, stage_run.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, index=index_M, image=encoded.image_ND, text=encoded.text_NC)
    with np.load(path) as kept:
        index_M = kept["index"]
        return index_M, Encoded(kept["image"], kept["text"], [rows[place].caption for place in index_M.tolist()])


def _train_head(config: MethodConfig, stage_run: StageRun, samples: "Encoded") -> tuple["Critic", "Encoded"]:
    """Train a head on samples of which some are held out; return it and the held-out ones."""
    from alchemist_core.training.critic_training import hold_out, train_critic  # noqa: PLC0415  as above

    train_M, heldout_M = hold_out(samples.captions, _image_keys(samples))
    heldout = samples.take(heldout_M)
    critic, _ = train_critic(samples.take(train_M), heldout, CriticTrainingConfig(seed=config.seed), stage_run.report)
    return critic, heldout


def _critic(config: MethodConfig, stage_run: StageRun, corpus: "Encoded", validation: "Encoded") -> Scored:
    from alchemist_core.training.critic_training import score_heldout  # noqa: PLC0415  as above

    critic, heldout = _train_head(config, stage_run, validation)
    image_NE, text_NE = critic.project(corpus.image_ND, corpus.text_NC)
    if config.method == "trained_critic":
        score_N = critic.score(image_NE, text_NE, corpus.captions).astype(np.float64)
        return Scored(score_N, score_heldout(critic, heldout).right_N.astype(np.float64))
    return Scored(np.asarray((image_NE * text_NE).sum(1).numpy(), np.float64))


def _crossed_critic(config: MethodConfig, stage_run: StageRun, corpus: "Encoded", validation: "Encoded") -> Scored:
    """Score each half of the corpus by a critic that was trained on the other half and on the validation dataset.

    The corpus has many more pairs than the validation dataset, and most of their captions fit. A critic remembers the pairs that it was
    trained on, wrong ones too, so none scores those. Early stopping reads held-out validation samples; their scores are not returned,
    because the ranks within each half have no threshold.
    """
    from alchemist_core.training.critic_training import hold_out, train_critic  # noqa: PLC0415  as above

    train_M, heldout_M = hold_out(validation.captions, _image_keys(validation))
    own, heldout = validation.take(train_M), validation.take(heldout_M)
    is_second_N = methods.halves(_image_keys(corpus))
    score_N = np.empty(len(is_second_N))
    for is_second in (False, True):
        others = corpus.take(np.flatnonzero(is_second_N != is_second))
        both, wanted = own.joined(others), np.flatnonzero(is_second_N == is_second)
        critic, _ = train_critic(both, heldout, CriticTrainingConfig(seed=config.seed), stage_run.report)
        scored = corpus.take(wanted)
        image_NE, text_NE = critic.project(scored.image_ND, scored.text_NC)
        found = critic.score(image_NE, text_NE, scored.captions)
        # The scores of two critics have no common unit, ranks within a half have.
        score_N[wanted] = 1 - fit_rank_scale(found).rank(found)
    return Scored(score_N)


def _image_keys(encoded: "Encoded") -> list[bytes]:
    """Return what tells images apart: equal features are equal images."""
    return [hashlib.sha256(row.tobytes()).digest() for row in encoded.image_ND]


def _clip_corpus(config: MethodConfig, stage_run: StageRun, corpus: "Encoded", _: "Encoded") -> Scored:
    # The corpus takes the place of the validation dataset: the head sees the samples that it then scores.
    return _critic(config, stage_run, corpus, corpus)


def _jest(config: MethodConfig, stage_run: StageRun, corpus: "Encoded", validation: "Encoded") -> Scored:
    heads = []
    for samples in (corpus, validation):
        critic, heldout = _train_head(config, stage_run, samples)
        image_ME, text_ME = critic.project(heldout.image_ND, heldout.text_NC)
        # So many that the table of their pairs stays small.
        cosine_MM = (image_ME[:_MOST_HELDOUT] @ text_ME[:_MOST_HELDOUT].T).numpy()
        fitted = methods.fit_pair_head(cosine_MM, batch_size=methods.JEST_BATCH)
        image_NE, text_NE = critic.project(corpus.image_ND, corpus.text_NC)
        heads.append(methods.PairHead(image_NE.numpy(), text_NE.numpy(), *fitted))
    return Scored(methods.jest_score(*heads, seed=config.seed))


def _semdedup(config: MethodConfig, _run: StageRun, corpus: "Encoded", _: "Encoded") -> Scored:
    from alchemist_core.embeddings.clusters import (  # noqa: PLC0415  imports faiss
        fit_centroids,
        nearest_clusters,
        usual_clusters,
    )
    from alchemist_core.embeddings.reading import unit_vectors  # noqa: PLC0415  as above

    unit_ND = unit_vectors(corpus.image_ND.astype(np.float16))
    centroid_KD = fit_centroids(unit_ND, usual_clusters(len(unit_ND)), seed=config.seed)
    cluster_N = nearest_clusters(centroid_KD, unit_ND, 1)[:, 0].astype(np.int64)
    return Scored(methods.semdedup_score(unit_ND, cluster_N, centroid_KD))


def _density_ratio(_config: MethodConfig, _run: StageRun, corpus: "Encoded", validation: "Encoded") -> Scored:
    corpus_ND = _joined(corpus)
    return Scored(fit_density(corpus_ND, _joined(validation)).score(corpus_ND))


def _image_density(_config: MethodConfig, _run: StageRun, corpus: "Encoded", validation: "Encoded") -> Scored:
    is_heldout_M = is_held_out(_image_keys(validation))
    corpus_ND, validation_MD = unit(corpus.image_ND), unit(validation.image_ND)
    density = fit_density(corpus_ND, validation_MD[~is_heldout_M])
    return Scored(density.score(corpus_ND), density.score(validation_MD[is_heldout_M]))


def _joined(encoded: "Encoded") -> NDArray[np.float32]:
    """Return image and caption as one vector, each with length 1, so that neither outweighs the other."""
    return np.concatenate([unit(encoded.image_ND), unit(encoded.text_NC)], axis=1)


EMBEDDED = {
    "trained_critic": _critic,
    "crossed_critic": _crossed_critic,
    "clip_validation": _critic,
    "clip_corpus": _clip_corpus,
    "jest": _jest,
    "semdedup": _semdedup,
    "density_ratio": _density_ratio,
    "image_density": _image_density,
}
"""Methods that read embeddings, which are computed once for all of them."""


def methods_among(scores: Sequence[str]) -> list[str]:
    """Return the names among some scores that are methods.

    >>> methods_among(["semdedup", "judge"])
    ['semdedup']
    """
    return [score for score in scores if score in methods.METHODS]
