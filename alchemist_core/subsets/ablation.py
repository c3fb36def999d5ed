"""What each score of a fusion (`--rank-by A+B`) decides: which members stay if it is left out."""

from dataclasses import replace

import numpy as np

from alchemist_core.errors import ConfigError
from alchemist_core.selection.fusion import ranks_without, signals_of
from alchemist_core.subsets.selected import Selected, select_members


def members_without(drawn: Selected) -> dict[str, float]:
    """Return the share of the members that stay if a score is left out, for each score; empty without a fusion.

    A share near 1 means that the score decides nothing. By chance alone many members stay, because they were selected by the other scores
    too: of two independent ones with strategy top_k, about half at a retention of 20%, and three quarters at 50%. None stay where the
    others give all samples a rank that the strategy never selects.
    """
    pairs = drawn.snapshot.pairs
    if pairs.signal_N is None:
        return {}
    signals = signals_of(drawn.policy.rank_by)
    # A lowest fused score has no meaning for fewer scores: as many samples are selected, from all.
    policy = drawn.policy.without_threshold().model_copy(update={"fill": "none", "allow_fewer": True})
    found = {}
    for column, signal in enumerate(signals):
        score_N, rank_N = ranks_without(pairs.signal_N, column)
        snapshot = replace(drawn.snapshot, pairs=replace(pairs, score_N=score_N, signal_N=None), rank_N=rank_N)
        try:
            other_K = select_members(policy, snapshot, k=len(drawn.member_K)).member_K
        except ConfigError:  # all samples have one rank, which the strategy excludes
            other_K = np.empty(0, drawn.member_K.dtype)
        found[signal] = len(np.intersect1d(other_K, drawn.member_K, assume_unique=True)) / len(drawn.member_K)
    return found


def describe_ablation(drawn: Selected) -> str | None:
    """Describe the shares in a sentence; None without a fusion."""
    found = members_without(drawn)
    if not found:
        return None
    shares = ", ".join(f"{share:.1%} without {signal}" for signal, share in found.items())
    return f"Mean of the ranks by {' and '.join(found)}. Of the members, {shares} would stay the same."
