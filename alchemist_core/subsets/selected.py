"""Selects the members of a subset from a snapshot by a policy (strategy, strata and caps), and reselects a stored version.

The result depends only on the snapshot and the policy. Letters: N eligible samples of the snapshot · K members.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.selection.config import SelectionPolicy, policy_of
from alchemist_core.selection.curves import SelectionCurve, selection_curve
from alchemist_core.selection.exclusions import Exclusion, count_exclusions
from alchemist_core.selection.quotas import divide_seats, draw_capped, largest_capped, vary
from alchemist_core.selection.sampler import (
    Keys,
    count_possible,
    largest,
    require_possible,
    retention_to_k,
    sample_members,
)
from alchemist_core.selection.strategies import Strategy
from alchemist_core.selection.weights import epoch_size_of, repeat_evenly, weigh
from alchemist_core.store.manifests import Manifest, read_manifest, rows_sha256, write_manifest
from alchemist_core.store.snapshots import Snapshot, reload_snapshot
from alchemist_core.store.subsets import SubsetRow
from alchemist_core.telemetry import warn


@dataclass(frozen=True, eq=False)
class Selected:
    """The members that were selected, and the reason why each other sample was not."""

    snapshot: Snapshot
    policy: SelectionPolicy
    strategy: Strategy
    # Ascending, which is the order of pair_hash and of the manifest.
    member_K: NDArray[np.int64]
    # A code of selection/exclusions.py: the snapshot's, or `CAP` for samples that only a cap excluded.
    excluded_N: NDArray[np.uint8]
    # The group within which a sample competes: its dataset or its source by number; None if all samples compete with each other.
    group_N: NDArray[np.int64] | None
    # How often an epoch reads each member on average; None: once each.
    weight_K: NDArray[np.float64] | None = None
    # The keys after --variety, −∞ for samples that cannot be selected; None without it.
    varied_N: NDArray[np.float64] | None = None
    # Whether datasets that tied for a seat got it by their names, as in older versions.
    ties_by_name: bool = False

    @property
    def epoch_size(self) -> int:
        """Number of samples that an epoch reads."""
        return len(self.member_K) if self.weight_K is None else epoch_size_of(self.weight_K)

    @cached_property
    def key_N(self) -> NDArray[np.float64]:  # noqa: N802  an array is named by its letters
        """Return the sampling key of every sample, also of excluded ones; −∞ where p(rank) is 0."""
        return self._keys.all()

    @property
    def final_key_N(self) -> NDArray[np.float64]:  # noqa: N802  as above
        """Return the keys by which samples compete: the sampling keys, or those that --variety made of them."""
        return self.key_N if self.varied_N is None else self.varied_N

    @cached_property
    def threshold(self) -> float:
        """Return the smallest final key of a member."""
        return float(self._member_keys().min())

    @cached_property
    def thresholds(self) -> dict[int, float]:
        """Return the smallest final key of a member by group; without groups, of all members under 0."""
        key_K = self._member_keys()
        group_K = np.zeros(len(self.member_K), np.int64) if self.group_N is None else self.group_N[self.member_K]
        groups, number_K = np.unique(group_K, return_inverse=True)
        smallest = np.full(len(groups), np.inf)
        np.minimum.at(smallest, number_K, key_K)
        return dict(zip(groups.tolist(), smallest.tolist(), strict=True))

    @cached_property
    def is_member_N(self) -> NDArray[np.bool_]:  # noqa: N802  as above
        """Return which samples are members."""
        is_member_N = np.zeros(len(self.snapshot.pairs), np.bool_)
        is_member_N[self.member_K] = True
        return is_member_N

    @property
    def n_removed(self) -> dict[str, int]:
        """Count the samples that were excluded regardless of their rank, by reason."""
        pairs = self.snapshot.pairs
        outside = {"takedown": pairs.n_taken_down, "unscored": pairs.n_unscored}
        return count_exclusions(self.excluded_N) | {word: n for word, n in outside.items() if n}

    def sha256(self) -> str:
        """Return the hash of the members and their weights, as their manifest has it."""
        return rows_sha256(self.snapshot.pairs.pair_hash_N32, self.member_K, self.weight_K)

    def curve(self) -> SelectionCurve:
        """Return the histogram of the members' ranks beside the one that the strategy asks for."""
        pairs = self.snapshot.pairs
        is_eligible_N = pairs.eligible_mask() if pairs.excluded_N.any() else None
        return selection_curve(
            self.snapshot.rank_N,
            self.member_K,
            strategy=self.strategy,
            p_rank=self.policy.p_rank,
            is_eligible_N=is_eligible_N,
            is_accepted_N=None if self.policy.min_score is None else _may_be_selected(self.policy, self.snapshot),
        )

    def _member_keys(self) -> NDArray[np.float64]:
        return self._keys.at(self.member_K) if self.varied_N is None else self.varied_N[self.member_K]

    @property
    def _keys(self) -> Keys:
        pairs = self.snapshot.pairs
        return Keys(self.snapshot.rank_N, pairs.pair_hash64_N, self.strategy, self.policy.noise())


def select_members(
    policy: SelectionPolicy, snapshot: Snapshot, *, k: int | None = None, ties_by_name: bool = False
) -> Selected:
    """Select exactly as many members as the retention demands; with `--fill repeat`, fewer ones that an epoch reads several times.

    Args:
        policy: The selection policy.
        snapshot: The eligible samples, with their sources and clusters if the policy needs them.
        k: Size of the subset, instead of the one by the policy's retention.
        ties_by_name: Whether a dataset whose name comes first gets the seat for which strata tie, as in older versions.

    Raises:
        ConfigError: The drop-top ratio, the caps or the strata leave too few; the message names the largest possible retention.
    """
    strategy = policy.resolve(snapshot.rater.rule)
    wanted = retention_to_k(policy.retention, snapshot.n_eligible) if k is None else k
    if policy.min_score is not None and not _may_be_selected(policy, snapshot).any():
        raise ConfigError(f"No eligible sample has a score of at least {policy.min_score:g} (--min-score). Lower it.")
    group_N = _groups(policy, snapshot)
    strata = [_Stratum(policy, snapshot, strategy, index) for index in _strata(policy, snapshot, by_name=ties_by_name)]
    n_members = wanted
    if _may_have_too_few(policy):
        n_possible = sum(stratum.n_possible for stratum in strata)
        n_members = min(wanted, n_possible) if policy.allow_fewer or policy.fill == "repeat" else wanted
        # A size of 0 is refused, also where repeats could not reach it.
        require_possible(n_members, n_possible, snapshot.n_eligible, what=_what(policy, snapshot, strategy))
    quotas = [n_members]
    if len(strata) > 1:
        quotas = divide_seats([part.n_eligible for part in strata], [part.n_possible for part in strata], n_members)
    drawn = [stratum.draw(quota) for stratum, quota in zip(strata, quotas, strict=True)]
    members, capped = (np.sort(np.concatenate(parts)) for parts in zip(*drawn, strict=True))
    excluded_N = snapshot.pairs.excluded_N
    if len(capped) or policy.min_score is not None:
        excluded_N = excluded_N.copy()
        excluded_N[capped] = Exclusion.CAP
        excluded_N[(excluded_N == 0) & ~_may_be_selected(policy, snapshot)] = Exclusion.REJECTED
    epoch_size = wanted if policy.fill == "repeat" else n_members
    weight_K = _weigh(policy, snapshot, strategy, members, epoch_size)
    varied_N = _varied(policy, snapshot, strata)
    return Selected(snapshot, policy, strategy, members, excluded_N, group_N, weight_K, varied_N, ties_by_name)


def suits(policy: SelectionPolicy, snapshot: Snapshot, strategy: Strategy, *, instead: Strategy) -> bool:
    """Return whether a strategy can select what the retention asks for, or at least as much as another one in its place.

    A policy that takes fewer samples asks for one. One that repeats samples does not: a few are not to be read often where more could be.
    """
    wanted = 1 if policy.allow_fewer else retention_to_k(policy.retention, snapshot.n_eligible)
    n_possible = _count_possible(policy, snapshot, strategy)
    return n_possible >= wanted or n_possible >= _count_possible(policy, snapshot, instead)


def _count_possible(policy: SelectionPolicy, snapshot: Snapshot, strategy: Strategy) -> int:
    strata = _strata(policy, snapshot, by_name=False)
    return sum(_Stratum(policy, snapshot, strategy, index).n_possible for index in strata)


def _may_have_too_few(policy: SelectionPolicy) -> bool:
    """Return whether an option can leave fewer samples than the retention asks for, so that they must be counted first."""
    is_limited = policy.stratify or policy.max_share is not None or policy.min_score is not None
    return is_limited or policy.allow_fewer or policy.fill == "repeat"


def _weigh(
    policy: SelectionPolicy, snapshot: Snapshot, strategy: Strategy, member_K: NDArray[np.int64], epoch_size: int
) -> NDArray[np.float64] | None:
    """Return how often an epoch reads each member; None if it reads each once."""
    hash64_K = snapshot.pairs.pair_hash64_N[member_K]
    if policy.weight_by == "rank":
        log_density_K = strategy.log_density(np.asarray(snapshot.rank_N[member_K], np.float64))
        weight_K = weigh(log_density_K, hash64_K, epoch_size, clip=policy.weight_clip)
    elif epoch_size > len(member_K):
        weight_K = repeat_evenly(hash64_K, epoch_size, seed=policy.seed)
    else:
        return None
    return None if (weight_K == 1).all() else weight_K


def _varied(policy: SelectionPolicy, snapshot: Snapshot, strata: Sequence["_Stratum"]) -> NDArray[np.float64] | None:
    if not policy.variety:
        return None
    varied_N = np.full(len(snapshot.pairs), -np.inf)
    for stratum in strata:
        place, key = stratum.varied()
        varied_N[place] = key
    return varied_N


def reselect(engine: Engine, subset: SubsetRow) -> Selected:
    """Select a stored version again, from its spec and its snapshot.

    Raises:
        DataError: The eligible samples of the snapshot changed.
    """
    drawn = select_members(policy_of(subset.spec), reload_snapshot(engine, subset.snapshot_id))
    return with_stored_ties(drawn, subset.manifest_sha256)


def with_stored_ties(drawn: Selected, manifest_sha256: str) -> Selected:
    """Return a selection as a stored version has it: in older ones, datasets that tied for a seat got it by their names."""
    policy = drawn.policy
    if not (policy.stratify and policy.stratify_by == "dataset") or drawn.sha256() == manifest_sha256:
        return drawn
    former = select_members(policy, drawn.snapshot, ties_by_name=True)
    return former if former.sha256() == manifest_sha256 else drawn


class _Stratum:
    """Samples that compete for the same quota: those of a dataset, or all (index None)."""

    def __init__(
        self, policy: SelectionPolicy, snapshot: Snapshot, strategy: Strategy, index: NDArray[np.int64] | None
    ) -> None:
        pairs = snapshot.pairs
        self._policy, self._strategy, self._index = policy, strategy, index
        is_limited = index is None and (pairs.excluded_N.any() or policy.min_score is not None)
        is_eligible_N = _may_be_selected(policy, snapshot) if is_limited else None
        self._is_eligible_N, self._group_N = is_eligible_N, self._own(_cap_groups(policy, snapshot))
        self._cluster_N = self._own(pairs.cluster_N) if policy.variety else None
        self._rank_N, self._hash_N = snapshot.rank_N, pairs.pair_hash64_N
        if index is not None:
            self._rank_N, self._hash_N = self._rank_N[index], self._hash_N[index]

    @property
    def n_eligible(self) -> int:
        return len(self._rank_N) if self._is_eligible_N is None else int(np.count_nonzero(self._is_eligible_N))

    @cached_property
    def n_possible(self) -> int:
        if self._policy.max_share is None:
            return count_possible(self._rank_N, self._strategy, self._is_eligible_N)
        group_N = self._group_of(self._candidates[0])
        _, n_G = np.unique(group_N[group_N != 0], return_counts=True)
        return largest_capped(n_G, self._policy.max_share, int(np.count_nonzero(group_N == 0)))

    def draw(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the members, and the samples that only a cap excluded, as indices of the snapshot."""
        none = np.empty(0, np.int64)
        if k == 0 and self._index is not None:
            return none, none
        if self._policy.max_share is None and self._cluster_N is None:
            noise = self._policy.noise()
            found = sample_members(
                self._rank_N, self._hash_N, k=k, strategy=self._strategy, noise=noise, is_eligible_N=self._is_eligible_N
            )
            return self._places(found), none
        candidate, key = self._candidates
        hash_N = self._hash_N[candidate]
        require_possible(k, len(candidate), self.n_eligible, what=f"strategy {self._strategy.name}")
        best = largest(key, hash_N, k)
        if self._policy.max_share is None:
            return self._places(candidate[best]), none
        chosen = draw_capped(key, hash_N, self._group_of(candidate), k=k, max_share=self._policy.max_share)
        capped = np.setdiff1d(best, chosen, assume_unique=True)
        return self._places(candidate[chosen]), self._places(candidate[capped])

    def varied(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the samples that can be selected, as indices of the snapshot, and the keys by which they compete."""
        candidate, key = self._candidates
        return self._places(candidate), key

    @cached_property
    def _candidates(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The samples that can be selected, and their keys after --variety."""
        keys = Keys(self._rank_N, self._hash_N, self._strategy, self._policy.noise(), self._is_eligible_N)
        candidate, key = keys.above(float(np.finfo(np.float64).min))
        if self._cluster_N is not None:
            key = vary(key, self._hash_N[candidate], self._cluster_N[candidate], strength=self._policy.variety)
        return candidate, key

    def _group_of(self, candidate: NDArray[np.int64]) -> NDArray[np.int64]:
        assert self._group_N is not None
        return self._group_N[candidate]

    def _own(self, column_N: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        return column_N if column_N is None or self._index is None else column_N[self._index]

    def _places(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        return found if self._index is None else self._index[found]


def _may_be_selected(policy: SelectionPolicy, snapshot: Snapshot) -> NDArray[np.bool_]:
    """Return which samples are eligible and have a score that the policy accepts."""
    is_eligible_N = snapshot.pairs.eligible_mask()
    return is_eligible_N if policy.min_score is None else is_eligible_N & snapshot.pairs.reaches(policy.min_score)


def _strata(policy: SelectionPolicy, snapshot: Snapshot, *, by_name: bool) -> Iterator[NDArray[np.int64] | None]:
    """Yield the samples of each stratum; a stratum that comes first gets the seat for which several tie."""
    if not policy.stratify:
        yield None
        return
    group_N = _stratum_of(policy, snapshot)
    place_N = np.flatnonzero(_may_be_selected(policy, snapshot))
    place_N = place_N[np.argsort(group_N[place_N], kind="stable")]
    # Thousands of clusters: one sort instead of a scan for each.
    if policy.stratify_by == "dataset":
        numbers = np.arange(len(snapshot.dataset_of()[0]))
    else:
        numbers = np.unique(group_N[place_N]) if len(place_N) else np.zeros(1, np.int64)
    starts = np.searchsorted(group_N[place_N], numbers)
    strata = np.split(place_N, starts)[1:]
    if policy.stratify_by == "dataset" and not by_name:
        # By their first samples, because a dataset can be renamed.
        strata.sort(key=lambda index: index[0] if len(index) else len(group_N))
    yield from strata


def _stratum_of(policy: SelectionPolicy, snapshot: Snapshot) -> NDArray[np.int64]:
    """Return the dataset of each sample, or its cluster, by number; samples without a cluster are a stratum of their own."""
    if policy.stratify_by == "dataset":
        return snapshot.dataset_of()[1]
    assert snapshot.pairs.cluster_N is not None
    return snapshot.pairs.cluster_N


def _cap_groups(policy: SelectionPolicy, snapshot: Snapshot) -> NDArray[np.int64] | None:
    """Return the group of each sample to which a cap applies, from 1; 0 for an unknown source or no cluster, which is not capped."""
    if policy.max_share is None:
        return None
    if policy.max_share_of == "dataset":
        return snapshot.dataset_of()[1] + 1
    return snapshot.pairs.source_N if policy.max_share_of == "source" else snapshot.pairs.cluster_N


def _groups(policy: SelectionPolicy, snapshot: Snapshot) -> NDArray[np.int64] | None:
    return _stratum_of(policy, snapshot) + 1 if policy.stratify else _cap_groups(policy, snapshot)


def _what(policy: SelectionPolicy, snapshot: Snapshot, strategy: Strategy) -> str:
    if policy.max_share is None:
        least = "" if policy.min_score is None else f" among scores of at least {policy.min_score:g}"
        return f"strategy {strategy.name}{least}"
    is_alone = policy.max_share_of == "dataset" and len(snapshot.dataset_of()[0]) == 1
    hint = " (the only one here; to cap hosts, use --max-share-of source)" if is_alone else ""
    return f"strategy {strategy.name} with at most {policy.max_share:g} of one {policy.max_share_of}{hint}"


def load_manifest(engine: Engine, subset: SubsetRow, *, must_store: bool = True) -> Manifest:
    """Return a version's members, after comparing them with the registered hash.

    Args:
        engine: Of the store.
        subset: The version.
        must_store: Whether a manifest that was selected again must be stored. A trainer may only be allowed to read the home, and has
            the members that it needs.

    Raises:
        DataError: Neither the file nor a reselection gives the registered members.
    """
    path = artifact_path(subset.manifest_uri)
    if not path.is_file():
        warn(f"The manifest of {subset.title} is missing. Selecting the version again from its spec.")
        manifest = manifest_of(reselect(engine, subset))
        if (found := manifest.sha256()) != subset.manifest_sha256:
            raise DataError(
                f"The members of {subset.title} have sha256 {subset.manifest_sha256}, but its spec now gives {found}. "
                f"Restore {path} from a backup."
            )
        try:
            write_manifest(path, manifest)
        except OSError as error:
            if must_store:
                raise
            warn(f"The manifest of {subset.title} cannot be stored, so it will be selected again next time: {error}.")
            return manifest
    return read_manifest(path, sha256=subset.manifest_sha256)


def manifest_of(drawn: Selected) -> Manifest:
    """Return the members with their ranks and scores, as a manifest."""
    pairs, member_K = drawn.snapshot.pairs, drawn.member_K
    return Manifest(
        pairs.pair_hash_N32[member_K], drawn.snapshot.rank_N[member_K], pairs.score_N[member_K], drawn.weight_K
    )
