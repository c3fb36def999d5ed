"""Bounds of a rater's acceptance report, as settings of the project file: `[acceptance]`; and the warnings in a stored report."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from alchemist_core.config import Section

HELD_OUT = "held_out_quantiles"
"""Field of an acceptance report: the quantiles of the scores of validation samples that trained nothing, from 0% to 100%."""


class AcceptanceLimits(Section):
    """Bounds of the checks on clean samples that a rater must pass before it may be promoted."""

    max_batch_change: float = Field(
        1e-5, ge=0, le=1, description="Largest change of a score by batch composition, in spreads of the clean scores"
    )
    max_neighbour_change: float = Field(
        0, ge=0, le=1, description="Largest change of a score by defective samples in the same batch"
    )
    max_flipped_codes: int = Field(
        0, ge=0, le=10**6, description="Images whose tokens may change with the batch composition"
    )
    min_score_spread: float = Field(
        1e-6, ge=0, le=1e30, description="Standard deviation of the scores of clean samples"
    )
    max_loss_correlation: float = Field(
        0.98,
        ge=0,
        le=1,
        description="Absolute Spearman correlation of the score with minus the loss; not for rule loss",
    )
    min_effective_samples: float = Field(
        1.5, ge=0, le=10**6, description="Effective sample size of a group of training weights, in samples"
    )
    max_effective_ratio: float = Field(
        0.999, ge=0, le=1, description="Effective sample size as a share of its group, above which weights are uniform"
    )
    min_entropy_ratio: float = Field(0.05, ge=0, le=1, description="Entropy as a share of the uniform weights' entropy")
    max_entropy_ratio: float = Field(0.9999, ge=0, le=1, description="As min_entropy_ratio, the upper bound")
    min_plain_auc: float = Field(0.7, ge=0, le=1, description="AUC of clean against plain images; not for rule loss")
    min_chaotic_auc: float = Field(0.7, ge=0, le=1, description="AUC of clean against chaotic images")
    min_caption_auc: float = Field(
        0.55, ge=0, le=1, description="AUC of a sample's own caption against another sample's"
    )
    warn_resolution_ratio: float = Field(
        4,
        ge=1,
        le=1000,
        description="Median side of the images as a multiple of the rater's resolution, from which on the report warns; it never fails",
    )
    min_rank_stability: float = Field(
        0.5, ge=-1, le=1, description="Spearman correlation with a rater of another seed, if one was trained"
    )


def warnings_of(acceptance_report: Mapping[str, Any]) -> list[str]:
    """Return the warnings of a stored acceptance report: the notes of the checks that warn, which fail nothing.

    >>> warnings_of({"checks": [{"name": "a", "note": "Small.", "is_warning": True}, {"name": "b", "note": "", "is_ok": False}]})
    ['Small.']
    """
    return [str(check["note"]) for check in acceptance_report.get("checks", []) if check.get("is_warning")]


def override_warning(acceptance_report: Mapping[str, Any], reason: str | None) -> str | None:
    """Return the warning that a rater in production has not passed its acceptance checks; None if it has.

    Args:
        acceptance_report: The stored acceptance report of the rater.
        reason: The reason that was given when the rater was promoted; None: none is stored.

    >>> check = {"name": "a", "value": 0.123456, "low": 0.7, "high": None, "note": "AUC", "is_ok": False}
    >>> override_warning({"is_certified": False, "checks": [check]}, "a trial")
    'This rater is in production although it failed acceptance checks: a is 0.1235 (must be ≥ 0.7; AUC). Reason of the promotion: a trial'
    >>> override_warning({"is_certified": True}, None)
    """
    if acceptance_report.get("is_certified"):
        return None
    failed = [_describe_failed(check) for check in acceptance_report.get("checks", []) if not check.get("is_ok", True)]
    state = f"failed acceptance checks: {', '.join(failed)}" if failed else "never passed its acceptance checks"
    text = f"This rater is in production although it {state}"
    return f"{text}. Reason of the promotion: {reason}" if reason else text


def _describe_failed(check: Mapping[str, Any]) -> str:
    bounds = [f"{sign} {check[end]:g}" for end, sign in (("low", "≥"), ("high", "≤")) if check.get(end) is not None]
    return f"{check['name']} is {check['value']:.4g} (must be {' and '.join(bounds)}; {check['note']})"


def failed_checks(acceptance_report: Mapping[str, Any]) -> list[str]:
    """Return the names of the checks that a stored acceptance report says have failed.

    >>> failed_checks({"checks": [{"name": "a", "is_ok": True}, {"name": "b", "is_ok": False}]}), failed_checks({})
    (['b'], [])
    """
    return [str(check["name"]) for check in acceptance_report.get("checks", []) if not check["is_ok"]]
