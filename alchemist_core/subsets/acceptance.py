"""The threshold of `select --accept auto` and `--retention auto`: which scores are good enough, why, and what errors to expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import file_sha256
from alchemist_core.lazy import np
from alchemist_core.models.critic_config import CriticRecord, read_critic_record
from alchemist_core.rating.acceptance import HELD_OUT
from alchemist_core.rating.config import RATER_SCORE, ScoringRule
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.fusion import fused_quantile, signals_of
from alchemist_core.selection.ranks import RankScale
from alchemist_core.store.raters import RaterRow, find_score
from alchemist_core.store.snapshots import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Engine

# Why a score of 0 divides good samples from bad ones, by scoring rule.
_ZEROS = {
    ScoringRule.LEARNABILITY: "below 0, training on the validation dataset raised the loss of a sample",
    ScoringRule.PMI: "below 0, the proxy predicts an image better from other captions than from its own",
}
_CRITIC = "alchemist_core.scorers.critic:CriticScore"


class Acceptance(NamedTuple):
    """A threshold and its reason, in words."""

    min_score: float
    reason: str


def resolve_acceptance(
    engine: Engine, policy: SelectionPolicy, snapshot: Snapshot
) -> tuple[SelectionPolicy, str | None]:
    """Return the policy with the threshold and the retention that `auto` stands for, and what it accepts and why, in words.

    A policy without a threshold is returned unchanged.

    Raises:
        ConfigError: The score has no threshold of its own, or no sample is accepted.
    """
    found = None
    if policy.min_score is not None:
        found = Acceptance(policy.min_score, "as --min-score demands")
    elif policy.accept == "auto":
        found = find_threshold(engine, policy, snapshot)
    if found is None:
        return policy, None
    pairs = snapshot.pairs
    n_accepted = int(np.count_nonzero(pairs.eligible_mask() & pairs.reaches(found.min_score)))
    if not n_accepted:
        by_hand = "Lower --min-score."
        of_auto = "Select without --accept auto and --retention auto, or set the bound by hand: --min-score."
        raise ConfigError(
            f"No eligible sample has a score of at least {found.min_score:g} ({found.reason}). "
            f"{of_auto if policy.min_score is None else by_hand}"
        )
    share = n_accepted / snapshot.n_eligible
    changed = {"min_score": found.min_score} | ({"retention": share} if policy.keeps_all_accepted else {})
    told = (
        f"{n_accepted:,} of {snapshot.n_eligible:,} eligible samples ({share:.1%}) have a score of at least {found.min_score:.6g}: "
        f"{found.reason}."
    )
    return policy.model_copy(update=changed), told


def find_threshold(engine: Engine, policy: SelectionPolicy, snapshot: Snapshot) -> Acceptance:
    """Return the lowest score that `--accept auto` accepts.

    Raises:
        ConfigError: A score has no natural 0 and was not measured on held-out validation samples.
    """
    signals = signals_of(policy.rank_by)
    raters = [snapshot.rater if name == RATER_SCORE else find_score(engine, name) for name in signals]
    if len(signals) > 1:
        return _fused(signals, raters, snapshot.signal_scales, policy.accept_loss)
    (rater,) = raters
    if rater is not None and rater.rule in _ZEROS:
        return Acceptance(0.0, _ZEROS[ScoringRule(rater.rule)])
    if rater is not None and rater.config.get("use") == _CRITIC:
        return _quantile(_critic_record(rater), policy.accept_loss)
    quantile_Q = _held_out(policy.rank_by, rater)
    return Acceptance(
        float(np.interp(policy.accept_loss, np.linspace(0, 1, len(quantile_Q)), quantile_Q)),
        f"{policy.accept_loss:.1%} of the validation samples that trained nothing have a lower score",
    )


def _fused(
    signals: Sequence[str], raters: Sequence[RaterRow | None], scales: Sequence[RankScale], loss: float
) -> Acceptance:
    ranks = [scale.rank(_held_out(name, rater)) for name, rater, scale in zip(signals, raters, scales, strict=True)]
    return Acceptance(
        fused_quantile(ranks, loss),
        f"{loss:.1%} of the validation samples that trained nothing have a lower fused score, if {' and '.join(signals)} err "
        "independently of each other",
    )


def _held_out(name: str, rater: RaterRow | None) -> NDArray[np.float64]:
    """Return the quantiles of what a score gives to validation samples that trained nothing."""
    found = None if rater is None else rater.acceptance_report.get(HELD_OUT)
    if not found:
        what = name if rater is None or rater.name == name else f"{rater.name} (rule {rater.rule})"
        raise ConfigError(
            f"{what} was not measured on held-out validation samples, so --accept auto and --retention auto find no threshold. An "
            "older scorer gets one from alchemist scorer train, an older rater from alchemist train-rater with another --seed. Or select "
            "by another score, or give --min-score."
        )
    return np.asarray(found, np.float64)


def _critic_record(critic: RaterRow) -> CriticRecord:
    """Return the record of a registered critic."""
    from alchemist_core.scorers.trained import trained_file  # noqa: PLC0415  only when there is one

    path = trained_file(str(critic.config["settings"]["head"]))
    if file_sha256(path).hex() != critic.config["identity"]["head_sha256"]:
        raise DataError(f"The critic {path} is not the one that was registered. Restore it from a backup.")
    return read_critic_record(path)


def _quantile(record: CriticRecord, loss: float) -> Acceptance:
    levels = np.linspace(0, 1, len(record.right_quantiles))
    least = float(np.interp(loss, levels, record.right_quantiles))
    # Quantiles may repeat, which np.interp does not invert: count those below.
    wrong = float(np.mean(np.asarray(record.wrong_quantiles) >= least))
    return Acceptance(
        least,
        f"{loss:.1%} of the critic's {record.n_heldout:,} held-out samples of {record.dataset} have a lower score; with the caption of "
        f"another sample, {wrong:.1%} of them would be accepted",
    )
