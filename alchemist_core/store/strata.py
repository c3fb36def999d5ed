"""Where a subset version comes from: shares of datasets, months and sources among random members, beside those of random candidates.

Shares are estimated from samples of random ids, so that a page costs the same for a version of any size. Candidates are the samples that
the version could have been selected from.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, func, select

from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.selection.fusion import signals_of
from alchemist_core.store.browsing import Conditions, join_by_keys
from alchemist_core.store.export import FILTER_COLUMNS, filter_rows, read_known
from alchemist_core.store.queries import load_query
from alchemist_core.store.subsets import SubsetRow
from alchemist_core.store.tables import RankScale, RankSnapshot, Sample

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
    members: dict[str, dict[str, int]] = defaultdict(dict)
    candidates: dict[str, dict[str, int]] = defaultdict(dict)
    with engine.connect() as connection:
        last = connection.execute(select(func.max(Sample.sample_id))).scalar() or 0
        tried = np.unique(np.random.default_rng(SEED).integers(1, last + 1, N_TRIED)).tolist() if last else []
        # Every member is a candidate, also the best of its duplicates (--dedup-keep best).
        drawn = {*find_members(connection, subset, tried), *find_candidates(connection, subset, tried)}
        given = {"sample_ids": sorted(drawn), "subset_id": subset.subset_id}
        for row in connection.execute(load_query("count_strata"), given):
            candidates[row.kind][row.name] = row.n_samples
            if row.n_members:
                members[row.kind][row.name] = row.n_members
    n_members, n_candidates = (sum(counts["dataset"].values()) for counts in (members, candidates))
    kinds = sorted(candidates, key=lambda kind: kind != "dataset")
    strata = {kind: _largest(members[kind], candidates[kind], (n_members, n_candidates), n_each) for kind in kinds}
    return Strata(strata, n_members, n_candidates)


def find_members(connection: Connection, subset: SubsetRow, sample_ids: Sequence[int]) -> list[int]:
    """Return those of given samples that are members of a version, which are in the store, and whose images can be read."""
    given = {"sample_ids": list(sample_ids), "subset_id": subset.subset_id}
    return list(connection.execute(load_query("draw_shown_samples"), given).scalars())


def find_candidates(connection: Connection, subset: SubsetRow, sample_ids: Sequence[int]) -> list[int]:
    """Return those of given samples that a version could have been selected from, and whose images can be read.

    They are of the nights of its snapshot, satisfy its condition, have the scores that it ranks by, and are the first of their
    duplicates. Contaminated samples and semantic duplicates are among them, because all samples would have to be compared to find those.

    Args:
        connection: The store. The rest of its transaction joins tables by keys alone.
        subset: The version.
        sample_ids: The samples.
    """
    join_by_keys(connection)
    given = {"sample_ids": list(sample_ids), "snapshot_id": subset.snapshot_id}
    rows = connection.execute(load_query("draw_candidates"), given)
    first_of: dict[int, int | None] = {row.sample_id: row.first_sample_id for row in rows}
    kept = {*first_of, *(first_id for first_id in first_of.values() if first_id is not None)}
    for condition, last_flag_id in _conditions(connection, subset.snapshot_id):
        kept = _filter(connection, kept, condition, last_flag_id)
    return [sample_id for sample_id, first_id in first_of.items() if sample_id in kept and first_id not in kept]


def _conditions(connection: Connection, snapshot_id: int) -> Iterator[tuple[str, int]]:
    """Yield the conditions that the samples of a snapshot satisfy, each with the last flag that counts for it."""
    scale = RankScale.rank_scale_id == RankSnapshot.rank_scale_id
    statement = select(RankSnapshot.options, RankScale.score).join(RankScale, scale)
    found = connection.execute(statement.where(RankSnapshot.snapshot_id == snapshot_id)).one()
    if "where" in found.options:
        yield found.options["where"], found.options.get("last_flag_id", 0)
    for score in signals_of(found.score):
        # A condition cannot name the numbers that come with a crawl.
        if score != RATER_SCORE and not score.startswith("imported."):
            yield f"{score} is not null", 0


def _filter(connection: Connection, sample_ids: Collection[int], condition: str, last_flag_id: int) -> set[int]:
    given = Conditions().parameters | {"sample_ids": list(sample_ids)}
    known = read_known(connection, last_flag_id=last_flag_id)
    statement = filter_rows("browse_samples", FILTER_COLUMNS, condition, given, known=known)
    return set(connection.execute(statement, given).scalars())


def _largest(
    members: dict[str, int], candidates: dict[str, int], totals: tuple[int, int], n_each: int
) -> list[Stratum]:
    found = [
        Stratum(name, members.get(name, 0) / max(1, totals[0]), candidates.get(name, 0) / max(1, totals[1]))
        for name in {*members, *candidates}
    ]
    return sorted(found, key=lambda one: (-max(one.member_share, one.candidate_share), one.name))[:n_each]
