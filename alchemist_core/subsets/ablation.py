"""What each score of a fusion (`--rank-by A+B`) decides: which members stay if it is left out."""

from dataclasses import replace

import numpy as np

from alchemist_core.selection.fusion import ranks_without, signals_of
from alchemist_core.subsets.selected import Selected, select_members


def members_without(drawn: Selected) -> dict[str, float]:
    """Return the share of the members that stay if a score is left out, for each score; empty without a fusion.

    A share near the retention means that the other scores agree with this one no more than by chance, a share near 1 that it decides
    nothing.
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
        others = select_members(policy, snapshot, k=len(drawn.member_K))
        n_same = len(np.intersect1d(others.member_K, drawn.member_K, assume_unique=True))
        found[signal] = n_same / len(drawn.member_K)
    return found


def describe_ablation(drawn: Selected) -> str | None:
    """Describe the shares in a sentence; None without a fusion."""
    found = members_without(drawn)
    if not found:
        return None
    shares = ", ".join(f"{share:.1%} without {signal}" for signal, share in found.items())
    return f"Mean of the ranks by {' and '.join(found)}. Of the members, {shares} would stay the same."
