"""Exported rows: a query file with a condition, streamed by a server-side cursor.

A condition can name the columns of the query, and scores: outputs of scorers and imported scores by their names in `raters`, and
trained raters by theirs, with an underscore for each character that is no letter, digit or underscore (see `score_name`). A sample
without such a score has null there, so it does not satisfy a comparison. It can name
flags too: `flagged_bad` is true or false. Values are bound parameters.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Date,
    Double,
    Engine,
    Integer,
    LargeBinary,
    String,
    bindparam,
    cast,
    column,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from alchemist_core.errors import ConfigError
from alchemist_core.rating.config import RATER_SCORE
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.store.flags import NO_FLAGS, PREFIX, Flags, known_flags
from alchemist_core.store.queries import fetch_bounded, load_query
from alchemist_core.store.tables import SAMPLE_COLUMNS, Dataset, HeuristicScore, Rater, SampleLocation, Score, Shard

ROWS_A_BATCH, CHARS_A_BATCH = 20_000, 64 << 20
Kinds = Mapping[str, type[Any]]
CRAWLED: Kinds = {attribute.name: str for attribute in CRAWL_ATTRIBUTES}
HEURISTICS: Kinds = dict.fromkeys(("aesthetic", "clarity", "frequency", "edge_density"), float)
LOCATION: Kinds = {"dataset": str, "crawl_date": date, "shard": str, "key": str}
SCORE_COLUMNS: Kinds = {
    "sample_id": int, "pair_hash": bytes, "score": float, "rank": float, "caption": str, "width": int, "height": int, **CRAWLED,
    **LOCATION,
}  # fmt: skip
EXPORTED_COLUMNS: Kinds = {
    "sample_id": int, **{column.name: column.kind for column in SAMPLE_COLUMNS}, **HEURISTICS, **LOCATION, "is_taken_down": bool,
}  # fmt: skip
FILTER_COLUMNS: Kinds = {
    "sample_id": int,
    **{column.name: column.kind for column in SAMPLE_COLUMNS if not column.name.endswith("_hash")},
    **HEURISTICS,
}
"""Columns that the condition of a selection can name, beside scores."""
SIZE_COLUMNS: Kinds = {"megapixels": float, "aspect_ratio": float}
"""Columns of conditions that are computed from width and height: their product in millions, and width / height."""
MEMBER_COLUMNS: Kinds = {"sample_id": int, **CRAWLED, **LOCATION}
_JSON_COLUMNS = {column.name for column in SAMPLE_COLUMNS if column.sql_type == "jsonb"}
NOT_FOR_SCORES = frozenset({RATER_SCORE, *SCORE_COLUMNS, *EXPORTED_COLUMNS, *FILTER_COLUMNS, *SIZE_COLUMNS})
"""Words that already mean something else where a score can be named."""
TYPES = {int: BigInteger, float: Double, str: String, bytes: LargeBinary, date: Date, bool: Boolean}


class Known(NamedTuple):
    """What a condition can name beside columns."""

    scores: Mapping[str, int]
    """Rater ids by name."""
    flags: Flags


NOTHING = Known({}, NO_FLAGS)


def read_known(connection: Connection, *, last_flag_id: int | None = None) -> Known:
    """Return the scores and flags that a condition can name.

    Args:
        connection: The store.
        last_flag_id: Flags up to this row count; None: all.
    """
    return Known(scores_by_name(connection), known_flags(connection, last_flag_id=last_flag_id))


def stream_rows(
    engine: Engine, query: str, kinds: Kinds, where: str | None, parameters: Mapping[str, Any]
) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield batches of rows in the order of sample_id, all of one snapshot of the store.

    Args:
        engine: The store.
        query: Name of the query file.
        kinds: Columns and their types, in the order of the result.
        where: A condition, or None.
        parameters: The query's own parameters.

    Raises:
        ConfigError: The condition is not valid; raised before anything is read.
    """
    known = NOTHING
    if where is not None:
        with engine.connect() as connection:
            known = read_known(connection)
    statement = filter_rows(query, kinds, where, parameters, names=tuple(kinds), known=known)
    return _batches(engine, statement, parameters)


def filter_rows(
    query: str,
    kinds: Kinds,
    where: str | None,
    parameters: Mapping[str, Any],
    *,
    names: Sequence[str] = ("sample_id",),
    known: Known = NOTHING,
) -> Any:
    """Return the statement for the rows of a query that satisfy a condition, in the order of the first column.

    Args:
        query: Name of the query file.
        kinds: Columns and their types, which the condition can name.
        where: A condition, or None.
        parameters: The query's own parameters.
        names: Columns of the result.
        known: Scores and flags that the condition can name. Only the partitions of those scores that it names are read.

    Raises:
        ConfigError: The condition is not valid.
    """
    typed: list[Any] = [column(name, JSONB if name in _JSON_COLUMNS else TYPES[kind]) for name, kind in kinds.items()]
    rows = load_query(query).bindparams(*(bindparam(name, type_=Integer) for name in parameters)).columns(*typed)
    found = rows.subquery("found")
    elements: dict[str, Any] = {
        name: cast(found.c[name], String).label(name) if name in _JSON_COLUMNS else found.c[name] for name in kinds
    }
    statement = select(*(elements[name] for name in names)).order_by(found.c[next(iter(kinds))])
    if where is None:
        return statement
    # sqlglot takes most of a second to import, so it is imported only for a condition.
    from alchemist_core.store.conditions import compile_condition, names_in  # noqa: PLC0415

    source: Any = found
    words = names_in(where)
    elements |= {name: known.flags.column(name, found.c.sample_id) for name in words & known.flags.labels.keys()}
    for name in sorted(words & known.scores.keys()):
        rater_id = known.scores[name]
        rated = Score.__table__.alias(f"rated_by_{rater_id}")
        source = source.outerjoin(rated, _is_score_of(rated, rater_id, found.c.sample_id, parameters))
        elements[name] = rated.c.score
    named: dict[str, type[Any]] = {
        **kinds,
        **dict.fromkeys(known.scores, float),
        **dict.fromkeys(known.flags.labels, bool),
    }
    if {"width", "height"} <= kinds.keys():
        width, height = cast(found.c.width, Double), cast(found.c.height, Double)
        elements |= {"megapixels": width * height / 1e6, "aspect_ratio": width / height}
        named |= SIZE_COLUMNS
    condition = compile_condition(where, named, elements)
    return statement.select_from(source).where(condition)


def _is_score_of(rated: Any, rater_id: int, sample_id: Any, parameters: Mapping[str, Any]) -> Any:
    """Return the condition of a join with a rater's scores."""
    found = (rated.c.rater_id == rater_id) & (rated.c.sample_id == sample_id)
    # The range again, because the planner does not pass it on through an outer join.
    if "after_sample_id" in parameters:
        found &= rated.c.sample_id > bindparam("after_sample_id", type_=Integer)
        found &= rated.c.sample_id <= bindparam("last_sample_id", type_=Integer)
    return found


def scores_by_name(connection: Connection) -> dict[str, int]:
    """Return the rater ids of the scores that a condition and --rank-by can name: scorers, imported scores and raters, retired ones too."""
    # Trained raters last, because their names are changed: another score of that name comes first.
    is_trained = Rater.kind == "trained"
    statement = select(Rater.name, is_trained, Rater.rater_id).order_by(is_trained, Rater.rater_id)
    found: dict[str, int] = {}
    for name, is_changed, rater_id in connection.execute(statement):
        found.setdefault(score_name(name) if is_changed else name, rater_id)
    return {name: rater_id for name, rater_id in found.items() if name not in NOT_FOR_SCORES}


def has_number(connection: Connection, dataset: str, key: str) -> bool:
    """Whether a sample of a dataset has this number of its crawl."""
    having = (
        select(HeuristicScore.sample_id)
        .join(SampleLocation, SampleLocation.sample_id == HeuristicScore.sample_id)
        .join(Shard, Shard.shard_id == SampleLocation.shard_id)
        .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
        .where(Dataset.name == dataset, HeuristicScore.imported.has_key(key))
    )
    return bool(connection.scalar(select(having.exists())))


def score_name(rater: str) -> str:
    """Return how a condition and --rank-by name the score of a trained rater.

    >>> score_name("web-2026-learnability-1a2b3c4d"), score_name("2026-loss-1a2b3c4d")
    ('web_2026_learnability_1a2b3c4d', 'rater_2026_loss_1a2b3c4d')
    """
    name = re.sub("[^a-z0-9_]", "_", rater.lower())
    return name if name[:1].isalpha() else f"rater_{name}"


def require_score_name(name: str) -> None:
    """Require that a condition can name scores so.

    Raises:
        ConfigError: It is the name of a column, or a word of SQL.
    """
    from alchemist_core.store.conditions import compile_condition  # noqa: PLC0415  as above

    if name in NOT_FOR_SCORES or name.startswith(PREFIX):
        raise ConfigError(
            f"Scores cannot be named {name!r}: conditions have a column of that name. Choose another name."
        )
    try:
        compile_condition(f"{name} > 0 and {name} is not null", {name: float}, {name: column(name, Double)})
    except ConfigError:
        raise ConfigError(
            f"Scores cannot be named {name!r}: a condition could not name them, because it is a word of SQL. Choose another name, such as "
            f"{name}_score."
        ) from None


def _batches(engine: Engine, statement: Any, parameters: Mapping[str, Any]) -> Iterator[Sequence[Sequence[Any]]]:
    batch: list[Sequence[Any]] = []
    n_chars = 0
    with engine.connect().execution_options(stream_results=True) as connection:
        for rows, n_fetched_chars in fetch_bounded(connection.execute(statement, parameters)):
            batch += rows
            n_chars += n_fetched_chars
            if len(batch) >= ROWS_A_BATCH or n_chars >= CHARS_A_BATCH:
                yield batch
                batch, n_chars = [], 0
    if batch:
        yield batch
