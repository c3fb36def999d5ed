"""Quotas: Sainte-Laguë against a slow oracle; caps against the process that they represent; both nested in k."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.selection.quotas import divide_seats, draw_capped, largest_capped, vary
from alchemist_core.selection.sampler import largest
from tests.oracles.oracle_quotas import oracle_capped, oracle_seats
from tests.oracles.oracle_weights import oracle_varied

GROUPS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=7)
SHARES = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.7, 0.99, 1.0])


@given(groups=GROUPS, share=st.floats(0, 1))
def test_seats_are_divided_as_one_by_one_to_the_largest_quotient(groups, share):
    weights = [max(weight, 1) for weight, _ in groups]
    available = [min(weight, n) for weight, n in zip(weights, (n for _, n in groups), strict=True)]
    k = round(share * sum(available))
    assert divide_seats(weights, available, k) == oracle_seats(weights, available, k)


def test_seats_of_tens_of_millions_are_divided_exactly():
    weights = [15_000_000, 9_999_999, 4_999_999, 1, 1]
    seats = divide_seats(weights, weights, 5_999_999)
    assert sum(seats) == 5_999_999
    # No seat can move to a group with a larger claim: no next quotient exceeds the last quotient of another group.
    last = min(weight / (2 * n - 1) for weight, n in zip(weights, seats, strict=True) if n)
    assert all(weight / (2 * n + 1) <= last for weight, n in zip(weights, seats, strict=True))


def test_of_thousands_of_equal_groups_the_first_ones_get_the_last_seats():
    assert divide_seats([7] * 5000, [7] * 5000, 5000 + 1234) == [2] * 1234 + [1] * 3766


@given(groups=GROUPS)
def test_a_larger_k_takes_no_seat_away(groups):
    weights, available = [max(weight, 1) for weight, _ in groups], [n for _, n in groups]
    before = [0] * len(groups)
    for k in range(0, sum(available), max(1, sum(available) // 25)):
        seats = divide_seats(weights, available, k)
        assert sum(seats) == k
        assert all(n >= was for n, was in zip(seats, before, strict=True))
        before = seats


def pool(seed, n, n_groups):
    rng = np.random.default_rng(seed)
    # Uneven groups; 0 is free.
    group_N = np.minimum(rng.geometric(0.4, n) - 1, n_groups)
    return np.round(rng.normal(size=n), 1), rng.permutation(n).astype(np.int64), group_N


def sizes(group_N, n_groups):
    return np.bincount(group_N, minlength=n_groups + 1)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), n_groups=st.integers(1, 5), share=SHARES)
def test_a_capped_selection_is_the_process_of_taking_one_by_one(seed, n, n_groups, share):
    key_N, hash_N, group_N = pool(seed, n, n_groups)
    counts = sizes(group_N, n_groups)
    possible = largest_capped(counts[1:], share, int(counts[0]))
    order = oracle_capped(key_N.tolist(), hash_N.tolist(), group_N.tolist(), share)
    assert possible == len(order)
    for k in range(1, possible + 1):
        chosen_K = draw_capped(key_N, hash_N, group_N, k=k, max_share=share)
        assert chosen_K.tolist() == sorted(order[:k])


@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), n_groups=st.integers(1, 8), share=SHARES)
def test_a_cap_holds_at_every_size_to_the_sample_and_a_larger_size_only_adds(seed, n, n_groups, share):
    key_N, hash_N, group_N = pool(seed, n, n_groups)
    counts = sizes(group_N, n_groups)
    possible = largest_capped(counts[1:], share, int(counts[0]))
    before = set()
    for k in range(1, possible + 1, max(1, possible // 15)):
        members = draw_capped(key_N, hash_N, group_N, k=k, max_share=share)
        assert len(set(members.tolist())) == k
        # At most a share of the subset, rounded up, so every group may have one sample.
        assert sizes(group_N[members], n_groups)[1:].max(initial=0) <= np.ceil(round(share * k, 9))
        assert before <= set(members.tolist())
        before = set(members.tolist())


def test_without_need_a_cap_changes_nothing():
    key_N, hash_N, group_N = pool(0, 200, 4)
    best = np.sort(np.lexsort((hash_N, -key_N))[:50])
    assert draw_capped(key_N, hash_N, group_N, k=50, max_share=1.0).tolist() == best.tolist()


@pytest.mark.parametrize(("share", "possible"), [(0.5, 20), (0.4, 20), (0.1, 20)])
def test_what_is_in_no_group_is_never_capped(share, possible):
    group_N = np.zeros(20, np.int64)
    assert largest_capped(np.array([], np.int64), share, 20) == possible
    assert len(draw_capped(np.arange(20.0), np.arange(20), group_N, k=20, max_share=share)) == 20


def test_of_two_equal_claims_the_earlier_group_gets_the_seat():
    assert divide_seats([5, 5, 5], [5, 5, 5], 4) == [2, 1, 1]
    assert divide_seats([5, 5], [0, 5], 2) == [0, 2]
    assert divide_seats([3], [3], 0) == [0]


@pytest.mark.parametrize(("k", "members"), [(1, [0]), (2, [0, 4]), (3, [0, 1, 4]), (4, [0, 1, 4, 5])])
def test_a_half_of_an_odd_number_is_rounded_up_for_the_better_group(k, members):
    key_N, group_N = np.array([9.0, 8, 7, 6, 1, 0]), np.array([1, 1, 1, 1, 2, 2])
    assert draw_capped(key_N, np.arange(6), group_N, k=k, max_share=0.5).tolist() == members


def test_a_capped_selection_of_equal_keys_goes_by_hash():
    group_N = np.array([1, 1, 2, 2])
    assert draw_capped(np.zeros(4), np.array([9, 3, 1, 2]), group_N, k=2, max_share=0.5).tolist() == [1, 2]


@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 60), n_groups=st.integers(1, 5),
    strength=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)  # fmt: skip
def test_varied_selections_are_the_slow_orders_and_nested(seed, n, n_groups, strength):
    key_N, hash_N, group_N = pool(seed, n, n_groups)
    varied_N = vary(key_N, hash_N, group_N, strength=strength)
    before = set()
    for k in range(1, n + 1, max(1, n // 10)):
        members = largest(varied_N, hash_N, k)
        assert members.tolist() == oracle_varied(key_N.tolist(), hash_N.tolist(), group_N.tolist(), strength, k)
        assert before <= set(members.tolist())
        before = set(members.tolist())


@given(seed=st.integers(0, 10_000), k=st.integers(1, 200))
def test_full_variety_gives_every_group_the_same_number_as_far_as_it_has_samples(seed, k):
    key_N, hash_N, group_N = pool(seed, 200, 6)
    n_G = sizes(group_N[largest(vary(key_N, hash_N, group_N, strength=1.0), hash_N, k)], 6)
    has_more_G = sizes(group_N, 6) > n_G
    assert n_G.max() - n_G[has_more_G].min(initial=200) <= 1


def test_no_variety_is_the_order_of_the_keys_and_more_variety_leaves_less_to_the_largest_group():
    key_N, hash_N, group_N = pool(3, 4000, 9)
    plain = largest(key_N, hash_N, 600)
    assert largest(vary(key_N, hash_N, group_N, strength=0.0), hash_N, 600).tolist() == plain.tolist()
    strengths = (0.0, 0.3, 0.6, 0.9, 1.0)
    shares = [
        sizes(group_N[largest(vary(key_N, hash_N, group_N, strength=strength), hash_N, 600)], 9).max()
        for strength in strengths
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[-1]
