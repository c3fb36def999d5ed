"""A selection with strata and caps has exactly k members, nested and within its quotas, also after the corpus has grown."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.store.eligible import EligibleSamples, NightFacts
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.snapshots import Snapshot
from alchemist_core.subsets.selected import Selected, select_members

RATER = RaterRow(1, "r", "loss", "production", "c", b"c", {}, {})
NIGHTS = tuple(
    NightFacts(number, f"dataset {number}", date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), 9.0)
    for number in (1, 2, 3)
)
STRATEGIES = st.sampled_from(["shift_gsample", "gsample", "head_gsample", "random", "top_k", "block"])
SEEDS = st.integers(0, 2**32)
OPTIONS = st.fixed_dictionaries(
    {"strategy": STRATEGIES, "seed": SEEDS, "stratify": st.booleans(), "max_share_of": st.just("source")},
    optional={"max_share": st.sampled_from([0.05, 0.2, 0.34, 0.5, 0.8])},
)


def pool(seed: int, n: int) -> EligibleSamples:
    """Samples of three datasets and of a few sources, in the order of their hashes; some are excluded."""
    rng = np.random.default_rng(seed)
    hash_N32 = np.unique(rng.integers(0, 256, (n, 32)).astype(np.uint8), axis=0)
    first_N = np.ascontiguousarray(hash_N32[:, :8]).view(">i8").ravel().astype(np.int64)
    return EligibleSamples(
        hash_N32, first_N, np.round(rng.normal(size=n), 2), rng.choice([1, 1, 1, 2, 2, 3], n).astype(np.int32),
        rng.choice([0, 0, 0, 0, Exclusion.DUPLICATE], n).astype(np.uint8), np.minimum(rng.geometric(0.3, n) - 1, 6),
    )  # fmt: skip


def snapshot(pairs: EligibleSamples, scale: Any = None) -> Snapshot:
    scale = scale or fit_rank_scale(pairs.score_N)
    return Snapshot(1, RATER, pairs, scale, scale.rank(pairs.score_N), "e", NIGHTS)


def policy(retention: float, **options: Any) -> SelectionPolicy:
    return SelectionPolicy.model_validate({"retention": retention, **options})


@pytest.mark.slow
@given(seed=SEEDS, n=st.integers(30, 300), options=OPTIONS)
def test_20_percent_are_contained_in_50_and_70_with_every_option(seed: int, n: int, options: dict[str, Any]) -> None:
    frozen = snapshot(pool(seed, n))
    before: set[int] = set()
    for retention in (0.2, 0.5, 0.7):
        drawn = select_members(policy(retention, allow_fewer=True, **options), frozen)
        members = set(drawn.member_K.tolist())
        assert before <= members
        assert len(members) == len(drawn.member_K) <= round(retention * frozen.n_eligible)
        assert not frozen.pairs.excluded_N[drawn.member_K].any()
        assert (np.diff(drawn.member_K) > 0).all()
        before = members


@given(seed=SEEDS, n=st.integers(30, 300), retention=st.floats(0.05, 1), options=OPTIONS)
def test_exactly_k_come_out_or_the_refusal_names_a_retention_that_is_accepted(
    seed: int, n: int, retention: float, options: dict[str, Any]
) -> None:
    frozen = snapshot(pool(seed, n))
    n_eligible = frozen.n_eligible
    assume(round(retention * n_eligible) > 0)
    try:
        drawn = select_members(policy(retention, **options), frozen)
    except ConfigError as refusal:
        largest = float(str(refusal).split("retention is ")[1].split()[0].rstrip("."))
        assert largest < retention
        again = select_members(policy(largest, **options), frozen)
        assert len(again.member_K) == round(largest * n_eligible)
        # One sample more is refused.
        with pytest.raises(ConfigError):
            select_members(policy(retention, **options), frozen, k=len(again.member_K) + 1)
    else:
        assert len(drawn.member_K) == round(retention * n_eligible)


@given(seed=SEEDS, n=st.integers(30, 300), options=OPTIONS)
def test_no_source_has_more_than_its_cap_of_the_seats_that_it_competes_for(
    seed: int, n: int, options: dict[str, Any]
) -> None:
    share = options.setdefault("max_share", 0.2)
    frozen = snapshot(pool(seed, n))
    drawn = select_members(policy(0.3, allow_fewer=True, **options), frozen)
    strata = [1, 2, 3] if options["stratify"] else [None]
    source_K, night_K = frozen.pairs.source_N[drawn.member_K], frozen.pairs.night_N[drawn.member_K]
    for stratum in strata:
        own = source_K if stratum is None else source_K[night_K == stratum]
        assert np.bincount(own, minlength=8)[1:].max(initial=0) <= np.ceil(round(share * len(own), 9))


@given(seed=SEEDS, n=st.integers(60, 400), retention=st.floats(0.05, 0.9))
@pytest.mark.slow
def test_strata_have_their_shares_to_less_than_one_seat_each(seed: int, n: int, retention: float) -> None:
    frozen = snapshot(pool(seed, n))
    drawn = select_members(policy(retention, strategy="random", stratify=True), frozen)
    eligible = np.bincount(frozen.pairs.night_N[frozen.pairs.eligible_mask()], minlength=4)
    kept = np.bincount(frozen.pairs.night_N[drawn.member_K], minlength=4)
    assert (np.abs(kept - eligible * len(drawn.member_K) / frozen.n_eligible) < 1.5).all()


@given(seed=SEEDS, n=st.integers(100, 400), retention=st.floats(0.05, 0.6), strategy=STRATEGIES)
@pytest.mark.slow
def test_a_corpus_grown_by_a_tenth_takes_members_only_by_better_keys_or_by_what_was_removed(
    seed: int, n: int, retention: float, strategy: str
) -> None:
    """On the same scale: a member that leaves was removed, or has a smaller key than every present member."""
    rng = np.random.default_rng(seed)
    grown = pool(seed, n + n // 10)
    is_old_N = np.zeros(len(grown), np.bool_)
    is_old_N[rng.permutation(len(grown))[:n]] = True
    old = snapshot(grown.take(np.flatnonzero(is_old_N)))
    is_gone_N = rng.random(len(grown)) < 0.02
    now = snapshot(grown.take(np.flatnonzero(~is_gone_N)), old.scale)
    options = {"strategy": strategy, "seed": seed, "allow_fewer": True}
    before, after = select_members(policy(retention, **options), old), select_members(policy(retention, **options), now)
    was, there, removed = members(before), members(after), hashes(grown, np.flatnonzero(is_gone_N))
    keys = dict(
        zip(all_hashes(now), zip(after.key_N.tolist(), (-now.pairs.pair_hash64_N).tolist(), strict=True), strict=True)
    )
    worst = min(keys[member] for member in there)
    for leaver in was - there - removed:
        assert keys[leaver] < worst
    if was - there - removed:
        assert not (there - was) & set(all_hashes(old)), "while a member lost its place, no old pair gained one"


def members(drawn: Selected) -> set[bytes]:
    return hashes(drawn.snapshot.pairs, drawn.member_K)


def hashes(pairs: EligibleSamples, place_K: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in pairs.pair_hash_N32[place_K]}


def all_hashes(frozen: Snapshot) -> list[bytes]:
    return [row.tobytes() for row in frozen.pairs.pair_hash_N32]


def test_a_sample_that_only_a_cap_excludes_is_reported_as_capped() -> None:
    frozen = snapshot(pool(0, 300))
    free, capped = (
        select_members(policy(0.2), frozen),
        select_members(policy(0.2, max_share=0.4, max_share_of="dataset"), frozen),
    )
    said = set(np.flatnonzero(capped.excluded_N == Exclusion.CAP).tolist())
    assert said == set(free.member_K.tolist()) - set(capped.member_K.tolist())
    assert said
    assert capped.n_removed["cap"] == len(said)
    assert not (frozen.pairs.excluded_N == Exclusion.CAP).any()


def test_the_thresholds_of_groups_are_their_members_smallest_keys() -> None:
    frozen = snapshot(pool(1, 300))
    drawn = select_members(policy(0.3, stratify=True), frozen)
    assert drawn.group_N is not None
    for group, smallest in drawn.thresholds.items():
        is_in_K = drawn.group_N[drawn.member_K] == group
        assert smallest == drawn.key_N[drawn.member_K[is_in_K]].min()
        rest = np.setdiff1d(np.flatnonzero((drawn.group_N == group) & frozen.pairs.eligible_mask()), drawn.member_K)
        assert (drawn.key_N[rest] <= smallest).all()


def test_where_nothing_is_eligible_in_a_stratum_it_gets_no_seat() -> None:
    pairs = pool(2, 120)
    pairs.excluded_N[pairs.night_N == 3] = Exclusion.PREDICATE
    drawn = select_members(policy(0.5, strategy="random", stratify=True), snapshot(pairs))
    assert set(pairs.night_N[drawn.member_K].tolist()) == {1, 2}
