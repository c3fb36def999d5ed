"""Every later picture stands behind the earliest first one that it looks like; no two first ones look alike."""

from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.selection.duplicates import MAX_DISTANCE, assign_firsts, hamming_distance
from tests.oracles.oracle_duplicates import oracle_firsts

# Few bits that matter, so that many look alike.
HASHES = st.lists(st.integers(0, 2**9 - 1), min_size=1, max_size=40)


def firsts_of(hashes: list[int], *, n_old: int = 0, known: dict[int, int] | None = None) -> dict[int, int]:
    """What the store does: old pairs are first ones or stand behind one; new ones are compared with first and new ones."""
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
def test_the_firsts_are_those_of_the_slow_twin(hashes: list[int]) -> None:
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
