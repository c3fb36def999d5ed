"""Where a subset version comes from: shares of datasets, months and sources among random members, beside those of random candidates.

Shares are estimated from samples of random ids, so that a page costs the same for a version of any size.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, func, select

from alchemist_core.store.queries import load_query
from alchemist_core.store.subsets import SubsetRow, rater_of_subset
from alchemist_core.store.tables import Sample

N_TRIED = 6_000
"""Ids that are drawn; of these, members and candidates are counted."""
SEED = 0
"""The same page shows the same figures."""


class Stratum(NamedTuple):
    """A dataset, a month or a source, with its share of the members and of the candidates, 0 to 1."""

    name: str
    member_share: float
    candidate_share: float

    @property
    def ratio(self) -> float | None:
        """How much more frequent it is among the members; None if no candidate was found there."""
        return self.member_share / self.candidate_share if self.candidate_share else None


class Strata(NamedTuple):
    """Strata by kind, the largest first, and the numbers of samples that were counted."""

    by_kind: dict[str, list[Stratum]]
    n_members: int
    n_candidates: int


def measure_strata(engine: Engine, subset: SubsetRow, *, n_each: int) -> Strata:
    """Return the largest strata of a version whose members are in the store.

    Args:
        engine: The store.
        subset: The version.
        n_each: Most strata of each kind.
    """
    rater = rater_of_subset(engine, subset)
    scope = {"rater_id": rater.rater_id, "dataset_names": rater.dataset_names}
    with engine.connect() as connection:
        last = connection.execute(select(func.max(Sample.sample_id))).scalar() or 0
        tried = np.unique(np.random.default_rng(SEED).integers(1, last + 1, N_TRIED)).tolist() if last else []
        found = [
            _count(connection, {"sample_ids": tried, **scope, "subset_id": subset_id})
            for subset_id in (subset.subset_id, None)
        ]
    members, candidates = found
    totals = [sum(counts["dataset"].values()) for counts in found]
    kinds = sorted({*members, *candidates}, key=lambda kind: kind != "dataset")
    return Strata(
        {kind: _largest(members[kind], candidates[kind], (totals[0], totals[1]), n_each) for kind in kinds},
        totals[0],
        totals[1],
    )


def _count(connection: Connection, given: dict[str, object]) -> dict[str, dict[str, int]]:
    drawn = list(connection.execute(load_query("draw_shown_samples"), given).scalars())
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(load_query("count_strata"), {"sample_ids": drawn}):
        counts[row.kind][row.name] = row.n_samples
    return counts


def _largest(
    members: dict[str, int], candidates: dict[str, int], totals: tuple[int, int], n_each: int
) -> list[Stratum]:
    found = [
        Stratum(name, members.get(name, 0) / max(1, totals[0]), candidates.get(name, 0) / max(1, totals[1]))
        for name in {*members, *candidates}
    ]
    return sorted(found, key=lambda one: (-max(one.member_share, one.candidate_share), one.name))[:n_each]
