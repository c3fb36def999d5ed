"""Samples as people look through them: pages of a walk over the store, newest first or by rank, and everything about one sample.

A *walk* is an order in which samples can be read by an index, from any place on: all samples by id, those of a rater, of a night, of a
subset. A page reads a stretch of the walk, keeps the samples that satisfy the conditions, and stops when it is full or when it has read
`MOST_READ` samples, whatever the conditions are. So a page costs the same in a corpus of any size; there is no count over all.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    cast,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
    union_all,
)

from alchemist_core.errors import ConfigError
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.store.embeddings import CentroidsRow, compared_scorers, find_compared
from alchemist_core.store.export import FILTER_COLUMNS, NOTHING, SIZE_COLUMNS, Known, filter_rows, read_known
from alchemist_core.store.flags import flagged_ids, known_flags
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.tables import (
    ClusterCentroids,
    ClusterMember,
    Dataset,
    DuplicateSample,
    HeuristicScore,
    QuarantinedSample,
    RankScale,
    RankSnapshot,
    Rater,
    Sample,
    SampleLocation,
    Score,
    Shard,
    ShardEmbeddings,
    SubsetSample,
    Takedown,
)

PAGE_SIZE = 48
MOST_READ = 8_000
"""Samples that a page reads at most. If it is not full by then, the next page continues where it stopped."""
MOST_ORDERED = 8_000
"""Samples of a walk that a page orders by rank at most, unless there is an index."""
MOST_OF_SHARDS = 50_000
"""Most samples of a crawl date that a page orders by rank: reading their scores is cheap, since their ids are next to each other."""
WHERE_COLUMNS = {**FILTER_COLUMNS, "score": float, "rank": float}
"""Columns that a condition can name, beside scores by their names."""
COMPUTED_COLUMNS = SIZE_COLUMNS
"""Columns of conditions that are computed from others."""
_FIRST_STRETCH, _SECOND_STRETCH, _LEAST_STRETCH = 4 * PAGE_SIZE, 2_000, 500
# Ids that are read for each sample that a band of scores may yield: comparing a score costs a tenth of reading a sample.
_IDS_A_SAMPLE = 10
_MOST_SHARDS = 1_000
_BY_KEYS = text("SELECT set_config('enable_hashjoin', 'off', TRUE), set_config('enable_mergejoin', 'off', TRUE)")

# The planner counts the bounds of a page as independent, expects too few rows of the index, and would collect and sort all of them.
_IN_ORDER, _IN_ANY_ORDER = (
    text(f"SELECT set_config('enable_bitmapscan', '{word}', TRUE), set_config('enable_sort', '{word}', TRUE)")
    for word in ("off", "on")
)

# A stretch may end before the first record of a shard, at -1.
_PLACE = re.compile(r"(-?[0-9]{1,19})(?:-(-?[0-9]{1,19}))?")
Place = tuple[int, ...]
"""Where a sample is in its walk."""


def write_place(place: Place) -> str:
    """Return a place as text for an address.

    >>> write_place((7, 31))
    '7-31'
    """
    return "-".join(map(str, place))


def read_place(given: str) -> Place:
    """Return the place that `write_place` wrote.

    >>> read_place("7-31"), read_place("7--1"), read_place("12")
    ((7, 31), (7, -1), (12,))

    Raises:
        ConfigError: It is not one.
    """
    found = _PLACE.fullmatch(given)
    place = tuple(int(part) for part in found.groups() if part is not None) if found else ()
    if not place or any(abs(part) >= 1 << 62 for part in place):
        raise ConfigError(f"{given!r} is not a place in a list. Start again from the first page.")
    return place


class Stretch(NamedTuple):
    """A part of a walk: places and sample ids, and where the next part begins (None: the walk ends)."""

    entries: Sequence[tuple[Place, int]]
    end: Place | None


class Walk(Protocol):
    """An order of samples, newest first."""

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples after a place.

        Args:
            connection: The store.
            start: The place; None: the newest end.
            n: Most samples to return.
            is_back: Walk towards newer samples, instead of older ones.
        """
        ...


class Band(NamedTuple):
    """Scores above `lowest`, up to `highest`."""

    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class ById:
    """Samples in the order of their ids: rows of a table with a column sample_id that satisfy conditions on its primary key."""

    column: Any
    conditions: tuple[ColumnElement[bool], ...] = ()
    band: Band | None = None
    """Of scores, if the table is `scores`."""

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples; with a band, those in the next ids."""
        statement = _after(select(self.column).where(*self.conditions), self.column, start, is_back=is_back).limit(n)
        if self.band is None:
            ids = list(connection.execute(statement).scalars())
            return Stretch([((one,), one) for one in ids], (ids[-1],) if len(ids) == n else None)
        first = connection.execute(statement.limit(1)).scalar()
        if first is None:
            return Stretch([], None)
        end = first + _IDS_A_SAMPLE * n * (1 if is_back else -1)
        span = self.column < end if is_back else self.column > end
        in_band = (Score.score > self.band.lowest, Score.score <= self.band.highest)
        ids = list(connection.execute(statement.where(span, *in_band)).scalars())
        # Exclusive of the end itself, where the next stretch begins.
        edge = end - 1 if is_back else end + 1
        return Stretch([((one,), one) for one in ids], (ids[-1],) if len(ids) == n else (edge,))


@dataclass(frozen=True, slots=True)
class OfShards:
    """Samples of a dataset, or of one of its crawl dates, in the reverse order of their shards and records."""

    dataset_id: int
    crawl_date: date | None = None

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples."""
        shards, has_more = self._shards(connection, start, n, is_back=is_back)
        if not shards:
            return Stretch([], None)
        place = tuple_(SampleLocation.shard_id, SampleLocation.ordinal)
        statement = select(SampleLocation.shard_id, SampleLocation.ordinal, SampleLocation.sample_id)
        statement = statement.where(SampleLocation.shard_id.in_(shards))
        if start is not None:
            given = tuple_(literal(start[0]), literal(start[-1]))
            statement = statement.where(place > given if is_back else place < given)
        columns = (SampleLocation.shard_id, SampleLocation.ordinal)
        ordered = statement.order_by(*(columns if is_back else (column.desc() for column in columns))).limit(n)
        entries = [((row.shard_id, row.ordinal), row.sample_id) for row in connection.execute(ordered)]
        if len(entries) == n:
            return Stretch(entries, entries[-1][0])
        # Behind every record of the last shard.
        return Stretch(entries, (shards[-1], (1 << 31) - 1 if is_back else -1) if has_more else None)

    def few(self, connection: Connection) -> tuple[int, ...] | None:
        """Return all shards if they hold at most `MOST_OF_SHARDS` records; None: they hold more."""
        rows = connection.execute(self._all_shards().limit(_MOST_SHARDS)).all()
        is_few = len(rows) < _MOST_SHARDS and sum(row.n_samples for row in rows) <= MOST_OF_SHARDS
        return tuple(row.shard_id for row in rows) if is_few else None

    def _all_shards(self) -> Select[*tuple[int, int]]:
        statement = select(Shard.shard_id, Shard.n_samples).where(
            Shard.dataset_id == self.dataset_id, Shard.state == "verified"
        )
        return statement if self.crawl_date is None else statement.where(Shard.crawl_date == self.crawl_date)

    def _shards(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> tuple[list[int], bool]:
        """Return the next shards that hold at least n records beside those of the first one, and whether more follow."""
        statement = self._all_shards()
        if start is not None:
            statement = statement.where(Shard.shard_id >= start[0] if is_back else Shard.shard_id <= start[0])
        order = Shard.shard_id if is_back else Shard.shard_id.desc()
        rows = connection.execute(statement.order_by(order).limit(_MOST_SHARDS)).all()
        chosen, n_records = [], 0
        for row in rows:
            chosen.append(row.shard_id)
            n_records += row.n_samples if len(chosen) > 1 else 0
            if n_records >= n:
                break
        return chosen, len(chosen) < len(rows) or len(rows) == _MOST_SHARDS


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Samples that a rater could not score, the last quarantined first."""

    reason: str

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples."""
        of_record = (SampleLocation.shard_id == QuarantinedSample.shard_id) & (
            SampleLocation.ordinal == QuarantinedSample.ordinal
        )
        # Each rater has a row of its own: of a record the newest one counts.
        later = QuarantinedSample.__table__.alias("later").c
        is_newest = ~exists().where(
            later.shard_id == QuarantinedSample.shard_id, later.ordinal == QuarantinedSample.ordinal, later.reason == self.reason,
            later.quarantine_id > QuarantinedSample.quarantine_id,
        )  # fmt: skip
        statement = select(QuarantinedSample.quarantine_id, SampleLocation.sample_id).join(SampleLocation, of_record)
        statement = statement.where(QuarantinedSample.reason == self.reason, is_newest)
        rows = connection.execute(_after(statement, QuarantinedSample.quarantine_id, start, is_back=is_back).limit(n))
        entries = [((row.quarantine_id,), row.sample_id) for row in rows]
        return Stretch(entries, entries[-1][0] if len(entries) == n else None)


def encode_score(score: float) -> int:
    """Return a score as a whole number of the same order, for places; 0 is below every score.

    >>> codes = [encode_score(one) for one in (-2.5, -0.0, 0.0, 1e-30, 7.25)]
    >>> codes == sorted(codes), decode_score(encode_score(-2.5))
    (True, -2.5)
    """
    # Scores are float4. Adding 0 turns the negative zero into the positive one, which equals it.
    (bits,) = struct.unpack("<I", struct.pack("<f", score + 0.0))
    return int(bits | 1 << 31 if bits < 1 << 31 else bits ^ 0xFFFFFFFF)


def decode_score(code: int) -> float:
    """Return the score of a code.

    Raises:
        ConfigError: It is not the code of a score.
    """
    if not 0 <= code < 1 << 32:
        raise ConfigError("The page begins at a place that does not exist. Start again from the first page.")
    bits = code ^ 1 << 31 if code >= 1 << 31 else code ^ 0xFFFFFFFF
    (score,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(score)


@dataclass(frozen=True, slots=True)
class ByRank:
    """Samples of a rater by rank, the highest score first: those that `order_highest_scores` keeps in an index, or a band of them."""

    rater_id: int
    lowest: float
    """The lowest score of the index."""
    band: Band | None = None

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples."""
        connection.execute(_IN_ORDER)
        rows = connection.execute(self.statement(start, n, is_back=is_back)).all()
        connection.execute(_IN_ANY_ORDER)
        entries = [((encode_score(row.score), row.sample_id), row.sample_id) for row in rows]
        return Stretch(entries, entries[-1][0] if len(entries) == n else None)

    def statement(self, start: Place | None, n: int, *, is_back: bool) -> Select[*tuple[Any, ...]]:
        """Return the statement of `read`: keyset paging over the index."""
        statement = select(Score.sample_id, Score.score).where(
            # The planner uses the index only if it sees that this implies the condition of the index.
            Score.rater_id == self.rater_id, Score.score >= cast(literal(self.lowest), REAL)
        )  # fmt: skip
        if self.band is not None:
            statement = statement.where(Score.score > self.band.lowest, Score.score <= self.band.highest)
        if start is not None:
            place = tuple_(Score.score, Score.sample_id)
            given = tuple_(cast(literal(decode_score(start[0])), REAL), literal(start[-1]))
            statement = statement.where(place > given if is_back else place < given)
        columns = (Score.score, Score.sample_id)
        return statement.order_by(*(columns if is_back else (column.desc() for column in columns))).limit(n)


@dataclass(frozen=True, slots=True)
class ShardsByRank:
    """Samples of a few shards by rank, the highest score first; those without a score come last, or not at all if a band is given."""

    shard_ids: tuple[int, ...]
    rater_id: int
    band: Band | None = None

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples."""
        located = select(SampleLocation.sample_id).where(SampleLocation.shard_id.in_(self.shard_ids)).distinct()
        sample_id = located.subquery("located").c.sample_id
        by_rater = (Score.rater_id == self.rater_id) & (Score.sample_id == sample_id)
        statement = select(sample_id, Score.score).outerjoin(Score, by_rater)
        if self.band is not None:
            statement = statement.where(Score.score > self.band.lowest, Score.score <= self.band.highest)
        if start is not None:
            # A sample without a score has the lowest place.
            lowest = literal(float("-inf"))
            score = func.coalesce(Score.score, lowest)
            place = tuple_(score, sample_id)
            given = tuple_(cast(literal(decode_score(start[0])), REAL) if start[0] else lowest, literal(start[-1]))
            statement = statement.where(place > given if is_back else place < given)
        columns = (
            (Score.score.asc().nulls_first(), sample_id)
            if is_back
            else (Score.score.desc().nulls_last(), sample_id.desc())
        )
        rows = connection.execute(statement.order_by(*columns).limit(n)).all()
        entries = [
            ((0 if row.score is None else encode_score(row.score), row.sample_id), row.sample_id) for row in rows
        ]
        return Stretch(entries, entries[-1][0] if len(entries) == n else None)


@dataclass(slots=True)
class Sorted:
    """The first samples of another walk, `MOST_ORDERED` at most, by rank; those without a score come last."""

    walk: Walk
    rater_id: int
    is_whole: bool = True
    """Whether the other walk has no more samples; known after `gather`."""
    _sample_ids: set[int] | None = None
    _entries: list[tuple[Place, int]] | None = None

    def read(self, connection: Connection, start: Place | None, n: int, *, is_back: bool) -> Stretch:
        """Return the next samples."""
        entries = self._sort(connection)
        if start is not None:
            place = (start[0], start[-1])
            entries = [entry for entry in entries if (entry[0] > place if is_back else entry[0] < place)]
        found = (entries[::-1] if is_back else entries)[:n]
        return Stretch(found, found[-1][0] if len(entries) > n else None)

    def gather(self, connection: Connection) -> set[int]:
        """Read the samples of the other walk, without their scores."""
        if self._sample_ids is None:
            read, end = self.walk.read(connection, None, MOST_ORDERED, is_back=False)
            ids = {sample_id for _, sample_id in read}
            if end is not None and len(ids) < MOST_ORDERED:
                # A band of ranks is read in stretches of ids, of which the last one is empty.
                read, end = self.walk.read(connection, end, MOST_ORDERED - len(ids), is_back=False)
                ids |= {sample_id for _, sample_id in read}
            self.is_whole, self._sample_ids = end is None, ids
        return self._sample_ids

    def _sort(self, connection: Connection) -> list[tuple[Place, int]]:
        if self._entries is None:
            ids = self.gather(connection)
            wanted = _unnested(list(ids)).subquery("wanted")
            statement = select(Score.sample_id, Score.score).join(wanted, wanted.c.sample_id == Score.sample_id)
            rows = connection.execute(statement.where(Score.rater_id == self.rater_id))
            codes = {row.sample_id: encode_score(row.score) for row in rows}
            self._entries = sorted((((codes.get(one, 0), one), one) for one in ids), reverse=True)
        return self._entries


_INDEX = text("""
    SELECT pg_get_expr(indpred, indrelid) FROM pg_index
    WHERE indexrelid = to_regclass('alchemist.ix_scores_' || CAST(:rater_id AS text) || '_highest') AND indisvalid
""")


def lowest_ordered(connection: Connection, rater_id: int) -> float | None:
    """Return the score from which on the scores of a rater are kept in order; None before its first selection."""
    condition = connection.execute(_INDEX, {"rater_id": rater_id}).scalar()
    found = re.search(r"'([^']+)'", condition or "")
    return float(found[1]) if found else None


def by_rank(engine: Engine, walk: Walk, rater_id: int, band: Band | None, *, may_walk_all: bool) -> Walk:
    """Return a walk by rank: over the samples of another one, or over all samples of a rater.

    A walk of at most `MOST_ORDERED` samples, or `MOST_OF_SHARDS` of a few shards, is sorted. A longer one is replaced by the index of the
    rater's highest scores. Without the index, or where it does not reach the band, the newest samples of the walk are sorted.

    Args:
        engine: The store.
        walk: The samples.
        rater_id: The rater that ranks them.
        band: The scores that are asked for; None: all.
        may_walk_all: Whether conditions can say which samples are in the walk, so that it can be replaced.
    """
    in_memory = Sorted(walk, rater_id)
    with engine.connect() as connection:
        if isinstance(walk, OfShards) and (shard_ids := walk.few(connection)) is not None:
            return ShardsByRank(shard_ids, rater_id, band)
        join_by_keys(connection)
        in_memory.gather(connection)
        if in_memory.is_whole or not may_walk_all:
            return in_memory
        lowest = lowest_ordered(connection, rater_id)
    is_reached = lowest is not None and (band is None or band.highest >= lowest)
    return ByRank(rater_id, lowest, band) if lowest is not None and is_reached else in_memory


def _after(statement: Any, column: Any, start: Place | None, *, is_back: bool) -> Any:
    if start is not None:
        statement = statement.where(column > start[0] if is_back else column < start[0])
    return statement.order_by(column if is_back else column.desc())


def all_samples() -> Walk:
    """Return the walk over all samples."""
    return ById(Sample.sample_id)


def scored_by(rater_id: int, band: Band | None = None) -> Walk:
    """Return the walk over the samples that a rater has scored, or those in a band of scores."""
    return ById(Score.sample_id, (Score.rater_id == rater_id,), band)


def members_of(subset_id: int) -> Walk:
    """Return the walk over the members of a subset version whose members are in the store."""
    return ById(SubsetSample.sample_id, (SubsetSample.subset_id == subset_id,))


def duplicates_of(first_sample_id: int) -> Walk:
    """Return the walk over a group of near-duplicates, its first sample included."""
    later = select(DuplicateSample.sample_id).where(DuplicateSample.first_sample_id == first_sample_id)
    group = union_all(later, select(literal(first_sample_id))).subquery("near_duplicates")
    return ById(group.c.sample_id)


def find_clustered(engine: Engine, scorer: str | None) -> CentroidsRow:
    """Return the centroids of a scorer by its name; None: of the first one that has some.

    Raises:
        ConfigError: It has none.
    """
    wanted = scorer or next(iter(compared_scorers(engine)), None)
    with engine.connect() as connection:
        return find_compared(connection, wanted)


def in_cluster(engine: Engine, cluster: int, scorer: str | None) -> Walk:
    """Return the walk over a cluster of a scorer, by its name as for `find_clustered`."""
    rater_id = find_clustered(engine, scorer).rater_id
    return ById(ClusterMember.sample_id, (ClusterMember.rater_id == rater_id, ClusterMember.cluster == cluster))


class ClusterOf(NamedTuple):
    """The cluster of a sample among the embeddings of a scorer."""

    scorer: str
    cluster: int


def read_clusters(engine: Engine, sample_id: int) -> list[ClusterOf]:
    """Return the clusters of a sample: one for each scorer whose embeddings were clustered."""
    statement = (
        select(Rater.config["name"].as_string(), ClusterMember.cluster)
        .select_from(ClusterCentroids)
        .join(Rater, Rater.rater_id == ClusterCentroids.rater_id)
        .join(ClusterMember, (ClusterMember.rater_id == Rater.rater_id) & (ClusterMember.sample_id == sample_id))
    )
    with engine.connect() as connection:
        return [ClusterOf._make(row) for row in connection.execute(statement.order_by(Rater.rater_id))]


def flagged_as(label: str) -> Walk:
    """Return the walk over the samples that are flagged so."""
    return ById(flagged_ids(label).subquery("flagged").c.sample_id)


def of_ids(sample_ids: Sequence[int]) -> Walk:
    """Return the walk over given samples; those that are not in the store are in it too."""
    return ById(_unnested(sample_ids).subquery("asked").c.sample_id)


def _unnested(sample_ids: Sequence[int]) -> Select[Any]:
    return select(func.unnest(cast(literal(list(sample_ids), ARRAY(BigInteger)), ARRAY(BigInteger))).label("sample_id"))


def first_of(engine: Engine, walk: Walk, n: int) -> tuple[list[int], bool]:
    """Return the first samples of a walk, n at most, and whether there are more."""
    with engine.connect() as connection:
        entries, end = walk.read(connection, None, n, is_back=False)
    return [sample_id for _, sample_id in entries], end is not None


class Shown(NamedTuple):
    """A sample in a list: a row of the query `show_samples`."""

    sample_id: int
    caption: str
    width: int
    height: int
    score: float | None
    rank: float | None
    dataset: str | None
    crawl_date: date | None
    takedown_reason: str | None
    first_sample_id: int | None
    flags: list[str]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the samples of a page satisfy, whatever their walk; None asks for nothing."""

    rater_id: int | None = None
    rank_scale_id: int | None = None
    band: Band | None = None
    min_width: int | None = None
    source: str | None = None
    caption: str | None = None
    subset_id: int | None = None
    outside_subset_id: int | None = None
    dataset_id: int | None = None
    crawl_date: date | None = None
    where: str | None = None
    ranked_subset_id: int | None = None
    """A version: the page shows the ranks that its members were selected by, instead of those on the scale."""

    @property
    def are_empty(self) -> bool:
        """Whether every sample satisfies them."""
        asked = (
            self.band, self.min_width, self.source, self.caption, self.subset_id, self.outside_subset_id, self.dataset_id, self.where
        )  # fmt: skip
        return all(one is None for one in asked)

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query `browse_samples` beside the samples."""
        lowest, highest = self.band or (None, None)
        return {
            "rater_id": self.rater_id, "rank_scale_id": self.rank_scale_id, "lowest": lowest, "highest": highest,
            "min_width": self.min_width, "source": self.source.lower() if self.source else None, "caption": self.caption,
            "subset_id": self.subset_id, "outside_subset_id": self.outside_subset_id, "dataset_id": self.dataset_id,
            "crawl_date": self.crawl_date,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """A page of samples in the order of its walk, and the places where its neighbours begin; None where there is no neighbour."""

    samples: list[Shown] = field(default_factory=list)
    newer: Place | None = None
    older: Place | None = None
    n_read: int = 0
    """Samples that were read for this page."""
    is_cut: bool = False
    """Whether it stopped at `MOST_READ` before it was full."""


def join_by_keys(connection: Connection) -> None:
    """Let the rest of the transaction join tables by keys alone.

    A page reads some thousand rows by their keys. In a store of some hundred thousand samples the planner expects a scan of the whole
    table to be cheaper: at 300,000 samples a caption that few have took 103 ms of the database's processor time, and 26 ms by keys.
    """
    connection.execute(_BY_KEYS)


def browse(
    engine: Engine, walk: Walk, conditions: Conditions, *, start: Place | None = None, is_back: bool = False
) -> Page:
    """Return a page of a walk: the next samples that satisfy the conditions.

    Args:
        engine: The store.
        walk: The order of the samples.
        conditions: What they satisfy.
        start: The place after which the page begins; None: the newest end.
        is_back: The page ends before `start`, with newer samples.

    Raises:
        ConfigError: The condition `where` is not valid; the message marks the position.
    """
    with engine.connect() as connection:
        join_by_keys(connection)
        known = read_known(connection) if conditions.where else NOTHING
        # A sample with several locations comes once for each.
        place_of: dict[int, Place] = {}
        end, n_read, n_asked = start, 0, 0
        while n_asked < MOST_READ:
            n = _next_stretch(n_asked, n_read, len(place_of))
            entries, end = walk.read(connection, end, n, is_back=is_back)
            n_asked, n_read = n_asked + n, n_read + len(entries)
            for place, sample_id in _keep(connection, entries, conditions, known):
                place_of.setdefault(sample_id, place)
            if len(place_of) > PAGE_SIZE or end is None:
                break
        is_full = len(place_of) > PAGE_SIZE
        found = list(place_of.items())[:PAGE_SIZE]
        # Beyond the page: after its last sample, or where reading stopped.
        beyond = found[-1][1] if is_full else end
        towards_start = found[0][1] if found else start
        if is_back:
            found.reverse()
        shown = _show(connection, [sample_id for sample_id, _ in found], conditions)
    newer, older = (beyond, towards_start) if is_back else (towards_start if start else None, beyond)
    return Page(shown, newer, older, n_read, is_cut=not is_full and end is not None)


def _next_stretch(n_asked: int, n_read: int, n_found: int) -> int:
    """Return how many samples a page reads next: half as many again as should fill it, by the share that was found so far.

    >>> _next_stretch(0, 0, 0), _next_stretch(192, 192, 0), _next_stretch(2192, 2192, 0), _next_stretch(192, 192, 12)
    (192, 2000, 5808, 888)
    """
    if not n_asked:
        return _FIRST_STRETCH
    most = min(MOST_READ - n_asked, _SECOND_STRETCH if n_asked == _FIRST_STRETCH else MOST_READ)
    wanted = (PAGE_SIZE + 1 - n_found) * n_read * 3 // (2 * n_found) if n_found else most
    return min(most, max(wanted, _LEAST_STRETCH))


def _keep(
    connection: Connection, entries: Sequence[tuple[Place, int]], conditions: Conditions, known: Known
) -> list[tuple[Place, int]]:
    parameters = {"sample_ids": list({sample_id for _, sample_id in entries})} | conditions.parameters
    # Built even for no entries, so that an invalid condition is refused.
    statement = filter_rows("browse_samples", WHERE_COLUMNS, conditions.where, parameters, known=known)
    if conditions.are_empty or not entries:
        return list(entries)
    kept = set(connection.execute(statement, parameters).scalars())
    return [entry for entry in entries if entry[1] in kept]


def _show(connection: Connection, sample_ids: Sequence[int], conditions: Conditions) -> list[Shown]:
    names = ("rater_id", "rank_scale_id", "ranked_subset_id")
    given = {name: getattr(conditions, name) for name in names}
    rows = connection.execute(load_query("show_samples"), {"sample_ids": list(sample_ids), **given})
    by_id = {row.sample_id: Shown._make(row) for row in rows}
    return [by_id[sample_id] for sample_id in sample_ids if sample_id in by_id]


def show(engine: Engine, sample_ids: Sequence[int], conditions: Conditions) -> list[Shown]:
    """Return what a list shows of given samples, in their order."""
    with engine.connect() as connection:
        return _show(connection, sample_ids, conditions)


class Move(NamedTuple):
    """A sample whose rank differs between two raters."""

    sample_id: int
    from_rank: float
    to_rank: float

    @property
    def is_up(self) -> bool:
        """Whether the second rater ranks it higher, that is, gives it a lower rank."""
        return self.to_rank < self.from_rank


class MovedSamples(NamedTuple):
    """Samples that moved, the largest moves first, and the sample after which the next page begins (None: there is none)."""

    moved: list[Move]
    last_sample_id: int | None


class Ranking(NamedTuple):
    """A rater and the scale that ranks its scores."""

    rater_id: int
    rank_scale_id: int


def compare_ranks(
    engine: Engine, before: Ranking, after: Ranking, *, min_move: float, after_sample_id: int = 0
) -> MovedSamples:
    """Return the samples that moved among the next `MOST_READ` that both raters have scored (query `compare_ranks`)."""
    given = {
        "from_rater_id": before.rater_id, "from_scale_id": before.rank_scale_id, "to_rater_id": after.rater_id,
        "to_scale_id": after.rank_scale_id, "min_move": min_move, "after_sample_id": after_sample_id, "n_scanned": MOST_READ,
    }  # fmt: skip
    with engine.connect() as connection:
        rows = connection.execute(load_query("compare_ranks"), given).all()
    moved = [Move(row.sample_id, row.from_rank, row.to_rank) for row in rows if row.sample_id is not None]
    return MovedSamples(moved, rows[0].last_sample_id)


class Extremes(NamedTuple):
    """Samples with the highest and with the lowest scores, the most extreme first."""

    top: list[int]
    bottom: list[int]


def read_extremes(engine: Engine, dataset_id: int, crawl_date: date, rater_id: int, *, n: int) -> Extremes:
    """Return the ends of a crawl date (query `find_extremes`, which reads all its scores)."""
    given = {"dataset_id": dataset_id, "crawl_date": crawl_date, "rater_id": rater_id, "n_rows": n}
    with engine.connect() as connection:
        join_by_keys(connection)
        rows = connection.execute(load_query("find_extremes"), given).all()
    ends = {name: [row.sample_id for row in rows if row.end_of_night == name] for name in ("top", "bottom")}
    return Extremes(**ends)


def newest_scale(engine: Engine, rater: RaterRow) -> int | None:
    """Return the newest rank scale of a rater's scores; None before the first.

    A scorer's is of a selection with it as the rater (`--rater NAME`), or by its scores (`--rank-by NAME`).
    """
    own = (RankScale.rater_id == rater.rater_id) & (RankScale.score == RATER_SCORE)
    statement = select(RankScale.rank_scale_id).where(
        own if rater.kind == "trained" else own | (RankScale.score == rater.name)
    )
    with engine.connect() as connection:
        return connection.execute(statement.order_by(RankScale.rank_scale_id.desc()).limit(1)).scalar()


def score_of_snapshot(engine: Engine, snapshot_id: int) -> str:
    """Return the name of the score that a snapshot ranks by: `rater`, another score, or several joined by plus signs."""
    scale = RankScale.rank_scale_id == RankSnapshot.rank_scale_id
    statement = select(RankScale.score).join(RankSnapshot, scale).where(RankSnapshot.snapshot_id == snapshot_id)
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()


def band_of_ranks(engine: Engine, rank_scale_id: int, low: float, high: float) -> Band:
    """Return the scores of the ranks from `low` to below `high`; a band that ends at 1 holds rank 1 too."""
    bound = func.alchemist.score_bound
    lowest = literal(float("-inf")) if high >= 1 else bound(high, rank_scale_id)
    with engine.connect() as connection:
        found = connection.execute(select(lowest, bound(low, rank_scale_id))).one()
    # Rank 0 is that of the highest score, and of every score above the scale.
    return Band(float(found[0]), float("inf") if low <= 0 else float(found[1]))


class Heuristics(NamedTuple):
    """Scores of a sample that need no rater; None before they are measured."""

    aesthetic: float | None
    clarity: float | None
    frequency: float | None
    edge_density: float | None
    imported: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class SampleDetail:
    """A sample with everything that its crawl says."""

    sample_id: int
    image_hash: bytes
    pair_hash: bytes
    perceptual_hash: int | None
    caption: str
    width: int
    height: int
    format: str
    metadata: dict[str, Any]
    created_at: datetime
    attributes: dict[str, str]
    """The crawl's attributes that it has, by name."""
    heuristics: Heuristics
    takedown_reason: str | None
    first_sample_id: int | None
    """The first sample of its group, if it is a later near-duplicate."""


_OWN = ("sample_id", "image_hash", "pair_hash", "perceptual_hash", "caption", "width", "height", "format")


def read_sample(engine: Engine, sample_id: int) -> SampleDetail | None:
    """Return a sample by its id; None if there is none."""
    heuristics = [getattr(HeuristicScore, name) for name in Heuristics._fields]
    attributes = [getattr(Sample, attribute.name) for attribute in CRAWL_ATTRIBUTES]
    own = [getattr(Sample, name) for name in _OWN]
    statement = (
        select(*own, Sample.metadata_.label("rest"), Sample.created_at, Takedown.reason, DuplicateSample.first_sample_id,
               *heuristics, *attributes)
        .outerjoin(HeuristicScore, HeuristicScore.sample_id == Sample.sample_id)
        .outerjoin(Takedown, Takedown.image_hash == Sample.image_hash)
        .outerjoin(DuplicateSample, DuplicateSample.sample_id == Sample.sample_id)
        .where(Sample.sample_id == sample_id)
    )  # fmt: skip
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    found = row._mapping  # noqa: SLF001  SQLAlchemy's name of a public accessor
    given = {attribute.name: found[attribute.name] for attribute in CRAWL_ATTRIBUTES}
    return SampleDetail(
        **{name: found[name] for name in _OWN},
        metadata=row.rest,
        created_at=row.created_at,
        attributes={name: value for name, value in given.items() if value},
        heuristics=Heuristics(*(found[name] for name in Heuristics._fields)),
        takedown_reason=row.reason,
        first_sample_id=row.first_sample_id,
    )


class SamplePlace(NamedTuple):
    """A location of a sample: a row of the query `sample_places`."""

    dataset: str
    role: str
    crawl_date: date
    shard_id: int
    uri: str
    state: str
    key: str
    repair: str | None
    night_state: str | None
    night_reason: str | None
    quarantine_reason: str | None
    quarantine_detail: str | None


def read_places(engine: Engine, sample_id: int, rater_id: int | None) -> list[SamplePlace]:
    """Return where a sample's bytes are (query `sample_places`)."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("sample_places"), {"sample_id": sample_id, "rater_id": rater_id})
        return [SamplePlace._make(row) for row in rows]


class SampleScore(NamedTuple):
    """A sample's score by one rater, with the subsets that contain it: a row of the query `trace_sample`."""

    pair_hash: bytes
    caption: str
    rater: str
    rater_state: str
    score: float
    rank: float | None
    scored_at: datetime | None
    subsets: list[str]


def read_scores(engine: Engine, sample_id: int) -> list[SampleScore]:
    """Return a sample's scores by every rater and scorer, the newest first."""
    with engine.connect() as connection:
        rows = connection.execute(load_query("trace_sample"), {"sample_id": sample_id})
        return [SampleScore._make(row) for row in rows]


class PictureSource(NamedTuple):
    """Where the image of a sample can be read now."""

    image_hash: bytes
    root_uri: str
    uri: str
    key: str
    file_exts: list[str]
    file_offsets: list[int]
    file_sizes: list[int]


_PICTURE = text("""
    SELECT image_hash, root_uri, uri, key, file_exts, file_offsets, file_sizes FROM alchemist.live_locations
    WHERE sample_id = :sample_id ORDER BY shard_id, ordinal LIMIT 1
""")


def find_picture(engine: Engine, sample_id: int) -> PictureSource | None:
    """Return the first readable location of a sample; None if there is none, or if its image was taken down."""
    with engine.connect() as connection:
        row = connection.execute(_PICTURE, {"sample_id": sample_id}).one_or_none()
    return None if row is None else PictureSource(bytes(row.image_hash), *row[1:])


class FoundTakedown(NamedTuple):
    """The image of a sample that was taken down, and why."""

    image_hash: bytes
    reason: str


def find_takedown(engine: Engine, sample_id: int) -> FoundTakedown | None:
    """Return the takedown of a sample's image; None if it was not taken down."""
    statement = select(Takedown.image_hash, Takedown.reason).join(Sample, Sample.image_hash == Takedown.image_hash)
    with engine.connect() as connection:
        row = connection.execute(statement.where(Sample.sample_id == sample_id)).one_or_none()
    return None if row is None else FoundTakedown(*row)


class Choices(NamedTuple):
    """What a list of samples can be narrowed to."""

    datasets: dict[str, int]
    raters: list[str]
    flags: list[str]
    has_embeddings: bool
    """Whether they can be searched by content."""


def read_names(engine: Engine) -> Known:
    """Return the scores and flags that a condition can name beside columns."""
    with engine.connect() as connection:
        return read_known(connection)


def read_choices(engine: Engine) -> Choices:
    """Return the datasets in use with their ids, the raters and scorers that are not retired, and the labels of flags."""
    datasets = select(Dataset.name, Dataset.dataset_id).where(Dataset.removed_at.is_(None)).order_by(Dataset.name)
    raters = text("""
        SELECT name FROM alchemist.raters WHERE state <> 'retired' ORDER BY state = 'production' DESC, rater_id DESC LIMIT 100
    """)
    with engine.connect() as connection:
        return Choices(
            {row.name: row.dataset_id for row in connection.execute(datasets)},
            list(connection.execute(raters).scalars()),
            list(known_flags(connection).labels.values()),
            connection.execute(select(select(ShardEmbeddings.embedding_file_id).exists())).scalar_one(),
        )
