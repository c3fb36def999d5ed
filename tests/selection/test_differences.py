"""Why two selections differ: the parts add up, and each reason is true of the samples counted under it."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alchemist_core.selection.differences import DrawSide, Moves, Reason, find_joiners, find_leavers, locate
from alchemist_core.selection.exclusions import Exclusion
from alchemist_core.selection.sampler import largest
from tests.given import sha256

UNIVERSE = np.frombuffer(b"".join(sorted(sha256(i) for i in range(60))), np.uint8).reshape(-1, 32)
pools = st.sets(st.integers(0, 59), min_size=12).map(sorted)


def side(
    pool: Sequence[int], k: int, *, scale: float = 1.0, seed: int = 0, excluded: dict[int, int] | None = None
) -> DrawSide:
    """A selection of k samples of a corpus: keys from ranks and noise, as in the real selection."""
    rank_N = scale * (np.array(pool) + 1) / 60
    noise_N = np.random.default_rng(seed).gumbel(size=60)[pool]
    excluded_N = np.array([(excluded or {}).get(pair, 0) for pair in pool], np.uint8)
    key_N = np.where(excluded_N > 0, -np.inf, noise_N - rank_N)
    return DrawSide(UNIVERSE[pool], rank_N, key_N, members(key_N, k), excluded_N)


def members(key_N: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    is_member_N = np.zeros(len(key_N), np.bool_)
    is_member_N[largest(key_N, np.arange(len(key_N)), min(k, int((key_N > -np.inf).sum())))] = True
    return is_member_N


def split(before: DrawSide, after: DrawSide) -> tuple[dict[str, int], dict[str, int]]:
    kept_N = members(before.key_N, int(after.is_member_N.sum()))
    return find_leavers(before, after, kept_N).counts(), find_joiners(before, after, kept_N).counts()


def identities(one: DrawSide) -> set[bytes]:
    return {row.tobytes() for row in one.pair_hash_N32[one.is_member_N]}


@given(
    pools=st.tuples(pools, pools), ks=st.tuples(st.integers(1, 12), st.integers(1, 12)), scale=st.sampled_from([1.0, 0.9]),
    seed=st.integers(0, 1), excluded=st.dictionaries(st.integers(0, 59), st.sampled_from(Exclusion), max_size=30),
)  # fmt: skip
def test_the_parts_add_up_whatever_changed(pools, ks, scale, seed, excluded) -> None:
    before, after = side(pools[0], ks[0]), side(pools[1], ks[1], scale=scale, seed=seed, excluded=excluded)
    leavers, joiners = split(before, after)
    assert sum(leavers.values()) == len(identities(before) - identities(after))
    assert sum(joiners.values()) == len(identities(after) - identities(before))


@given(pool=pools, k=st.integers(1, 12), seed=st.integers(0, 5))
def test_nothing_moves_between_a_selection_and_itself(pool, k, seed) -> None:
    assert split(side(pool, k, seed=seed), side(pool, k, seed=seed)) == ({}, {})


@given(pool=pools, k=st.integers(1, 11))
def test_a_larger_k_on_the_same_corpus_only_adds(pool, k) -> None:
    assert split(side(pool, k), side(pool, k + 1)) == ({}, {Reason.K_CHANGED: 1})
    assert split(side(pool, k + 1), side(pool, k)) == ({Reason.K_CHANGED: 1}, {})


@given(pool=pools, new=pools, k=st.integers(1, 12), n_more=st.integers(0, 3))
def test_a_grown_corpus_on_the_same_scale_loses_members_to_better_keys_alone(pool, new, k, n_more) -> None:
    before, after = side(pool, k), side(sorted({*pool, *new}), k + n_more)
    leavers, joiners = split(before, after)
    assert set(leavers) <= {Reason.BETTER_KEY}
    assert set(joiners) <= {Reason.ABSENT, Reason.K_CHANGED}
    if leavers:
        smallest = after.key_N[after.is_member_N].min()
        lost = find_leavers(before, after, members(before.key_N, k + n_more)).index_M
        assert (before.key_N[lost] <= smallest).all()


@given(pool=pools, gone=pools, k=st.integers(1, 12))
def test_a_sample_that_is_removed_from_the_corpus_leaves_as_absent_and_the_next_keys_take_the_places(
    pool, gone, k
) -> None:
    left = sorted(set(pool) - set(gone[:6]))
    leavers, joiners = split(side(pool, k), side(left, min(k, len(left))))
    assert set(leavers) <= {Reason.ABSENT, Reason.K_CHANGED}
    assert set(joiners) <= {Reason.BETTER_KEY}


@given(pool=pools, k=st.integers(1, 12))
def test_a_new_scale_is_named_before_anything_that_follows_from_it(pool, k) -> None:
    leavers, joiners = split(side(pool, k), side(pool, k, scale=0.5))
    assert set(leavers) | set(joiners) <= {Reason.RANK_MOVED}


@given(pool=pools, k=st.integers(1, 12))
def test_another_seed_selects_anew(pool, k) -> None:
    leavers, joiners = split(side(pool, k), side(pool, k, seed=1))
    assert set(leavers) | set(joiners) <= {Reason.DRAWN_ANEW}


@given(pool=pools, excluded=st.dictionaries(st.integers(0, 59), st.just(Exclusion.DUPLICATE), max_size=10))
def test_a_duplicate_is_named_as_such_on_both_sides(pool, excluded) -> None:
    before, after = side(pool, 4), side(pool, 4, excluded=excluded)
    assert set(split(before, after)[0]) <= {"duplicate", Reason.K_CHANGED}
    assert set(split(after, before)[1]) <= {"duplicate"}


def test_samples_are_found_by_all_of_their_hash() -> None:
    rows = np.zeros((3, 32), np.uint8)
    rows[1, 31], rows[2, 0] = 1, 200
    assert locate(rows, rows[[2, 0, 1]]).tolist() == [2, 0, 1]
    strange = rows[:1].copy()
    strange[0, 31] = 2
    assert locate(rows, strange).tolist() == [-1]


def test_the_first_reason_that_applies_is_named() -> None:
    """Six samples leave a selection, each with one more reason than the next."""
    pool = list(range(7))
    rank_N, key_N = np.arange(7) / 10, np.arange(7.0)
    before = DrawSide(UNIVERSE[pool], rank_N, key_N, np.ones(7, np.bool_), np.zeros(7, np.uint8))
    after = DrawSide(
        UNIVERSE[pool[1:]],
        rank_N[1:] + np.array([1, 1, 0, 0, 0, 0]),
        key_N[1:] + np.array([1, 1, 1, 0, 0, 0]),
        np.zeros(6, np.bool_),
        np.array([Exclusion.PREDICATE, Exclusion.CAP, Exclusion.CAP, Exclusion.CAP, Exclusion.CAP, 0], np.uint8),
    )
    is_kept_N = np.array([False, False, False, False, False, True, True])
    moves = find_leavers(before, after, is_kept_N)
    assert moves.index_M.tolist() == pool
    assert [str(reason) for reason in moves.reason_M] == [
        "absent", "predicate", "rank moved", "drawn anew", "k changed", "cap", "better key",
    ]  # fmt: skip
    assert moves.counts() == dict.fromkeys(map(str, moves.reason_M), 1)


def test_reasons_are_counted_with_the_most_frequent_first() -> None:
    moves = Moves(np.arange(3), np.array(["cap", "absent", "absent"], object))
    assert list(moves.counts().items()) == [("absent", 2), ("cap", 1)]


def test_nothing_is_found_among_no_samples() -> None:
    assert locate(UNIVERSE[:0], UNIVERSE[:2]).tolist() == [-1, -1]
    assert locate(UNIVERSE[:2], UNIVERSE[:0]).tolist() == []
