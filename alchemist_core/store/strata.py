"""Where a subset version comes from: shares of datasets, months and sources among random members, beside those of random candidates.

Shares are estimated from samples of random ids, so that a page costs the same for a version of any size.
"""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from sqlalchemy import Engine, func, select

from alchemist_core.store.queries import load_query
from alchemist_core.store.subsets import SubsetRow, rater_of_subset
from alchemist_core.store.tables import Sample

N_TRIED = 4_000
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
    # Members are samples that the version could have been selected from, so both are counted among the same samples.
    scope = {"rater_id": rater.rater_id, "dataset_names": rater.dataset_names, "subset_id": None}
    members: dict[str, dict[str, int]] = defaultdict(dict)
    candidates: dict[str, dict[str, int]] = defaultdict(dict)
    with engine.connect() as connection:
        last = connection.execute(select(func.max(Sample.sample_id))).scalar() or 0
        tried = np.unique(np.random.default_rng(SEED).integers(1, last + 1, N_TRIED)).tolist() if last else []
        drawn = list(connection.execute(load_query("draw_shown_samples"), {"sample_ids": tried, **scope}).scalars())
        given = {"sample_ids": drawn, "subset_id": subset.subset_id}
        for row in connection.execute(load_query("count_strata"), given):
            candidates[row.kind][row.name] = row.n_samples
            if row.n_members:
                members[row.kind][row.name] = row.n_members
    n_members, n_candidates = (sum(counts["dataset"].values()) for counts in (members, candidates))
    kinds = sorted(candidates, key=lambda kind: kind != "dataset")
    strata = {kind: _largest(members[kind], candidates[kind], (n_members, n_candidates), n_each) for kind in kinds}
    return Strata(strata, n_members, n_candidates)


def _largest(
    members: dict[str, int], candidates: dict[str, int], totals: tuple[int, int], n_each: int
) -> list[Stratum]:
    found = [
        Stratum(name, members.get(name, 0) / max(1, totals[0]), candidates.get(name, 0) / max(1, totals[1]))
        for name in {*members, *candidates}
    ]
    return sorted(found, key=lambda one: (-max(one.member_share, one.candidate_share), one.name))[:n_each]
