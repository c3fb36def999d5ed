"""Why two draws have different members: each that left and each that joined, counted under the first reason that applies.

Knows arrays, no store: what is absent from an eligible set (taken down, held, not crawled yet) is left to the caller to name.
Letters: N eligible pairs of one draw, M pairs that are looked for.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.selection.exclusions import EXCLUSIONS, Exclusion


class Reason(StrEnum):
    """Why a pair is in one draw and not in the other, beside the words of selection/exclusions.py."""

    ABSENT = "absent"
    RANK_MOVED = "rank moved"
    DRAWN_ANEW = "drawn anew"
    K_CHANGED = "k changed"
    BETTER_KEY = "better key"


@dataclass(frozen=True, slots=True, eq=False)
class DrawSide:
    """One draw over its eligible pairs, in the order of pair_hash."""

    pair_hash_N32: NDArray[np.uint8]
    rank_N: NDArray[np.float64]
    key_N: NDArray[np.float64]
    is_member_N: NDArray[np.bool_]
    # Why a pair could not be a member whatever its key, as a code of selection/exclusions.py; 0 where it could.
    excluded_N: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """The pairs of one side that are no members of the other, and why: aligned."""

    index_M: NDArray[np.int64]
    reason_M: NDArray[np.object_]

    def counts(self) -> dict[str, int]:
        """Count the reasons, the most frequent first; they add up to the pairs that moved."""
        return dict(Counter(map(str, self.reason_M)).most_common())


def find_leavers(before: DrawSide, after: DrawSide, is_kept_N: NDArray[np.bool_]) -> Moves:
    """Return the members of `before` that are none of `after`, and why.

    Args:
        before: The earlier draw.
        after: The later draw.
        is_kept_N: What the earlier draw would hold with the later one's k.
    """
    here_M, there_M = _unmatched_members(before, after)
    return Moves(here_M, _reasons(before, after, (here_M, there_M), ~is_kept_N[here_M]))


def find_joiners(before: DrawSide, after: DrawSide, is_kept_N: NDArray[np.bool_]) -> Moves:
    """Return the members of `after` that were none of `before`, and why; arguments as for `find_leavers`."""
    here_M, there_M = _unmatched_members(after, before)
    is_by_k_M = (there_M >= 0) & is_kept_N[there_M]
    return Moves(here_M, _reasons(after, before, (here_M, there_M), is_by_k_M))


def locate(pair_hash_N32: NDArray[np.uint8], wanted_M32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return where each pair stands among sorted ones; -1 where it does not.

    >>> rows = np.zeros((2, 32), np.uint8); rows[1] = 7
    >>> locate(rows, rows[::-1]).tolist(), locate(rows[:1], rows).tolist()
    ([1, 0], [0, -1])
    """
    known_N, wanted_M = _as_words(pair_hash_N32), _as_words(wanted_M32)
    if not len(known_N):
        return np.full(len(wanted_M), -1, np.int64)
    place_M = np.minimum(np.searchsorted(known_N, wanted_M), len(known_N) - 1)
    return np.where(known_N[place_M] == wanted_M, place_M, -1)


def _as_words(pair_hash_N32: NDArray[np.uint8]) -> NDArray[Any]:
    # 32 bytes as one value that sorts; trailing zeros, which numpy leaves out, are padded again where it compares.
    return np.ascontiguousarray(pair_hash_N32).view("S32").ravel()


def _unmatched_members(here: DrawSide, there: DrawSide) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the members of one side that are none of the other: their indices here, and there (-1: absent)."""
    member_M = np.flatnonzero(here.is_member_N)
    there_M = locate(there.pair_hash_N32, here.pair_hash_N32[member_M])
    is_both_M = (there_M >= 0) & there.is_member_N[there_M]
    return member_M[~is_both_M], there_M[~is_both_M]


def _reasons(
    here: DrawSide, there: DrawSide, places: tuple[NDArray[np.int64], NDArray[np.int64]], is_by_k_M: NDArray[np.bool_]
) -> NDArray[np.object_]:
    """Name what kept each pair out of `there`: the first that applies."""
    here_M, there_M = places
    is_there_M = there_M >= 0
    excluded_M = there.excluded_N[there_M]
    names = np.array([EXCLUSIONS.get(code, "") for code in range(max(EXCLUSIONS) + 1)], object)
    is_capped_M = excluded_M == Exclusion.CAP
    choices = [
        (~is_there_M, Reason.ABSENT),
        ((excluded_M > 0) & ~is_capped_M, names[excluded_M]),
        (here.rank_N[here_M] != there.rank_N[there_M], Reason.RANK_MOVED),
        (here.key_N[here_M] != there.key_N[there_M], Reason.DRAWN_ANEW),
        (is_by_k_M, Reason.K_CHANGED),
        (is_capped_M, Exclusion.CAP.word),
    ]
    reason_M = np.full(len(here_M), Reason.BETTER_KEY, object)
    for applies_M, reason in reversed(choices):
        reason_M = np.where(applies_M, reason, reason_M)
    return reason_M
