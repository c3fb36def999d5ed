"""The eligible samples of a snapshot as arrays: every scored sample of its nights, and the reason if it is excluded.

They are read from the store and cached in files, which later selections map into memory. Letters: N scored samples, K some of them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ClauseElement, Connection, Engine, text

from alchemist_core.config import fingerprint
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.duplicates import later_in_group, worse_in_group
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.selection.fusion import CRAWLED, fuse_ranks, signals_of
from alchemist_core.selection.ranks import RankScale
from alchemist_core.store.copy import copy_out
from alchemist_core.store.export import FILTER_COLUMNS, HEURISTICS, filter_rows, read_known, scores_by_name
from alchemist_core.store.manifests import hash_order, hash_prefixes
from alchemist_core.store.night_files import NightRows, kept_folder, read_edits, read_scored
from alchemist_core.store.queries import load_query


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that determines the eligible samples. A snapshot stores it, so that they can be read again."""

    rater_id: int
    night_ids: tuple[int, ...]
    last_takedown_id: int
    # rater, a heuristic, the name of a scorer or of imported scores, imported.NAME (a number that the crawl gives); or several, joined by
    # plus signs.
    score: str = RATER_SCORE
    # Duplicates are excluded among the samples up to this id; 0: no duplicates are excluded.
    last_compared_id: int = 0
    # What counts as a duplicate: the same image (exact), or near-duplicates too (near).
    duplicates: str = "exact"
    decontaminate: tuple[str, ...] = ()
    last_evaluation_shard_id: int = 0
    where: str | None = None
    # Whether the sources of samples are read, for a cap by source.
    with_sources: bool = False
    # Shards with a retirement id up to this one are ignored.
    last_retirement_id: int = 0
    # First output of the scorer whose semantic duplicates and clusters are read, up to a block of them; 0: none are.
    semantic_rater_id: int = 0
    last_semantic_block_id: int = 0
    # Semantic duplicates of a cosine from this one on are excluded; 0: none are.
    semantic_threshold: float = 0.0
    # Whether the clusters of samples are read, for strata or a cap by cluster.
    with_clusters: bool = False
    # Whether the sample with the best score is kept of a group of duplicates, instead of the first one.
    keeps_best: bool = False
    # Flags up to this row count for the condition; 0: it names none, or there are none.
    last_flag_id: int = 0
    # Rank scales of the scores that are fused, in their order; 0 in a preview for one that is not stored. Empty: none are fused.
    signal_scale_ids: tuple[int, ...] = ()
    # Whether the dataset of each sample is part of the hash, for strata or a cap by dataset.
    with_datasets: bool = False
    # Whether a first sample that is itself a semantic duplicate leads on to its own group. Snapshots of older versions take it for a group.
    follows_firsts: bool = False

    @property
    def is_fixed(self) -> bool:
        """Return whether the result can never change: scores of the rater and hashes do not; captions, URLs and other scores can."""
        return self.where is None and self.score == RATER_SCORE and not self.with_sources

    @property
    def has_night_files(self) -> bool:
        """Return whether the scores of nights are kept in files: the rater's are, and conditions read every sample anyway."""
        return self.score == RATER_SCORE and self.where is None

    def options(self) -> dict[str, Any]:
        """Return the fields without a column in `rank_snapshots`, except those with their default."""
        own = {"rater_id", "night_ids", "last_takedown_id"}
        return {
            field.name: value
            for field in fields(self)
            if field.name not in own and (value := getattr(self, field.name)) != field.default
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query `candidate_samples`."""
        names = ("rater_id", "last_takedown_id", "last_compared_id", "duplicates", "score", "last_retirement_id")
        return {"night_ids": list(self.night_ids)} | {name: asdict(self)[name] for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class EligibleSamples:
    """Aligned arrays of the scored samples, eligible or excluded, in the order of pair_hash."""

    pair_hash_N32: NDArray[np.uint8]
    pair_hash64_N: NDArray[np.int64]
    score_N: NDArray[np.float64]
    night_N: NDArray[np.int32]
    # Code of selection/exclusions.py: only samples with 0 are eligible.
    excluded_N: NDArray[np.uint8]
    # Number of the source, from 1 in order of appearance; 0 if unknown. Read only for a cap by source.
    source_N: NDArray[np.int64] | None = None
    n_taken_down: int = 0
    n_unscored: int = 0
    # Of these, how many lack each of the scores that rank, by its name; one sample may lack several.
    unscored_by: Mapping[str, int] = field(default_factory=dict)
    # Samples without a score that the condition names, by its name.
    n_without: Mapping[str, int] = field(default_factory=dict)
    # Number of the cluster, from 1; 0 without one. Read only for strata or a cap by cluster.
    cluster_N: NDArray[np.int64] | None = None
    # Ranks by each fused score, in columns; None if none are fused.
    signal_N: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Count the samples, including excluded ones."""
        return len(self.score_N)

    def eligible_mask(self) -> NDArray[np.bool_]:
        """Return a mask of the eligible samples."""
        return np.equal(self.excluded_N, 0)

    def reaches(self, min_score: float) -> NDArray[np.bool_]:
        """Return a mask of the samples whose score is not below a threshold.

        The store keeps a score as a `real`, and a fused one is computed in double precision: of the former, the threshold is rounded to
        `real` as well, so that a score of 0.7 reaches 0.7.
        """
        with np.errstate(over="ignore"):
            threshold = np.float32(min_score) if self.signal_N is None else min_score
        return np.greater_equal(self.score_N, np.float64(threshold))

    def count_open(self) -> int:
        """Count the eligible samples."""
        return int(np.count_nonzero(self.eligible_mask())) if self.excluded_N.any() else len(self)

    def open_pairs(self) -> "EligibleSamples":
        """Return only the eligible samples; itself if none is excluded."""
        return self if not self.excluded_N.any() else self.take(np.flatnonzero(self.eligible_mask()))

    def take(self, place_K: NDArray[np.int64]) -> "EligibleSamples":
        """Return some of the samples."""
        columns = {name: None if column is None else column[place_K] for name, column in self.columns().items()}
        counts: dict[str, Any] = {name: getattr(self, name) for name in COUNTS}
        return EligibleSamples(**columns, **counts)  # type: ignore[arg-type]

    def columns(self) -> dict[str, NDArray[Any] | None]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.endswith(("_N", "_N32"))}

    def find(self, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the positions of samples, ascending; samples that are not here are left out."""
        own_N, wanted_K = (hash_prefixes(hashes) for hashes in (self.pair_hash_N32, pair_hash_K32))
        place_K = np.minimum(np.searchsorted(own_N, wanted_K), len(own_N) - 1)
        found = place_K[own_N[place_K] == wanted_K] if len(own_N) else np.empty(0, np.int64)
        return np.sort(found)

    def sha256(self, dataset_N: NDArray[np.int64] | None = None) -> str:
        """Return the hash of all samples: hashes and scores, exclusions if there are any, sources and clusters if they were read.

        Args:
            dataset_N: Number of each sample's dataset, if datasets decide what is selected.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.pair_hash_N32).data)
        digest.update(np.ascontiguousarray(self.score_N, "<f8").data)
        if self.excluded_N.any():
            digest.update(np.ascontiguousarray(self.excluded_N).data)
        if self.source_N is not None:
            digest.update(np.ascontiguousarray(self.source_N, "<i8").data)
        if self.cluster_N is not None:
            digest.update(b"clusters")
            digest.update(np.ascontiguousarray(self.cluster_N, "<i8").data)
        if dataset_N is not None:
            digest.update(b"datasets")
            digest.update(np.ascontiguousarray(dataset_N, "<i8").data)
        return digest.hexdigest()


RANGE = 1_000_000
SCORED = text("""
    SELECT sample_id FROM alchemist.scores
    WHERE rater_id = :rater_id AND sample_id > :after_sample_id AND sample_id <= :last_sample_id
""")
SEMANTIC_FIRSTS = text("""
    SELECT sample_id, first_sample_id AS first FROM alchemist.semantic_duplicates
    WHERE rater_id = :semantic_rater_id AND sample_id > :after_sample_id AND sample_id <= :last_sample_id
      AND block_id <= :last_semantic_block_id AND similarity >= CAST(:semantic_threshold AS real)
""")
# A sample is compared with a semantic duplicate only where the first sample of that one was taken down (`embeddings.duplicates`).
FOLLOWED_FIRSTS = text("""
    SELECT found.sample_id, found.first_sample_id AS first FROM alchemist.takedowns
    INNER JOIN alchemist.samples ON takedowns.image_hash = samples.image_hash
    INNER JOIN alchemist.semantic_duplicates AS found ON samples.sample_id = found.first_sample_id
    WHERE found.rater_id = :semantic_rater_id
      AND found.block_id <= :last_semantic_block_id AND found.similarity >= CAST(:semantic_threshold AS real)
""")
CLUSTER_NUMBERS = text("""
    SELECT sample_id, cluster + CAST(1 AS bigint) AS cluster FROM alchemist.clusters
    WHERE rater_id = :semantic_rater_id AND sample_id > :after_sample_id AND sample_id <= :last_sample_id
      AND block_id <= :last_semantic_block_id
""")
TAKEN_DOWN = text("""
    SELECT samples.sample_id FROM alchemist.takedowns
    INNER JOIN alchemist.samples ON takedowns.image_hash = samples.image_hash
    WHERE takedowns.takedown_id <= :last_takedown_id
""")
PAIR_FIELDS = {
    "sample_id": ">i8", "pair_hash": "(32,)u1", "score": ">f8", "night_id": ">i4", "first_sample_id": ">i8", "is_taken_down": "?",
}  # fmt: skip
Columns = dict[str, NDArray[Any]]


def read_eligible(
    connection: Connection, moment: Moment, scales: Sequence[RankScale] = (), *, should_verify: bool = True
) -> EligibleSamples:
    """Read the eligible samples as of a moment; scores of the rater come from files that hold the nights read before.

    Args:
        connection: Open in a transaction that sees one snapshot of the store.
        moment: What they depend on.
        scales: Rank scale of each score that is fused; empty if none are.
        should_verify: Whether to compare every byte of those files with its hash.

    Raises:
        ConfigError: The moment's condition is not valid, or there is no score of the name to rank by.
    """
    # The joins of a range then fit into memory; JIT compilation takes longer than it saves.
    connection.execute(text("SET LOCAL work_mem = '256MB'"))
    connection.execute(text("SET LOCAL jit = off"))
    # This session waits while others read nights.
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    reader = _Reader(connection, moment, scales)
    if moment.has_night_files:
        return _read_from_nights(reader, should_verify=should_verify)
    parts = [reader.read(span) for span in _spans(connection)]
    columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    _exclude_duplicates(columns, moment)
    order_N = hash_order(columns["pair_hash_N32"])
    for name in list(columns):
        columns[name] = columns[name][order_N]
    if moment.with_sources:
        columns["source_N"] = _number(columns["source_N"])
    first_bits_N = np.ascontiguousarray(columns["pair_hash_N32"][:, :8]).view(">i8").ravel().astype(np.int64)
    return EligibleSamples(
        pair_hash64_N=first_bits_N, n_taken_down=reader.n_taken_down, n_unscored=reader.n_unscored,
        unscored_by=reader.unscored_by, n_without=reader.n_without, **columns,
    )  # fmt: skip


def _read_from_nights(reader: "_Reader", *, should_verify: bool) -> EligibleSamples:
    """Return the eligible samples: scores of nights from files, and what can change from the store."""
    rows, is_taken_down_N = reader.read_nights(should_verify=should_verify)
    score_N = rows.score_N.astype(np.float64)
    is_unscored_N = np.isnan(score_N) & ~is_taken_down_N
    is_left_out_N = is_taken_down_N | is_unscored_N
    if is_left_out_N.any():
        rows, score_N = rows.take(~is_left_out_N), score_N[~is_left_out_N]
    columns: Columns = {
        "sample_id": rows.sample_id_N, "pair_hash_N32": rows.pair_hash_N32, "score_N": score_N, "night_N": rows.night_N,
        "excluded_N": reader.contaminated(rows.sample_id_N), **reader.look_up_all(rows.sample_id_N),
    }  # fmt: skip
    _exclude_duplicates(columns, reader.moment)
    if reader.moment.with_sources:
        columns["source_N"] = _number(columns["source_N"])
    first_bits_N = hash_prefixes(rows.pair_hash_N32).view(np.int64)
    return EligibleSamples(
        pair_hash64_N=first_bits_N,
        n_taken_down=int(is_taken_down_N.sum()),
        n_unscored=int(is_unscored_N.sum()),
        unscored_by={reader.moment.score: int(is_unscored_N.sum())},
        n_without={},
        **columns,
    )


def _spans(connection: Connection) -> Iterator[dict[str, int]]:
    last = connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()
    # From -1, because a sample inserted by hand can have the id 0.
    for start in range(-1, last + 1, RANGE):
        yield {"after_sample_id": start, "last_sample_id": start + RANGE}


def _exclude_duplicates(columns: Columns, moment: Moment) -> None:
    """Exclude duplicates of one image, or near-duplicates, and then semantic duplicates among the samples that are left."""
    sample_id_N, first_id_N = columns.pop("sample_id"), columns.pop("first_sample_id", None)
    semantic_first_id_N = columns.pop("semantic_first_id", None)
    excluded_N = columns["excluded_N"]
    groups: list[tuple[NDArray[np.int64], Exclusion]] = []
    if first_id_N is not None and moment.last_compared_id > 0:
        groups.append((first_id_N, Exclusion.DUPLICATE))
    if semantic_first_id_N is not None:
        groups.append((semantic_first_id_N, Exclusion.SEMANTIC_DUPLICATE))
    for group_N, reason in groups:
        if moment.keeps_best:
            others = worse_in_group(sample_id_N, group_N, excluded_N == 0, columns["score_N"])
        else:
            others = later_in_group(sample_id_N, group_N, excluded_N == 0)
        excluded_N[others] = reason


def _number(label_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number labels from 1 in order of appearance; 0 stays 0. The server's own hashes of hosts must not enter a snapshot's hash."""
    _, first, group_N = np.unique(label_N, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(1, len(first) + 1)
    return np.where(label_N == 0, 0, number[group_N])


def _named_raters(moment: Moment, known: Mapping[str, int]) -> dict[str, int]:
    """Return the scorers and imported scores that a moment ranks by or names in its condition.

    Args:
        moment: The moment.
        known: Rater ids by name.

    Raises:
        ConfigError: There is no score of the name to rank by.
    """
    words = set(signals_of(moment.score))
    for score in signals_of(moment.score):
        is_built_in = score in {RATER_SCORE, *HEURISTICS} or score.startswith(CRAWLED)
        if not is_built_in and score not in known:
            raise ConfigError(
                f"--rank-by {score}: there is no score of that name (scores: {', '.join((RATER_SCORE, *HEURISTICS, *known))}, or "
                "imported.NAME for a number that the crawl gives). Add it: alchemist scorer train, scorer register or import scores."
            )
    if moment.where is not None:
        from alchemist_core.store.conditions import names_in  # noqa: PLC0415  imports sqlglot

        words |= names_in(moment.where)
    return {name: rater_id for name, rater_id in known.items() if name in words}


class _Reader:
    """Reads ranges of samples, and counts those that are left out."""

    def __init__(self, connection: Connection, moment: Moment, scales: Sequence[RankScale]) -> None:
        self._connection, self._moment, self._scales = connection, moment, scales
        self.moment = moment
        self._known = read_known(connection, last_flag_id=moment.last_flag_id)
        self._named = _named_raters(moment, self._known.scores)
        self._parameters = [
            moment.parameters | {"score": score, "score_rater_id": self._named.pop(score, None)}
            for score in signals_of(moment.score)
        ]
        self._contaminated = self._read_contaminated()
        self.n_taken_down = self.n_unscored = 0
        self.unscored_by = dict.fromkeys(signals_of(moment.score), 0)
        self.n_without = dict.fromkeys(self._named, 0)

    def read(self, span: dict[str, int]) -> Columns:
        """Return one range as columns, unordered."""
        rows, score_NM = self._read_scores(span)
        is_unscored = np.isnan(score_NM).any(axis=1) & ~rows["is_taken_down"]
        self.n_taken_down += int(rows["is_taken_down"].sum())
        self.n_unscored += int(is_unscored.sum())
        for score, score_N in zip(self.unscored_by, score_NM.T, strict=True):
            self.unscored_by[score] += int((np.isnan(score_N) & is_unscored).sum())
        is_kept = ~(rows["is_taken_down"] | is_unscored)
        kept, score_NM = rows[is_kept], score_NM[is_kept]
        sample_id = kept["sample_id"].astype(np.int64)
        columns: Columns = {
            "sample_id": sample_id,
            "first_sample_id": kept["first_sample_id"].astype(np.int64),
            "pair_hash_N32": np.ascontiguousarray(kept["pair_hash"]),
            "score_N": score_NM[:, 0],
            "night_N": kept["night_id"].astype(np.int32),
            "excluded_N": self._exclude(sample_id, span),
        }
        if self._scales:
            ranks = [
                scale.rank(np.ascontiguousarray(score_N))
                for scale, score_N in zip(self._scales, score_NM.T, strict=True)
            ]
            columns["signal_N"] = np.stack(ranks, axis=1)
            columns["score_N"] = fuse_ranks(columns["signal_N"])
        if self._moment.with_sources:
            columns["source_N"] = self._look_up(sample_id, load_query("sample_sources"), span, "source")
        if self._moment.semantic_threshold > 0:
            first_id = self._look_up(sample_id, SEMANTIC_FIRSTS, self._semantic | span, "first")
            columns["semantic_first_id"] = self._follow(first_id)
        if self._moment.with_clusters:
            columns["cluster_N"] = self._look_up(sample_id, CLUSTER_NUMBERS, self._semantic | span, "cluster")
        return columns

    def _read_scores(self, span: dict[str, int]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the rows of a range, and their scores by each signal in columns; without a fusion there is one."""
        found = [
            copy_out(self._connection, load_query("candidate_samples"), parameters | span, PAIR_FIELDS)
            for parameters in self._parameters
        ]
        if len(found) > 1:
            # The samples are the same for each score, but the order of the rows is not.
            found = [rows[np.argsort(rows["sample_id"], kind="stable")] for rows in found]
        return found[0], np.stack([rows["score"].astype(np.float64) for rows in found], axis=1)

    def read_nights(self, *, should_verify: bool) -> tuple[NightRows, NDArray[np.bool_]]:
        """Return the scored samples of the moment's nights in the order of pair_hash, and which of them were taken down."""
        moment = self._moment
        rows = read_scored(
            self._connection, kept_folder(), rater_id=moment.rater_id, night_ids=moment.night_ids,
            last_retirement_id=moment.last_retirement_id, should_verify=should_verify,
        )  # fmt: skip
        found = copy_out(
            self._connection, TAKEN_DOWN, {"last_takedown_id": moment.last_takedown_id}, {"sample_id": ">i8"}
        )
        return rows, _are_in(rows.sample_id_N, found["sample_id"].astype(np.int64))

    def contaminated(self, sample_id_N: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the exclusions that depend on other datasets."""
        excluded_N = np.zeros(len(sample_id_N), np.uint8)
        excluded_N[_are_in(sample_id_N, self._contaminated)] = Exclusion.CONTAMINATED
        return excluded_N

    def look_up_all(self, sample_id_N: NDArray[np.int64]) -> Columns:
        """Return the columns that the moment asks for beside the scores, for samples in any order."""
        moment, columns, statements = self._moment, {}, {}
        if moment.last_compared_id > 0:
            found = copy_out(
                self._connection,
                load_query("duplicate_firsts"),
                moment.parameters,
                {"sample_id": ">i8", "first": ">i8"},
            )
            if len(found):
                columns["first_sample_id"] = _values_of(sample_id_N, [found], "first")
        if moment.with_sources:
            statements["source_N"] = (load_query("sample_sources"), "source")
        if moment.semantic_threshold > 0:
            statements["semantic_first_id"] = (SEMANTIC_FIRSTS, "first")
        if moment.with_clusters:
            statements["cluster_N"] = (CLUSTER_NUMBERS, "cluster")
        for name, (statement, column) in statements.items():
            kinds = {"sample_id": ">i8", column: ">i8"}
            given = (self._semantic | span for span in _spans(self._connection))
            columns[name] = _values_of(
                sample_id_N, (copy_out(self._connection, statement, one, kinds) for one in given), column
            )
        if moment.semantic_threshold > 0:
            columns["semantic_first_id"] = self._follow(columns["semantic_first_id"])
        return columns

    def _follow(self, first_id_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Name the first sample of the outermost group instead of one that is itself a semantic duplicate."""
        if not self._moment.follows_firsts:
            return first_id_N
        kinds = {"sample_id": ">i8", "first": ">i8"}
        found = copy_out(self._connection, FOLLOWED_FIRSTS, self._semantic, kinds)
        first_of = dict(zip(found["sample_id"].tolist(), found["first"].tolist(), strict=True))
        place_K = np.flatnonzero(first_id_N)
        for place in place_K[_are_in(first_id_N[place_K], found["sample_id"].astype(np.int64))].tolist():
            while (first := int(first_id_N[place])) in first_of:
                first_id_N[place] = first_of[first]
        return first_id_N

    def _exclude(self, sample_id_N: NDArray[np.int64], span: dict[str, int]) -> NDArray[np.uint8]:
        excluded_N = np.zeros(len(sample_id_N), np.uint8)
        if self._moment.where is not None:
            statement = filter_rows("filterable_samples", FILTER_COLUMNS, self._moment.where, span, known=self._known)
            matching = copy_out(self._connection, statement, span, {"sample_id": ">i8"})["sample_id"]
            excluded_N[~np.isin(sample_id_N, matching.astype(np.int64))] = Exclusion.PREDICATE
            self._count_missing_scores(sample_id_N, span)
        excluded_N[np.isin(sample_id_N, self._contaminated)] = Exclusion.CONTAMINATED
        return excluded_N

    def _count_missing_scores(self, sample_id_N: NDArray[np.int64], span: dict[str, int]) -> None:
        for name, rater_id in self._named.items():
            scored = copy_out(self._connection, SCORED, span | {"rater_id": rater_id}, {"sample_id": ">i8"})[
                "sample_id"
            ]
            self.n_without[name] += int(np.count_nonzero(~np.isin(sample_id_N, scored.astype(np.int64))))

    def _read_contaminated(self) -> NDArray[np.int64]:
        if not self._moment.decontaminate:
            return np.empty(0, np.int64)
        parameters = {
            "dataset_names": list(self._moment.decontaminate),
            "last_shard_id": self._moment.last_evaluation_shard_id,
        }
        found = copy_out(self._connection, load_query("contaminated_samples"), parameters, {"sample_id": ">i8"})
        return found["sample_id"].astype(np.int64)

    @property
    def _semantic(self) -> dict[str, Any]:
        names = ("semantic_rater_id", "last_semantic_block_id", "semantic_threshold")
        return {name: getattr(self._moment, name) for name in names}

    def _look_up(
        self, sample_id_N: NDArray[np.int64], statement: ClauseElement, given: dict[str, Any], column: str
    ) -> NDArray[np.int64]:
        """Return a column of a statement for each sample, by its id; 0 for a sample that the statement does not return."""
        found = copy_out(self._connection, statement, given, {"sample_id": ">i8", column: ">i8"})
        order = np.argsort(found["sample_id"])
        known, value = found["sample_id"][order].astype(np.int64), found[column][order].astype(np.int64)
        place_N = np.searchsorted(known, sample_id_N)
        is_known_N = place_N < len(known)
        is_known_N[is_known_N] = known[place_N[is_known_N]] == sample_id_N[is_known_N]
        value_N = np.zeros(len(sample_id_N), np.int64)
        value_N[is_known_N] = value[place_N[is_known_N]]
        return value_N


def _are_in(sample_id_N: NDArray[np.int64], wanted_M: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which samples are among the wanted ones, which are few."""
    if not len(wanted_M):
        return np.zeros(len(sample_id_N), np.bool_)
    return np.isin(sample_id_N, wanted_M)


def _values_of(sample_id_N: NDArray[np.int64], parts: Iterable[NDArray[Any]], column: str) -> NDArray[np.int64]:
    """Return a column of statements for each sample, by its id; 0 for a sample that they do not return."""
    last = int(sample_id_N.max(initial=0))
    # A value for each id: as large as the column of ids, and faster than searching.
    value_of = np.zeros(last + 1, np.int64)
    for part in parts:
        is_known = (part["sample_id"] >= 0) & (part["sample_id"] <= last)
        value_of[part["sample_id"][is_known].astype(np.int64)] = part[column][is_known]
    return value_of[sample_id_N]


# 30 million samples take 1.9 GB; the most recently used sets are kept.
MAX_POOLS = 4
# A folder that was not changed for this long belongs to no running selection.
_UNFINISHED_S = 24 * 3600
COUNTS = ("n_taken_down", "n_unscored", "unscored_by", "n_without")
ARRAYS = tuple(field.name for field in fields(EligibleSamples) if field.name not in COUNTS)


def scale_fingerprint(scale: RankScale) -> str:
    """Return the hash of a scale's knots, as a subset's specification holds it."""
    return fingerprint([scale.knot_scores.tolist(), scale.knot_ranks.tolist()])


def load_kept(key: str, *, should_verify: bool) -> tuple[str, EligibleSamples] | None:
    """Return the eligible hash and the samples of a moment, mapped from their files; None if they are missing or changed.

    Args:
        key: Hash of the moment.
        should_verify: Compare every byte with its hash (1 s per 2 GB), not only sizes and times of the files.
    """
    folder = kept_folder() / key
    try:
        note: dict[str, Any] = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
        names = [name for name in ARRAYS if name in note["arrays"]]
        counts: dict[str, Any] = {name: note[name] for name in COUNTS}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A home that can only be read keeps no note of what was used last.
    with contextlib.suppress(OSError):
        os.utime(folder)
    # One after the other: numpy parses headers with ast, which can fail in several threads in Python 3.11.
    found = [_map(folder / f"{name}.npy") for name in names]
    sealed = [column for column in found if column is not None]
    if len(sealed) < len(names):
        return None
    with ThreadPoolExecutor(max(len(names), 1)) as threads:
        if should_verify and not all(threads.map(lambda column: column[1] == _sha256(column[0]), sealed)):
            return None
    columns: dict[str, Any] = {name: column for name, (column, _) in zip(names, sealed, strict=True)}
    return str(note["eligible_hash"]), EligibleSamples(**columns, **counts)


def keep_eligible(key: str, eligible_hash: str, pairs: EligibleSamples) -> None:
    """Store the samples of a moment in files, if the disk has room and may be written, and delete the least recently used sets."""
    try:
        kept_folder().mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".", dir=kept_folder()))
    except OSError:
        return
    arrays = {name: column for name, column in pairs.columns().items() if column is not None}
    note = {"eligible_hash": eligible_hash, "arrays": sorted(arrays)} | {name: getattr(pairs, name) for name in COUNTS}
    # Without these files the next selection is slower, but it works.
    with contextlib.suppress(OSError):
        for name, column in arrays.items():
            _save(aside / f"{name}.npy", column)
        (aside / "pool.json").write_text(json.dumps(note), encoding="utf-8")
        shutil.rmtree(kept_folder() / key, ignore_errors=True)
        # Fails if another selection has just stored the same set.
        aside.rename(kept_folder() / key)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        changed_at = {
            path: path.stat().st_mtime for path in kept_folder().iterdir() if not path.name.startswith("nights-")
        }
        # Hidden folders are those that selections are writing, or that killed ones left.
        hidden = [path for path in changed_at if path.name.startswith(".")]
        pools = sorted(changed_at.keys() - hidden, key=changed_at.__getitem__, reverse=True)
        left = [path for path in hidden if changed_at[path] < time.time() - _UNFINISHED_S]
        for old in (*pools[MAX_POOLS:], *left):
            shutil.rmtree(old, ignore_errors=True)


def rank_kept(key: str, pairs: EligibleSamples, scale: RankScale, *, should_verify: bool) -> NDArray[np.float64]:
    """Return the samples' ranks on a scale; they are stored in a file on first use."""
    path = kept_folder() / key / f"rank-{scale_fingerprint(scale)}.npy"
    kept = _map(path)
    if kept is not None and len(kept[0]) == len(pairs) and not (should_verify and kept[1] != _sha256(kept[0])):
        return kept[0]
    rank_N = scale.rank(pairs.score_N)
    with contextlib.suppress(OSError):
        _save(path, rank_N)
    return rank_N


def forget_kept() -> None:
    """Delete all stored sets: a restored database can have the same ids with other samples."""
    shutil.rmtree(kept_folder(), ignore_errors=True)


def _map(path: Path) -> tuple[NDArray[Any], str] | None:
    """Map an array from its file, with the hash that it was stored with; None if the file is not the one that was stored."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if seal["stamp"] != _stamp(path):
            return None
        # Return a plain array, because every slice or sum of a memmap is a memmap.
        return np.asarray(np.load(path, mmap_mode="r")), str(seal["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(path: Path, column: NDArray[Any]) -> None:
    seal = path.with_suffix(".json")
    # No fsync: after a power cut the seal (size and time of the file) does not match, and the file is ignored.
    with atomic_write(path, is_durable=False) as partial:
        with partial.open("wb") as file:
            np.save(file, column)
        # A file without its seal is ignored, so the seal is removed first and written last.
        seal.unlink(missing_ok=True)
    seal.write_text(json.dumps({"sha256": _sha256(column), "stamp": _stamp(path)}), encoding="utf-8")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(column: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(column).data).hexdigest()


@dataclass(frozen=True, slots=True)
class NightFacts:
    """A night that eligible samples come from."""

    night_id: int
    dataset: str
    crawl_date: date
    created_at: datetime
    # Mean over its tars; None if its samples come from a retry.
    bytes_per_pair: float | None


def datasets_of(nights: Sequence[NightFacts], night_K: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the nights' datasets, and the index of each sample's dataset in that list.

    Args:
        nights: Nights that the samples come from.
        night_K: Night of each sample.
    """
    names = sorted({night.dataset for night in nights})
    number = np.zeros(1 + max((night.night_id for night in nights), default=0), np.int64)
    for night in nights:
        number[night.night_id] = names.index(night.dataset)
    return names, number[night_K]


def frozen(engine: Engine) -> Connection:
    """Open a connection whose statements all see one snapshot of the store."""
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def read_nights(connection: Connection, rater_id: int, **which: list[Any]) -> tuple[NightFacts, ...]:
    """Return the decided nights of `dataset_names`, or the nights `night_ids`."""
    parameters = {"rater_id": rater_id, "dataset_names": None, "night_ids": None} | which
    return tuple(NightFacts(*row) for row in connection.execute(load_query("decided_nights"), parameters))


class EligibleRequest:
    """Request for the eligible samples as of a moment."""

    def __init__(
        self, moment: Moment, nights: Sequence[NightFacts], *, should_verify: bool, scales: Sequence[RankScale] = ()
    ) -> None:
        """Request eligible samples.

        Args:
            moment: What they depend on.
            nights: Nights that they come from.
            should_verify: Whether to compare stored files with their hashes before use; previews skip that.
            scales: Rank scale of each score that is fused; empty if none are.
        """
        self._moment, self._nights, self._should_verify, self._scales = moment, nights, should_verify, scales
        self._found = ""

    def get(self, connection: Connection, *, may_be_kept: bool) -> tuple[str, EligibleSamples]:
        """Return the eligible hash and the samples: from files, else from the store and into files.

        Args:
            connection: From `frozen`.
            may_be_kept: Whether files of an earlier read may be used.
        """
        self._found = self._key(connection)
        kept = load_kept(self._found, should_verify=self._should_verify) if may_be_kept else None
        if kept is not None:
            return kept
        pairs = read_eligible(connection, self._moment, self._scales, should_verify=self._should_verify)
        eligible_hash = pairs.sha256(self._dataset_numbers(pairs))
        keep_eligible(self._found, eligible_hash, pairs)
        return eligible_hash, pairs

    def rank(self, pairs: EligibleSamples, scale: RankScale) -> NDArray[np.float64]:
        """Return the ranks of the samples that `get` returned."""
        return rank_kept(self._found, pairs, scale, should_verify=self._should_verify)

    def _dataset_numbers(self, pairs: EligibleSamples) -> NDArray[np.int64] | None:
        """Return the number of each sample's dataset, from 1 in order of appearance, so that names do not matter; None without groups."""
        if not self._moment.with_datasets:
            return None
        names, index_N = datasets_of(self._nights, pairs.night_N)
        return _number(index_N + 1) if len(names) > 1 else None

    def _key(self, connection: Connection) -> str:
        # The times at which the nights were created are included, because ids repeat in every new database.
        made = [[night.dataset, night.crawl_date.isoformat(), night.created_at.isoformat()] for night in self._nights]
        if self._moment.is_fixed:
            # Scores that were changed by hand change the counters of their table.
            return fingerprint([asdict(self._moment), made, read_edits(connection, self._moment.rater_id)])
        # The server's counters of changed rows identify a state. They lag by some seconds, which is enough for a preview.
        statement = text("""
            SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables
            WHERE schemaname = 'alchemist' AND relname = ANY(:tables) ORDER BY relname
        """)
        raters = {self._moment.rater_id, *_named_raters(self._moment, scores_by_name(connection)).values()}
        tables = ["samples", "heuristic_scores", *(f"scores_{rater_id}" for rater_id in raters)]
        changes = [list(row) for row in connection.execute(statement, {"tables": tables})]
        scales = [scale_fingerprint(scale) for scale in self._scales]
        return fingerprint([asdict(self._moment), made, changes, *([scales] if scales else [])])
