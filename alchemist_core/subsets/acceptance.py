"""The threshold of `select --accept auto` and `--retention auto`: which scores are good enough, why, and what errors to expect."""

from typing import NamedTuple

from sqlalchemy import Engine

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import file_sha256
from alchemist_core.lazy import np
from alchemist_core.models.critic_config import CriticRecord, read_critic_record
from alchemist_core.rating.config import RATER_SCORE, ScoringRule
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.store.raters import RaterRow, find_score
from alchemist_core.store.snapshots import Snapshot

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
    n_accepted = int(np.count_nonzero(pairs.eligible_mask() & (pairs.score_N >= found.min_score)))
    if not n_accepted:
        raise ConfigError(
            f"No eligible sample has a score of at least {found.min_score:g} ({found.reason}). Select without --accept auto."
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
        ConfigError: The score has no natural 0 and was not measured on held-out validation samples.
    """
    rater = snapshot.rater if policy.rank_by == RATER_SCORE else find_score(engine, policy.rank_by)
    if rater is not None and rater.rule in _ZEROS:
        return Acceptance(0.0, _ZEROS[ScoringRule(rater.rule)])
    if rater is not None and rater.config.get("use") == _CRITIC:
        return _quantile(_critic_record(rater), policy.accept_loss)
    what = policy.rank_by if rater is None else f"{rater.name} (rule {rater.rule})"
    raise ConfigError(
        f"{what} gives scores without a natural 0, so --accept auto and --retention auto find no threshold. Give --min-score, select by a "
        "rater of rule learnability or pmi, or by a critic: alchemist scorer train."
    )


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
