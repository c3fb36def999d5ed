"""Figures of a selection before it is used: size, origin, ranks, overlap, exclusions, training hours, warnings.

Writes nothing. Letters: K members · M members of the published version.
"""

from collections import Counter
from typing import Any

import numpy as np
from sqlalchemy import Engine

from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path
from alchemist_core.rating.acceptance import failed_checks
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.selection.fusion import ways_to_score
from alchemist_core.selection.ranks import MAX_CUT_DRIFT, needs_rescale, share_above_cut
from alchemist_core.selection.strategies import ShiftGsample, TopK, mixed_pairing_warning
from alchemist_core.store.embeddings import count_waiting
from alchemist_core.store.manifests import read_first_bits
from alchemist_core.store.rank_windows import is_tuned
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.samples import count_uncompared
from alchemist_core.store.subsets import published_version, seconds_per_member
from alchemist_core.subsets.selected import Selected

# More crawl dates than this are shown by month.
MAX_DATES = 31
# Source: Muennighoff et al. 2023, Scaling data-constrained language models: up to 4 reads are nearly as good as new data.
MOST_REPEATS = 4


def describe(
    engine: Engine, drawn: Selected, name: str, curve: SelectionCurve, *, keeps_accepted: bool
) -> dict[str, Any]:
    """Return the figures of a preview, as fields of the stage's result.

    Args:
        engine: The store.
        drawn: The selection.
        name: The subset's name.
        curve: The distribution of the members' ranks.
        keeps_accepted: Whether every accepted sample was asked for, as with `--retention auto`.
    """
    nights = drawn.snapshot.nights
    n_by_night = np.bincount(drawn.snapshot.pairs.night_N[drawn.member_K])
    datasets, dates, n_bytes = Counter[str](), Counter[str](), 0.0
    mean = _mean_bytes(drawn)
    for night in nights:
        n = int(n_by_night[night.night_id]) if night.night_id < len(n_by_night) else 0
        datasets[night.dataset] += n
        dates[night.crawl_date.isoformat()] += n
        n_bytes += n * (night.bytes_per_pair or mean)
    return {
        "n_bytes": round(n_bytes),
        "datasets": dict(datasets),
        "crawl_dates": _by_month(dates) if len(dates) > MAX_DATES else dict(sorted(dates.items())),
        "rank_histogram": curve.n_kept.reshape(20, -1).sum(axis=1).tolist(),
        "n_removed": drawn.n_removed,
        "overlap_with_published": _overlap(engine, drawn, name),
        "training_hours": _training_hours(engine, drawn.epoch_size),
        "warnings": _warnings(engine, drawn, curve, keeps_accepted=keeps_accepted),
    }


def dropped_shares(drawn: Selected) -> dict[str, float]:
    """Return the share of the scored samples that the drop-top ratio drops, and the one when the rank scale was fitted, 0-1."""
    cut = getattr(drawn.strategy, "drop_top_ratio", 0.0)
    return {
        "dropped_share": share_above_cut(drawn.snapshot.rank_N, cut),
        "usual_dropped_share": drawn.snapshot.scale.share_above_cut(cut),
    }


def _mean_bytes(drawn: Selected) -> float:
    """Return the mean over the nights; used for nights whose samples all lie in tars of other nights."""
    known = [night.bytes_per_pair for night in drawn.snapshot.nights if night.bytes_per_pair]
    return sum(known) / len(known) if known else 0.0


def _by_month(dates: Counter[str]) -> dict[str, int]:
    months = Counter[str]()
    for day, n in dates.items():
        months[day[:7]] += n
    return dict(sorted(months.items()))


def _overlap(engine: Engine, drawn: Selected, name: str) -> float | None:
    """Return the share of members that the published version has too; None if none is published or its manifest is missing."""
    published = published_version(engine, name)
    if published is None:
        return None
    try:
        before_M = read_first_bits(artifact_path(published.manifest_uri))
    except DataError:
        return None
    # Both are ascending, so that each search starts near the previous one.
    now_K = drawn.snapshot.pairs.pair_hash64_N[drawn.member_K].view(np.uint64)
    place_M = np.minimum(np.searchsorted(now_K, before_M), len(now_K) - 1)
    return round(int(np.count_nonzero(now_K[place_M] == before_M)) / len(now_K), 4)


def _training_hours(engine: Engine, k: int) -> float | None:
    speed = seconds_per_member(engine)
    return None if speed is None else round(k * speed / 3600, 3)


def _failure_warning(rater: RaterRow) -> str | None:
    failed = failed_checks(rater.acceptance_report)
    return f"Rater {rater.name} ranks although it failed acceptance checks: {', '.join(failed)}." if failed else None


def _rater_warnings(engine: Engine, drawn: Selected, *, keeps_accepted: bool) -> list[str | None]:
    rater, strategy = drawn.snapshot.rater, drawn.strategy
    if drawn.policy.rank_by != RATER_SCORE:
        return []
    mixed = mixed_pairing_warning(strategy, rater.rule, keeps_accepted=keeps_accepted)
    if mixed and is_tuned(engine, rater.rater_id, strategy):
        mixed = None
    return [mixed, _failure_warning(rater)]


def _warnings(engine: Engine, drawn: Selected, curve: SelectionCurve, *, keeps_accepted: bool) -> list[str]:
    policy, snapshot = drawn.policy, drawn.snapshot
    found: list[str | None] = _rater_warnings(engine, drawn, keeps_accepted=keeps_accepted)
    cut = getattr(drawn.strategy, "drop_top_ratio", 0.0)
    if needs_rescale(snapshot.rank_N, cut, snapshot.scale):
        share = share_above_cut(snapshot.rank_N, cut)
        found.append(
            f"--drop-top-ratio {cut} drops {share:.3f} of the scored samples: their scores have drifted. Consider --rescale."
        )
    found.append(_scale_warning(drawn))
    usual = ShiftGsample().drop_top_ratio
    if isinstance(drawn.strategy, ShiftGsample) and policy.retention > 1 - usual and cut < usual:
        found.append(
            f"Retention {policy.retention:g} needs a smaller drop-top ratio than the default {usual:g}: {cut:g}. Subsets with different "
            f"drop-top ratios need not be nested. To nest smaller subsets in this one, select them with --drop-top-ratio {cut:g} too."
        )
    if curve.is_saturated:
        found.append(
            f"Retention {policy.retention:g} asks for more samples than exist at the ranks that the strategy prefers: "
            "neighbouring ranks fill the gap. alchemist subset show and the report plot the requested and the actual ranks."
        )
    if policy.dedup != "off" and (n_uncompared := count_uncompared(engine)):
        found.append(
            f"About {n_uncompared:,} samples were never searched for duplicates, so that none of theirs is removed: run alchemist "
            "duplicates find, then select again. --dedup exact removes the same bytes only, --dedup near also near-duplicates."
        )
    found.append(_unscored_warning(drawn))
    for name, n in snapshot.pairs.n_without.items():
        found.append(
            f"{n:,} of {len(snapshot.pairs):,} scored samples have no score {name}: no comparison with it holds for them."
            if n
            else None
        )
    if policy.max_share is not None and (source_N := snapshot.pairs.source_N) is not None:
        n_sourceless = int(np.count_nonzero(source_N[drawn.member_K] == 0))
        found.append(
            f"{n_sourceless:,} members have no source_url, and so no source: the cap does not apply to them."
            if n_sourceless
            else None
        )
    found += _semantic_warnings(engine, drawn)
    found.append(_repeats_warning(drawn))
    return [warning for warning in found if warning]


def _unscored_warning(drawn: Selected) -> str | None:
    pairs = drawn.snapshot.pairs
    if not (n := pairs.n_unscored):
        return None
    lacking = {score: count for score, count in pairs.unscored_by.items() if count}
    each = f" ({', '.join(f'{score} {count:,}' for score, count in lacking.items())})" if len(lacking) > 1 else ""
    what = f"lack at least one of the scores that rank{each}" if each else f"have no score {', '.join(lacking)}"
    return f"{n:,} samples {what}, so they cannot be selected. {ways_to_score('+'.join(lacking))}"


def _scale_warning(drawn: Selected) -> str | None:
    """Return a warning if many scores lie outside the frozen scale, or if top_k cannot tell the highest of them apart."""
    snapshot = drawn.snapshot
    is_eligible_N = snapshot.pairs.eligible_mask() if snapshot.pairs.excluded_N.any() else None
    n_below, n_above = snapshot.scale.count_outside(snapshot.pairs.score_N, is_eligible_N)
    if isinstance(drawn.strategy, TopK) and n_above > len(drawn.member_K):
        return (
            f"{n_above:,} eligible samples score above the stored rank scale, so all of them have rank 0: top_k chooses "
            f"{len(drawn.member_K):,} of these without regard to their scores. Consider --rescale."
        )
    if (share := (n_below + n_above) / max(snapshot.n_eligible, 1)) > MAX_CUT_DRIFT:
        return (
            f"{share:.3f} of the eligible samples score outside the stored rank scale, so all above it have rank 0 and all below it rank "
            "1: their scores have drifted. Consider --rescale."
        )
    return None


def _repeats_warning(drawn: Selected) -> str | None:
    most = 1.0 if drawn.weight_K is None else float(drawn.weight_K.max())
    if most <= MOST_REPEATS:
        return None
    return (
        f"An epoch reads some members {most:.4g} times. A model learns less from a sample that it has read more than about "
        f"{MOST_REPEATS} times, over all epochs, than from a new one (Muennighoff et al. 2023): lower --retention, or accept more."
    )


def _semantic_warnings(engine: Engine, drawn: Selected) -> list[str | None]:
    """Return warnings about samples that have no cluster, or were not compared by their embeddings."""
    policy, found = drawn.policy, list[str | None]()
    if (cluster_N := drawn.snapshot.pairs.cluster_N) is not None:
        n_outside = int(np.count_nonzero(cluster_N[drawn.member_K] == 0))
        is_capped = policy.max_share is not None and policy.max_share_of == "cluster"
        alone = "they count as one cluster" if policy.variety else "they are a stratum of their own"
        what = "the cap does not apply to them" if is_capped else alone
        found.append(f"{n_outside:,} members have no cluster: {what}." if n_outside else None)
    if policy.dedup == "semantic" and (n_waiting := count_waiting(engine)):
        found.append(
            f"{n_waiting:,} embeddings were never searched for semantic duplicates: run alchemist duplicates find-semantic, then select "
            "again."
        )
    return found
