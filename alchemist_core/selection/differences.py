"""Why two selections have different members: each sample that left or joined, with the first reason that applies.

A sample that is absent from an eligible set (taken down, held, not crawled yet) is reported as absent; the caller knows why.

Letters: N eligible samples of one selection, M samples to find.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.exclusions import EXCLUSIONS, Exclusion


class Reason(StrEnum):
    """Why a sample is in one selection and not in the other, in addition to the reasons of `Exclusion`."""

    ABSENT = "absent"
    RANK_MOVED = "rank moved"
    DRAWN_ANEW = "drawn anew"
    K_CHANGED = "k changed"
    BETTER_KEY = "better key"


_IN_WORDS = {
    "predicate": "excluded by the condition of {other} (--where)",
    Reason.BETTER_KEY: "other samples came first in {other}",
    Reason.RANK_MOVED: "its rank has changed",
    "retired": "its shard was retired or replaced",
    "no score": "without the score by which {other} ranks",
    "eligible": "changed by hand since {other} was selected",
    "new pair": "new since {other} was selected",
    "k grew": "more samples are selected now",
    "k shrank": "fewer samples are selected now",
    "cap": "over the share of its dataset, source or cluster in {other} (--max-share)",
    "duplicate": "a duplicate in {other}",
    "semantic_duplicate": "a duplicate by its embedding in {other}",
    "contaminated": "contaminated in {other}: near an evaluation or validation sample",
    "rejected": "its score was rejected in {other}",
}


def describe_reason(reason: str, other: str = "the other version") -> str:
    """Return a reason in words that readers know.

    Args:
        reason: The reason as results name it; one that is in plain words already is returned as it is.
        other: The version in which the sample is not.

    >>> describe_reason("predicate", "v2"), describe_reason("taken down")
    ('excluded by the condition of v2 (--where)', 'taken down')
    """
    return _IN_WORDS.get(reason, reason).format(other=other)


@dataclass(frozen=True, slots=True, eq=False)
class DrawSide:
    """One selection from its eligible samples, in the order of their hashes."""

    pair_hash_N32: NDArray[np.uint8]
    rank_N: NDArray[np.float64]
    key_N: NDArray[np.float64]
    is_member_N: NDArray[np.bool_]
    # The code of `Exclusion` by which a sample cannot be a member, whichever key it has; 0: it can.
    excluded_N: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """The members of one side that are not members of the other, each with its reason."""

    index_M: NDArray[np.int64]
    reason_M: NDArray[np.object_]

    def counts(self) -> dict[str, int]:
        """Count the reasons, the most frequent first."""
        return dict(Counter(map(str, self.reason_M)).most_common())


def find_leavers(before: DrawSide, after: DrawSide, is_kept_N: NDArray[np.bool_]) -> Moves:
    """Return the members of `before` that are not members of `after`, with reasons.

    Args:
        before: The earlier selection.
        after: The later selection.
        is_kept_N: Members that the earlier selection would have with the later one's k.
    """
    here_M, there_M = _unmatched_members(before, after)
    return Moves(here_M, _reasons(before, after, (here_M, there_M), ~is_kept_N[here_M]))


def find_joiners(before: DrawSide, after: DrawSide, is_kept_N: NDArray[np.bool_]) -> Moves:
    """Return the members of `after` that are not members of `before`, with reasons; arguments as for `find_leavers`."""
    here_M, there_M = _unmatched_members(after, before)
    is_by_k_M = (there_M >= 0) & is_kept_N[there_M]
    return Moves(here_M, _reasons(after, before, (here_M, there_M), is_by_k_M))


def locate(pair_hash_N32: NDArray[np.uint8], wanted_M32: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the index of each sample among sorted ones; -1 if it is not among them.

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
    # 32 bytes as one sortable value; numpy strips trailing zeros and pads them again when it compares.
    return np.ascontiguousarray(pair_hash_N32).view("S32").ravel()


def _unmatched_members(here: DrawSide, there: DrawSide) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the members of one side that are not members of the other: their indices here, and there (-1: absent)."""
    member_M = np.flatnonzero(here.is_member_N)
    there_M = locate(there.pair_hash_N32, here.pair_hash_N32[member_M])
    is_both_M = (there_M >= 0) & there.is_member_N[there_M]
    return member_M[~is_both_M], there_M[~is_both_M]


def _reasons(
    here: DrawSide, there: DrawSide, places: tuple[NDArray[np.int64], NDArray[np.int64]], is_by_k_M: NDArray[np.bool_]
) -> NDArray[np.object_]:
    """Return the first reason that kept each sample out of `there`."""
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
