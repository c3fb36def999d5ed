"""Blind comparisons: random members of a subset version beside other samples, and what people prefer without knowing which is which."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy import ARRAY, BigInteger, Engine, any_, cast, func, select
from sqlalchemy.dialects.postgresql import insert

from alchemist_core.errors import ConfigError
from alchemist_core.store.strata import find_candidates, find_members
from alchemist_core.store.subsets import SubsetRow
from alchemist_core.store.tables import BlindJudgement, Sample, SubsetSample

N_SHOWN = 8
"""Most samples of each side."""
_LEAST = 4
# Ids that are tried, until enough of them are members: of a retention of 0.1%, 20,000 ids hold 20 members.
_TRIES = (512, 4_096, 20_000)

Preferred = Literal["subset", "other", "neither"]


class Pair(NamedTuple):
    """Samples of a version, and those beside them."""

    sample_ids: list[int]
    other_sample_ids: list[int]


def draw_pair(engine: Engine, subset: SubsetRow, other: SubsetRow | None, seed: int) -> Pair:
    """Return as many random members of a version as of another one, each sample as likely as any other.

    Args:
        engine: The store.
        subset: The version; its members must be in the store.
        other: The version beside it; None: samples that the version could have been selected from.
        seed: Of the draw.

    Raises:
        ConfigError: One side has fewer than four samples whose images can be read.
    """
    rng = np.random.default_rng(seed)
    with engine.connect() as connection:
        last = connection.execute(select(func.max(Sample.sample_id))).scalar() or 0
        own = _draw(rng, last, lambda tried: find_members(connection, subset, tried))
        others = _draw(
            rng,
            last,
            lambda tried: (
                find_members(connection, other, tried) if other else find_candidates(connection, subset, tried)
            ),
        )
    for side, of in ((own, subset.title), (others, other.title if other else "its corpus")):
        if len(side) < _LEAST:
            raise ConfigError(
                f"Fewer than {_LEAST} samples of {of} were found that can be shown, so nothing can be compared."
            )
    # Sides of different lengths would tell which is which.
    n = min(len(own), len(others))
    return Pair(own[:n], others[:n])


def _draw(rng: np.random.Generator, last: int, find: Callable[[list[int]], list[int]]) -> list[int]:
    found: list[int] = []
    for n in _TRIES:
        # The order of the draw, not of the ids.
        tried = list(dict.fromkeys(rng.integers(1, last + 1, n).tolist()))
        shown = set(find(tried))
        found = list(dict.fromkeys([*found, *(one for one in tried if one in shown)]))
        if len(found) >= N_SHOWN:
            break
    return found[:N_SHOWN]


def measure_overlap(engine: Engine, subset: SubsetRow, other: SubsetRow) -> float | None:
    """Return the share of a version's members that another version has too, 0-1, among random ids; None if none was a member.

    Random ids, because to count all members of a large version would take seconds.
    """
    rng = np.random.default_rng(0)
    own, theirs = SubsetSample.__table__.alias("own"), SubsetSample.__table__.alias("theirs")
    is_same = (theirs.c.sample_id == own.c.sample_id) & (theirs.c.subset_id == other.subset_id)
    statement = select(func.count(), func.count(theirs.c.sample_id)).select_from(own.outerjoin(theirs, is_same))
    with engine.connect() as connection:
        last = connection.execute(select(func.max(Sample.sample_id))).scalar() or 0
        tried = (
            range(1, last + 1) if last <= _TRIES[-1] else sorted(set(rng.integers(1, last + 1, _TRIES[-1]).tolist()))
        )
        wanted = (own.c.subset_id == subset.subset_id) & (own.c.sample_id == any_(cast(list(tried), ARRAY(BigInteger))))
        n, n_shared = connection.execute(statement.where(wanted)).one()
    return n_shared / n if n else None


def store_judgement(  # noqa: PLR0913  the columns of one row
    engine: Engine, subset: SubsetRow, other: SubsetRow | None, pair: Pair, *, seed: int, preferred: Preferred, judged_by: str
) -> bool:  # fmt: skip
    """Store what a person preferred; returns False if they have judged this pair before, and stores nothing then."""
    row = {
        "subset_id": subset.subset_id, "other_subset_id": other.subset_id if other else None, "seed": seed,
        "sample_ids": pair.sample_ids, "other_sample_ids": pair.other_sample_ids, "preferred": preferred, "judged_by": judged_by,
    }  # fmt: skip
    with engine.begin() as connection:
        statement = insert(BlindJudgement).values(row).on_conflict_do_nothing()
        return connection.execute(statement).rowcount == 1


class Judged(NamedTuple):
    """How often people preferred a version to others, without knowing which was which."""

    other_subset_id: int | None
    """The version beside it; None: random samples."""
    n_subset: int
    n_other: int
    n_neither: int
    n_people: int


def count_judgements(engine: Engine, subset_id: int) -> list[Judged]:
    """Return what people preferred, against each other version; random samples first."""
    table = BlindJudgement

    def count(preferred: Preferred) -> Any:
        return func.count().filter(table.preferred == preferred)

    statement = (
        select(
            table.other_subset_id, count("subset"), count("other"), count("neither"), func.count(table.judged_by.distinct())
        )
        .where(table.subset_id == subset_id)
        .group_by(table.other_subset_id)
        .order_by(table.other_subset_id.nulls_first())
    )  # fmt: skip
    with engine.connect() as connection:
        return [Judged._make(row) for row in connection.execute(statement)]


def count_own(engine: Engine, subset_id: int, judged_by: str) -> int:
    """Return how many pairs of a version a person has judged."""
    statement = select(func.count()).where(BlindJudgement.subset_id == subset_id, BlindJudgement.judged_by == judged_by)
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()
