"""Differences between two versions of a subset: reselects both, and counts the samples that left or joined by reason."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.selection.differences import DrawSide, Moves, Reason, find_joiners, find_leavers
from alchemist_core.store.samples import why_not_eligible
from alchemist_core.store.subsets import SubsetRow
from alchemist_core.subsets.selected import Selected, reselect, select_members


@dataclass(frozen=True, slots=True)
class Changes:
    """Counts of two versions: n_before − leavers = n_both, and n_both + joiners = n_after."""

    n_before: int
    n_after: int
    leavers: dict[str, int]
    joiners: dict[str, int]

    @property
    def n_both(self) -> int:
        """Return the number of samples that are members of both."""
        return self.n_before - sum(self.leavers.values())


def find_changes(engine: Engine, before: SubsetRow, after: SubsetRow) -> Changes:
    """Reselect both versions and count the samples that left and joined, by reason.

    Raises:
        DataError: The eligible samples of one of them changed.
    """
    was, now = reselect(engine, before), reselect(engine, after)
    # The earlier selection at the later one's size: what a change of k alone explains.
    policy = was.policy.model_copy(update={"allow_fewer": True, "fill": "none"})
    kept = select_members(policy, was.snapshot, k=len(now.member_K), ties_by_name=was.ties_by_name)
    sides = _side(was), _side(now)
    leavers, joiners = find_leavers(*sides, kept.is_member_N), find_joiners(*sides, kept.is_member_N)
    return Changes(
        n_before=len(was.member_K),
        n_after=len(now.member_K),
        leavers=_count(engine, leavers, sides[0], after.snapshot_id, "k shrank"),
        joiners=_count(engine, joiners, sides[1], before.snapshot_id, "k grew"),
    )


def _side(drawn: Selected) -> DrawSide:
    pairs = drawn.snapshot.pairs
    return DrawSide(pairs.pair_hash_N32, drawn.snapshot.rank_N, drawn.key_N, drawn.is_member_N, drawn.excluded_N)


def _count(engine: Engine, moves: Moves, side: DrawSide, other_snapshot_id: int, k_word: str) -> dict[str, int]:
    """Count reasons; for samples that are missing from the other snapshot, the store tells why."""
    counts = Counter(moves.counts())
    if Reason.K_CHANGED in counts:
        counts[k_word] = counts.pop(Reason.K_CHANGED)
    if counts.pop(Reason.ABSENT, 0):
        absent_M32: NDArray[np.uint8] = side.pair_hash_N32[moves.index_M[moves.reason_M == Reason.ABSENT]]
        counts += Counter(row.reason for row in why_not_eligible(engine, other_snapshot_id, absent_M32))
    return dict(counts.most_common())
