"""Score drift of a night: measured against the accepted nights of its dataset, with the groups that contribute most.

The first night of a dataset under a rater has no accepted nights. It is compared with the rater's rank scale, else with the quantiles in
its acceptance report. PSI is the population stability index. Letters: N scores of a night · M points of a reference · B bins · G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine

from alchemist_core.lazy import NDArray, np
from alchemist_core.quality.limits import DriftLimits
from alchemist_core.store import nights
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.checks import read_time
from alchemist_core.store.nights import NightRow, ScoreBand, decide_night, night_title
from alchemist_core.store.raters import RaterRow

N_BINS = 10
SKETCH_POINTS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A distribution that scores are compared with: points in ascending order, each with the number of scores it represents."""

    score_M: NDArray[np.float64]
    count_M: NDArray[np.float64]

    @property
    def n(self) -> float:
        """Number of scores that the reference was made from."""
        return float(self.count_M.sum())


@dataclass(frozen=True, slots=True)
class Drift:
    """Two distances between a night and its reference; `psi` is corrected for the sizes of both."""

    psi: float
    ks_distance: float


def sketch(score_N: NDArray[np.floating], *, n_points: int = SKETCH_POINTS) -> NDArray[np.float64]:
    """Return the sorted scores, or the midpoints of `n_points` equal shares of them if there are more.

    The sketch's distribution function differs from that of the scores by at most half a share. Nights can therefore be merged
    without reading their scores again.

    >>> sketch(np.array([3.0, 1.0, 2.0, 4.0, 5.0, 6.0]), n_points=2).tolist()
    [2.0, 5.0]
    """
    sorted_N = np.sort(score_N.astype(np.float64))
    if len(sorted_N) <= n_points:
        return sorted_N
    middle_M = np.floor((np.arange(n_points) + 0.5) / n_points * len(sorted_N)).astype(np.int64)
    return sorted_N[middle_M]


def merge(parts: Sequence[tuple[NDArray[np.floating], int]]) -> Reference:
    """Merge sketches, each with the number of scores it was made from, into one reference.

    >>> merge([(np.array([1.0, 3.0]), 200), (np.array([2.0]), 50)]).count_M.tolist()
    [100.0, 50.0, 100.0]
    """
    score_M = np.concatenate([np.asarray(part, np.float64) for part, _ in parts])
    count_M = np.concatenate([np.full(len(part), n / max(len(part), 1)) for part, n in parts])
    order_M = np.argsort(score_M, kind="stable")
    return Reference(score_M[order_M], count_M[order_M])


def reference_of_scale(
    knot_scores: NDArray[np.floating], knot_ranks: NDArray[np.floating], n_reference: int
) -> Reference:
    """Return the distribution of a rank scale: each knot represents the samples between it and the knot below.

    >>> reference_of_scale(np.array([1.0, 5.0]), np.array([0.5, 0.0]), 3).count_M.tolist()
    [2.0, 1.0]
    """
    n_higher_M = np.asarray(knot_ranks, np.float64) * max(n_reference - 1, 1)
    return Reference(np.asarray(knot_scores, np.float64), -np.diff(n_higher_M, prepend=float(n_reference)))


def bin_edges(reference: Reference, *, n_bins: int = N_BINS) -> NDArray[np.float64]:
    """Return the inner edges of equal shares of the reference; fewer where many scores are equal. An edge belongs to its lower bin.

    >>> bin_edges(merge([(np.arange(1.0, 9.0), 8)]), n_bins=4).tolist()
    [2.0, 4.0, 6.0]
    """
    share_M = np.cumsum(reference.count_M) / reference.n
    # Slightly below each share, because of rounding errors in the running sum.
    place_B = np.searchsorted(share_M, np.arange(1, n_bins) / n_bins - 1e-9)
    return np.unique(reference.score_M[np.minimum(place_B, len(share_M) - 1)])


def count_bins(
    score_N: NDArray[np.floating], edges: NDArray[np.floating], weight_N: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Count scores by bin.

    >>> count_bins(np.array([1.0, 2.0, 2.5]), np.array([2.0])).tolist()
    [2.0, 1.0]
    """
    bin_N = np.searchsorted(edges, score_N, side="left")
    return np.bincount(bin_N, weights=weight_N, minlength=len(edges) + 1).astype(np.float64)


def corrected_psi(count_B: NDArray[np.floating], reference_count_B: NDArray[np.floating]) -> float:
    """Return the population stability index minus its expected value for two samples of the same distribution.

    Without drift, PSI is distributed as (1/n + 1/m) χ², with one degree of freedom fewer than bins: nine for ten bins.
    An empty bin counts as half a score.

    Source: Siddiqi 2006 (PSI); Yurdakul and Naranjo 2020 (its distribution without drift).
    Departs: 9 (1/n + 1/m) is subtracted, so that small nights do not appear to have drifted; the result can be negative.

    >>> round(corrected_psi(np.array([500.0, 500.0]), np.array([900.0, 100.0])), 3)
    0.877
    """
    n, m = count_B.sum(), reference_count_B.sum()
    p_B, q_B = np.maximum(count_B, 0.5) / n, np.maximum(reference_count_B, 0.5) / m
    return float(((p_B - q_B) * np.log(p_B / q_B)).sum() - (len(count_B) - 1) * (1 / n + 1 / m))


def ks_distance(score_N: NDArray[np.floating], reference: Reference) -> float:
    """Return the largest distance between the two distribution functions, an effect size from 0 to 1.

    Source: Kolmogorov 1933; Smirnov 1948.

    >>> ks_distance(np.array([3.0, 4.0]), merge([(np.array([1.0, 2.0, 3.0, 4.0]), 4)]))
    0.5
    """
    sorted_N = np.sort(score_N)
    points = np.concatenate([sorted_N, reference.score_M])
    below_N = np.searchsorted(sorted_N, points, side="right") / len(sorted_N)
    total_M = np.concatenate([[0.0], np.cumsum(reference.count_M)])
    below_M = total_M[np.searchsorted(reference.score_M, points, side="right")] / reference.n
    return float(np.abs(below_N - below_M).max())


def measure(score_N: NDArray[np.floating], reference: Reference) -> Drift:
    """Measure the drift of scores from a reference."""
    edges = bin_edges(reference)
    reference_count_B = count_bins(reference.score_M, edges, reference.count_M)
    return Drift(corrected_psi(count_bins(score_N, edges), reference_count_B), ks_distance(score_N, reference))


def contributions(count_GB: NDArray[np.floating], reference_count_B: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return what each group adds to the PSI of a night: the night's PSI minus the PSI without the group.

    >>> contributions(np.array([[10.0, 90.0], [90.0, 10.0], [50.0, 50.0]]), np.array([900.0, 100.0])).round(2).tolist()
    [0.61, -0.95, 0.0]
    """
    count_B = count_GB.sum(axis=0)
    whole = corrected_psi(count_B, reference_count_B)
    # A night with a single group has no remainder, so the PSI without the group is 0.
    without_G = [corrected_psi(rest_B, reference_count_B) if rest_B.sum() else 0.0 for rest_B in count_B - count_GB]
    return whole - np.array(without_G)


def judge(psi: float | None, limits: DriftLimits, *, n_own: int, n_tested: int, is_first: bool) -> str:
    """Return the verdict on a night: `recorded`, `pooled` with the next nights, `steady`, `warned` or `held`.

    Args:
        psi: Its corrected PSI. None: there is no reference.
        limits: The dataset's limits.
        n_own: Number of its own scores; with fewer than `min_scores` it is never held.
        n_tested: Number of its scores and of those of the small nights pooled with it.
        is_first: Whether the reference is the rater's own, which never holds a night.

    >>> judge(0.3, DriftLimits(), n_own=900, n_tested=900, is_first=False)
    'held'
    >>> judge(0.3, DriftLimits(), n_own=90, n_tested=900, is_first=False)
    'warned'
    """
    if n_tested < limits.min_scores:
        return "pooled"
    if psi is None:
        return "recorded"
    if psi >= limits.hold_psi and n_own >= limits.min_scores and not is_first:
        return "held"
    return "warned" if psi >= limits.warn_psi else "steady"


N_GROUPS = 3  # groups of each kind that are reported
N_EXAMPLES = 5
LONGEST_CAPTION = 2**31 - 1
CAPTION_EDGES = (16, 32, 64, 128, 256)  # characters at which the next group of lengths begins
FROM_ACCEPTED, FROM_SCALE, FROM_ACCEPTANCE_REPORT = (
    "accepted nights",
    "the rater's rank scale",
    "the rater's acceptance report",
)


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of a night that share a shard or a range of caption lengths."""

    kind: str
    name: str
    shard_id: int | None = None
    caption_length: tuple[int, int] = (0, LONGEST_CAPTION)


def _caption_group(shortest: int, longest: int) -> Group:
    name = f"{shortest}+ characters" if longest == LONGEST_CAPTION else f"{shortest}-{longest} characters"
    return Group("caption length", name, caption_length=(shortest, longest))


CAPTION_GROUPS = [
    _caption_group(shortest, longest - 1) for shortest, longest in pairwise((0, *CAPTION_EDGES, LONGEST_CAPTION + 1))
]


@dataclass(frozen=True, slots=True)
class Mover:
    """A group of samples and its contribution: the night's PSI minus the PSI without the group."""

    kind: str
    name: str
    n: int
    contribution: float
    psi_without: float
    samples: list[str]


@dataclass(frozen=True, slots=True)
class NightDrift:
    """Measurements of one night."""

    night_id: int
    verdict: str
    n: int
    n_tested: int
    psi: float | None = None
    ks_distance: float | None = None
    reference: str | None = None
    n_reference: int | None = None
    movers: list[Mover] = field(default_factory=list)


class Night:
    """A night to test: its scores, those of the small nights pooled with it, and their reference."""

    def __init__(self, engine: Engine, night: NightRow, rater: RaterRow, limits: DriftLimits) -> None:
        self.engine, self.night, self.rater, self.limits = engine, night, rater, limits
        # Scores that arrive while these are read must make the measurement outdated.
        self.measured_at = read_time(engine)
        own = nights.read_night_scores(engine, rater.rater_id, [night.night_id])
        self.own_N = own["score"]
        pooled = nights.read_pooled(engine, night, rater.rater_id)
        self.night_ids = [night.night_id, *pooled]
        self.tested = nights.read_night_scores(engine, rater.rater_id, self.night_ids) if pooled else own
        self.source, self.reference = self._find_reference()

    def _find_reference(self) -> tuple[str | None, Reference | None]:
        accepted = accepted_reference(self.engine, self.night.dataset_id, self.rater, without=self.night_ids)
        if accepted is not None:
            return FROM_ACCEPTED, accepted
        scale = nights.newest_scale(self.engine, self.rater.rater_id)
        if scale is not None:
            knots = np.array(scale.knot_scores), np.array(scale.knot_ranks)
            return FROM_SCALE, reference_of_scale(*knots, scale.n_reference)
        quantiles = self.rater.acceptance_report.get("score_quantiles")
        if quantiles:
            n = int(self.rater.acceptance_report.get("n_scores", len(quantiles)))
            return FROM_ACCEPTANCE_REPORT, merge([(np.array(quantiles, np.float64), n)])
        return None, None

    def measure(self) -> NightDrift:
        """Measure the night and find the groups that contribute most."""
        n_own, n_tested = len(self.own_N), len(self.tested)
        if self.reference is None or n_tested < self.limits.min_scores:
            verdict = judge(None, self.limits, n_own=n_own, n_tested=n_tested, is_first=True)
            return NightDrift(self.night.night_id, verdict, n_own, n_tested)
        found = measure(self.tested["score"], self.reference)
        is_first = self.source != FROM_ACCEPTED
        verdict = judge(found.psi, self.limits, n_own=n_own, n_tested=n_tested, is_first=is_first)
        return NightDrift(
            self.night.night_id, verdict, n_own, n_tested, round(found.psi, 6), round(found.ks_distance, 6),
            self.source, round(self.reference.n), self._movers(self.reference),
        )  # fmt: skip

    def _movers(self, reference: Reference) -> list[Mover]:
        shard_ids, shard_N = np.unique(self.tested["shard_id"], return_inverse=True)
        titles = nights.shard_uris(self.engine, shard_ids.tolist())
        shards = [Group("shard", titles[shard_id], shard_id) for shard_id in shard_ids.tolist()]
        length_N = np.searchsorted(CAPTION_EDGES, self.tested["caption_length"], side="right")
        return [
            *self._name_movers(shard_N, shards, reference),
            *self._name_movers(length_N, CAPTION_GROUPS, reference),
        ]

    def _name_movers(self, group_N: NDArray[np.int64], groups: Sequence[Group], reference: Reference) -> list[Mover]:
        edges = bin_edges(reference)
        reference_count_B = count_bins(reference.score_M, edges, reference.count_M)
        cell_N = group_N * (len(edges) + 1) + np.searchsorted(edges, self.tested["score"], side="left")
        count_GB = np.bincount(cell_N, minlength=len(groups) * (len(edges) + 1)).reshape(len(groups), -1).astype(float)
        added_G = contributions(count_GB, reference_count_B)
        whole = corrected_psi(count_GB.sum(axis=0), reference_count_B)
        borders = [-np.inf, *edges.tolist(), np.inf]
        movers = []
        for i in [i for i in np.argsort(-added_G, kind="stable")[:N_GROUPS] if added_G[i] > 0]:
            group, n, added = groups[i], int(count_GB[i].sum()), float(added_G[i])
            # Examples come from the bin in which the group exceeds the reference most.
            most = int(np.argmax(count_GB[i] / n - reference_count_B / reference_count_B.sum()))
            samples = nights.find_examples(
                self.engine, self.rater.rater_id, self.night_ids, n_examples=N_EXAMPLES,
                band=ScoreBand(group.shard_id, group.caption_length, (borders[most], borders[most + 1])),
            )  # fmt: skip
            movers.append(Mover(group.kind, group.name, n, round(added, 6), round(whole - added, 6), samples))
        return movers

    def histogram(self) -> dict[str, Any]:
        """Return the night's counts in the bins of the reference, or in bins of its own without a reference."""
        if not len(self.own_N):
            return {"edges": [], "counts": [0]}
        reference = self.reference or merge([(sketch(self.own_N), len(self.own_N))])
        edges = bin_edges(reference)
        found = {"edges": edges.tolist(), "counts": count_bins(self.own_N, edges).astype(int).tolist()}
        if self.reference is not None:
            share_B = count_bins(reference.score_M, edges, reference.count_M) / reference.n
            found["reference_shares"] = share_B.round(6).tolist()
        return found


def accepted_reference(engine: Engine, dataset_id: int, rater: RaterRow, *, without: Sequence[int]) -> Reference | None:
    """Merge the accepted nights of a dataset. Nights without a stored distribution are measured now, and stored."""
    parts = []
    for night_id, n, quantiles in nights.read_accepted(engine, dataset_id, rater.rater_id, without=without):
        if n is None or quantiles is None:
            parts.append(_record_shape(engine, night_id, rater))
        else:
            parts.append((np.array(quantiles), n))
    parts = [part for part in parts if part[1]]
    return merge(parts) if parts else None


def _record_shape(engine: Engine, night_id: int, rater: RaterRow) -> tuple[NDArray[np.float64], int]:
    measured_at = read_time(engine)
    score_N = nights.read_night_scores(engine, rater.rater_id, [night_id])["score"]
    shape = sketch(score_N)
    with engine.begin() as connection:
        nights.store_distribution(
            connection, night_id, measured_at=measured_at,
            n=len(score_N), quantiles=shape.tolist(), histogram={}, verdict="recorded",
        )  # fmt: skip
    return shape, len(score_N)


def judge_night(engine: Engine, night: NightRow, rater: RaterRow, limits: DriftLimits) -> NightDrift:
    """Measure an open night, store its distribution, and hold the night if it drifted too far, in one transaction."""
    tested = Night(engine, night, rater, limits)
    found = tested.measure()
    fields = {
        name: getattr(found, name)
        for name in ("verdict", "n", "n_tested", "psi", "ks_distance", "reference", "n_reference")
    }
    with engine.begin() as connection:
        nights.store_distribution(
            connection, night.night_id, measured_at=tested.measured_at, **fields, quantiles=sketch(tested.own_N).tolist(),
            histogram=tested.histogram(), explanation=[asdict(mover) for mover in found.movers],
        )  # fmt: skip
        if found.verdict == "held":
            reason, actor = hold_reason(found, limits), current_actor()
            if decide_night(connection, night.night_id, state="held", actor=actor, reason=reason):
                subject = f"night {night_title(night)}"
                record_event(connection, actor, "hold", subject, after={"state": "held", "reason": reason})
    return found


def hold_reason(found: NightDrift, limits: DriftLimits) -> str:
    """Return in one line why a night is held."""
    first = f"; {found.movers[0].kind} {found.movers[0].name} contributes most" if found.movers else ""
    return f"scores drifted: PSI {found.psi:.3f} (limit {limits.hold_psi:g}) against {found.reference}{first}"
