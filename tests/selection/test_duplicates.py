"""Every later image is grouped with its earliest first near-duplicate; no two first images are near-duplicates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.selection.duplicates import (
    MAX_DISTANCE,
    assign_firsts,
    hamming_distance,
    later_in_group,
    worse_in_group,
)
from tests.oracles.oracle_duplicates import oracle_firsts

# Few bits that matter, so that many look alike.
HASHES = st.lists(st.integers(0, 2**9 - 1), min_size=1, max_size=40)


def firsts_of(hashes: list[int], *, n_old: int = 0, known: dict[int, int] | None = None) -> dict[int, int]:
    """The algorithm of the store: old samples are first ones or in the group of one; new ones are compared with first and new ones."""
    known = known or {}
    old_firsts = [i for i in range(n_old) if i not in known]
    new = range(n_old, len(hashes))
    same_as = {}
    for i in new:
        same = [j for j in range(n_old, i) if hashes[j] == hashes[i]]
        if same:
            same_as[i] = same[0]
    near = [
        (i, j)
        for i in new
        if i not in same_as
        for j in [*old_firsts, *range(n_old, i)]
        if hamming_distance(hashes[i], hashes[j]) <= MAX_DISTANCE
    ]
    return known | assign_firsts(same_as, near)


@given(HASHES)
def test_the_first_samples_are_those_of_the_oracle(hashes: list[int]) -> None:
    assert firsts_of(hashes) == oracle_firsts(hashes, MAX_DISTANCE)


@given(HASHES)
def test_members_look_like_their_first_and_firsts_do_not_look_alike(hashes: list[int]) -> None:
    first_of = firsts_of(hashes)
    assert all(hamming_distance(hashes[i], hashes[first]) <= MAX_DISTANCE for i, first in first_of.items())
    firsts = [i for i in range(len(hashes)) if i not in first_of]
    assert set(first_of.values()) <= set(firsts)
    assert all(hamming_distance(hashes[i], hashes[j]) > MAX_DISTANCE for i in firsts for j in firsts if i < j)


@given(HASHES, st.data())
def test_night_by_night_gives_what_all_at_once_gives(hashes: list[int], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(hashes)))) | {len(hashes)})
    known: dict[int, int] = {}
    n_old = 0
    for cut in cuts:
        known = firsts_of(hashes[:cut], n_old=n_old, known=known)
        n_old = cut
    assert known == firsts_of(hashes)


def test_two_bits_of_difference_look_alike_and_three_do_not():
    assert MAX_DISTANCE == 2
    assert [hamming_distance(0, value) for value in (0, 0b11, 0b111, -1, -(2**63))] == [0, 2, 3, 64, 1]


def test_of_several_that_a_sample_looks_like_the_earliest_first_one_is_its_group():
    assert assign_firsts({}, [(9, 7), (9, 3), (9, 5)]) == {9: 3}
    # 5 is in the group of 3, so 9 cannot join 5; equal bytes lead to the first sample at once.
    assert assign_firsts({}, [(5, 3), (9, 5)]) == {5: 3}
    assert assign_firsts({9: 5}, [(5, 3)]) == {5: 3, 9: 3}
    assert assign_firsts({9: 5}, [(9, 1)]) == {9: 5}


@pytest.mark.parametrize(
    ("sample_ids", "first_ids", "is_open", "later"),
    [
        ([1, 2, 3], [0, 1, 1], [True, True, True], [1, 2]),
        # Without its first sample, which is excluded or absent, the next one represents a group.
        ([1, 2, 3], [0, 1, 1], [False, True, True], [2]),
        ([2, 3], [1, 1], [True, True], [1]),
        ([3, 2], [1, 1], [True, True], [0]),
        ([1, 2, 3], [0, 1, 1], [False, False, True], []),
        ([1, 2, 3], [0, 1, 1], [True, False, True], [2]),
        ([4, 5, 6, 7], [2, 1, 2, 1], [True] * 4, [2, 3]),
        ([1, 2], [0, 0], [True, True], []),
        ([], [], [], []),
    ],
)
def test_which_sample_is_grouped_with_another(sample_ids, first_ids, is_open, later) -> None:
    columns = np.array(sample_ids, np.int64), np.array(first_ids, np.int64), np.array(is_open, np.bool_)
    assert later_in_group(*columns).tolist() == later


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_of_each_group_the_best_is_kept_and_with_equal_scores_the_first(seed, n):
    rng = np.random.default_rng(seed)
    sample_id_N = np.arange(1, n + 1)
    # A first sample is in no group itself; some groups have a first sample that is not among these.
    is_first_N = rng.random(n) < 0.4
    first_id_N = np.where(is_first_N, 0, rng.choice(np.append(sample_id_N[is_first_N], 1000), n))
    is_eligible_N = rng.random(n) < 0.8
    score_N = rng.integers(0, 3, n).astype(float)
    dropped = set(worse_in_group(sample_id_N, first_id_N, is_eligible_N, score_N).tolist())
    group_N = np.where(first_id_N > 0, first_id_N, sample_id_N)
    for group in set(group_N.tolist()):
        present = [at for at in range(n) if group_N[at] == group and is_eligible_N[at]]
        kept = [at for at in present if at not in dropped]
        assert kept == sorted(present, key=lambda at: (-score_N[at], at))[:1]
    assert all(is_eligible_N[list(dropped)])
    equal = worse_in_group(sample_id_N, first_id_N, is_eligible_N, np.zeros(n))
    later = later_in_group(sample_id_N, first_id_N, is_eligible_N)
    earlier_first_N = (first_id_N == 0) | (first_id_N < sample_id_N) | (first_id_N == 1000)
    if earlier_first_N.all():
        assert equal.tolist() == later.tolist()
