"""One night's drift: measured against the accepted nights of its dataset, explained by the group that moved it most, stored.

A dataset's first night under a rater is compared with the rater's own reference: its rank scale, else the quantiles in its
certificate. Letters: N scores of a night · B bins · G groups.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.evaluation import drift
from alchemist_core.evaluation.drift import DriftLimits, Reference
from alchemist_core.store import distributions
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.distributions import ScoreBand
from alchemist_core.store.nights import decide_night, night_title
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.tables import AnyRow

N_GROUPS = 3  # named of each kind
N_EXAMPLES = 5
LONGEST_CAPTION = 2**31 - 1
CAPTION_EDGES = (16, 32, 64, 128, 256)  # characters: where the next group of lengths begins
FROM_ACCEPTED, FROM_SCALE, FROM_CERTIFICATE = "accepted nights", "the rater's rank scale", "the rater's certificate"


@dataclass(frozen=True, slots=True)
class Group:
    """Pairs of a night that have something in common."""

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
    """A group of the night's pairs and what it adds to the night's PSI: the whole's less that of the night without it."""

    kind: str
    name: str
    n: int
    contribution: float
    psi_without: float
    samples: list[str]


@dataclass(frozen=True, slots=True)
class NightDrift:
    """What was measured of one night."""

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
    """A night under test: its scores with those of the small nights pooled with it, and what they are compared with."""

    def __init__(self, engine: Engine, night: AnyRow, rater: RaterRow, limits: DriftLimits) -> None:
        self.engine, self.night, self.rater, self.limits = engine, night, rater, limits
        self.own_N = distributions.read_night_scores(engine, rater.rater_id, [night.night_id])["score"]
        self.night_ids = [night.night_id, *distributions.read_pooled(engine, night, rater.rater_id)]
        self.tested = distributions.read_night_scores(engine, rater.rater_id, self.night_ids)
        self.source, self.reference = self._find_reference()

    def _find_reference(self) -> tuple[str | None, Reference | None]:
        accepted = accepted_reference(self.engine, self.night.dataset_id, self.rater, without=self.night_ids)
        if accepted is not None:
            return FROM_ACCEPTED, accepted
        scale = distributions.newest_scale(self.engine, self.rater.rater_id)
        if scale is not None:
            knots = np.array(scale.knot_scores), np.array(scale.knot_ranks)
            return FROM_SCALE, drift.reference_of_scale(*knots, scale.n_reference)
        quantiles = self.rater.certificate.get("score_quantiles")
        if quantiles:
            n = int(self.rater.certificate.get("n_scores", len(quantiles)))
            return FROM_CERTIFICATE, drift.merge([(np.array(quantiles, np.float64), n)])
        return None, None

    def measure(self) -> NightDrift:
        """Measure the night and name what moved it."""
        n_own, n_tested = len(self.own_N), len(self.tested)
        if self.reference is None or n_tested < self.limits.min_scores:
            verdict = drift.judge(None, self.limits, n_own=n_own, n_tested=n_tested, is_first=True)
            return NightDrift(self.night.night_id, verdict, n_own, n_tested)
        found = drift.measure(self.tested["score"], self.reference)
        is_first = self.source != FROM_ACCEPTED
        verdict = drift.judge(found.psi, self.limits, n_own=n_own, n_tested=n_tested, is_first=is_first)
        return NightDrift(
            self.night.night_id, verdict, n_own, n_tested, round(found.psi, 6), round(found.ks_distance, 6),
            self.source, round(self.reference.n), self._movers(self.reference),
        )  # fmt: skip

    def _movers(self, reference: Reference) -> list[Mover]:
        shard_ids, shard_N = np.unique(self.tested["shard_id"], return_inverse=True)
        titles = distributions.shard_uris(self.engine, shard_ids.tolist())
        shards = [Group("shard", titles[shard_id], shard_id) for shard_id in shard_ids.tolist()]
        length_N = np.searchsorted(CAPTION_EDGES, self.tested["caption_length"], side="right")
        return [
            *self._name_movers(shard_N, shards, reference),
            *self._name_movers(length_N, CAPTION_GROUPS, reference),
        ]

    def _name_movers(self, group_N: NDArray[np.int64], groups: Sequence[Group], reference: Reference) -> list[Mover]:
        edges = drift.bin_edges(reference)
        reference_count_B = drift.count_bins(reference.score_M, edges, reference.count_M)
        cell_N = group_N * (len(edges) + 1) + np.searchsorted(edges, self.tested["score"], side="left")
        count_GB = np.bincount(cell_N, minlength=len(groups) * (len(edges) + 1)).reshape(len(groups), -1).astype(float)
        added_G = drift.contributions(count_GB, reference_count_B)
        whole = drift.corrected_psi(count_GB.sum(axis=0), reference_count_B)
        borders = [-np.inf, *edges.tolist(), np.inf]
        movers = []
        for i in [i for i in np.argsort(-added_G, kind="stable")[:N_GROUPS] if added_G[i] > 0]:
            group, n, added = groups[i], int(count_GB[i].sum()), float(added_G[i])
            # Where the group has most beyond its share: there lies what is new.
            most = int(np.argmax(count_GB[i] / n - reference_count_B / reference_count_B.sum()))
            samples = distributions.find_examples(
                self.engine, self.rater.rater_id, self.night_ids, n_examples=N_EXAMPLES,
                band=ScoreBand(group.shard_id, group.caption_length, (borders[most], borders[most + 1])),
            )  # fmt: skip
            movers.append(Mover(group.kind, group.name, n, round(added, 6), round(whole - added, 6), samples))
        return movers

    def histogram(self) -> dict[str, Any]:
        """Return the night's own counts between the reference's tenths (its own where there is no reference)."""
        if not len(self.own_N):
            return {"edges": [], "counts": [0]}
        reference = self.reference or drift.merge([(drift.sketch(self.own_N), len(self.own_N))])
        edges = drift.bin_edges(reference)
        found = {"edges": edges.tolist(), "counts": drift.count_bins(self.own_N, edges).astype(int).tolist()}
        if self.reference is not None:
            share_B = drift.count_bins(reference.score_M, edges, reference.count_M) / reference.n
            found["reference_shares"] = share_B.round(6).tolist()
        return found


def accepted_reference(engine: Engine, dataset_id: int, rater: RaterRow, *, without: Sequence[int]) -> Reference | None:
    """Merge the accepted nights of a dataset; one whose shape was never stored is measured now, once."""
    parts = []
    for night_id, n, quantiles in distributions.read_accepted(engine, dataset_id, rater.rater_id, without=without):
        if n is None or quantiles is None:
            parts.append(_record_shape(engine, night_id, rater))
        else:
            parts.append((np.array(quantiles), n))
    parts = [part for part in parts if part[1]]
    return drift.merge(parts) if parts else None


def _record_shape(engine: Engine, night_id: int, rater: RaterRow) -> tuple[NDArray[np.float64], int]:
    score_N = distributions.read_night_scores(engine, rater.rater_id, [night_id])["score"]
    shape = drift.sketch(score_N)
    with engine.begin() as connection:
        distributions.store_distribution(
            connection, night_id, n=len(score_N), quantiles=shape.tolist(), histogram={}, verdict="recorded"
        )
    return shape, len(score_N)


def judge_night(engine: Engine, night: AnyRow, rater: RaterRow, limits: DriftLimits) -> NightDrift:
    """Measure an open night, store its distribution and, where it moved too far, hold it; all in one transaction."""
    tested = Night(engine, night, rater, limits)
    found = tested.measure()
    fields = {
        name: getattr(found, name)
        for name in ("verdict", "n", "n_tested", "psi", "ks_distance", "reference", "n_reference")
    }
    with engine.begin() as connection:
        distributions.store_distribution(
            connection, night.night_id, **fields, quantiles=drift.sketch(tested.own_N).tolist(),
            histogram=tested.histogram(), explanation=[asdict(mover) for mover in found.movers],
        )  # fmt: skip
        if found.verdict == "held":
            reason, actor = hold_reason(found, limits), current_actor()
            if decide_night(connection, night.night_id, state="held", actor=actor, reason=reason):
                subject = f"night {night_title(night)}"
                record_event(connection, actor, "hold", subject, after={"state": "held", "reason": reason})
    return found


def hold_reason(found: NightDrift, limits: DriftLimits) -> str:
    """Say in one line why a night is held."""
    first = f"; {found.movers[0].kind} {found.movers[0].name} moved it most" if found.movers else ""
    return f"scores drifted: PSI {found.psi:.3f} (limit {limits.hold_psi:g}) against {found.reference}{first}"
