"""Datasets and shards: reading and changing their states, and the one transaction that registers a shard with its samples."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    any_,
    case,
    cast,
    delete,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from alchemist_core.errors import ConfigError
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.shards.faults import Reason
from alchemist_core.shards.tars import RecordFile
from alchemist_core.store.audit import current_actor, record_event
from alchemist_core.store.copy import copy_rows
from alchemist_core.store.engine import read_clock
from alchemist_core.store.leases import take_lock
from alchemist_core.store.queries import load_query
from alchemist_core.store.tables import (
    SAMPLE_COLUMNS,
    AuditEvent,
    Dataset,
    QuarantinedSample,
    Rater,
    Run,
    SampleLocation,
    Shard,
    ShardScore,
)

READABLE = ("verified", "missing", "changed")
"""States of a shard whose samples are registered and that is neither retired nor superseded."""
UNREGISTERED = ("rejected", "growing")
"""States of a shard without registered samples."""


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A registered dataset."""

    dataset_id: int
    name: str
    root_uri: str
    role: str


@dataclass(frozen=True, slots=True)
class NewShard:
    """A tar that was read: its address (relative to the dataset's root), hash and size."""

    dataset_id: int
    uri: str
    sha256: bytes
    size_bytes: int
    crawl_date: date
    run_id: int
    verified_at: datetime | None = None
    """When reading began, to compare with the file's time of change."""


@dataclass(frozen=True, slots=True)
class KnownShard:
    """A tar that is registered already."""

    shard_id: int
    size_bytes: int
    state: str
    sha256: bytes
    verified_at: datetime | None
    crawl_date: date
    reason: str | None
    noted_at: datetime
    """When its state was recorded, to compare with the file's time of change."""


DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def refuse_evaluation(engine: Engine, name: str, *, role: Literal["train", "validation"] = "validation") -> None:
    """Refuse to learn from a dataset that models are measured on.

    Args:
        engine: The store.
        name: The dataset.
        role: What it is used as: `validation` by option --validation, `train` by option --dataset.

    Raises:
        ConfigError: The dataset is unknown, or its role is evaluation.
    """
    if find_dataset(engine, name).role == "evaluation":
        option = "dataset" if role == "train" else role
        raise ConfigError(
            f"--{option} {name}: its role is evaluation. Models are measured on it, so nothing may learn from it. Give a dataset of role "
            f"{role}: alchemist ingest --dataset NAME --root FOLDER --role {role}."
        )


def find_or_free(engine: Engine, name: str, *, role: str, root_uri: str | None) -> DatasetRow | None:
    """Return the dataset of a name, or None if a new dataset may have this name and root.

    Raises:
        ConfigError: The name is not valid, belongs to a removed dataset or is the former one of a dataset with this root, or the dataset
            has another role.
    """
    known = {row.name: row for row in list_datasets(engine)}
    if name not in known:
        if not DATASET_NAME.fullmatch(name):
            shown = f"{name[:40]!r}" + ("..." if len(name) > 40 else "")
            raise ConfigError(
                f"{shown} is not a valid dataset name. Use 1 to 100 letters, digits or . _ + -, starting with a letter or digit."
            )
        _refuse_removed(engine, name)
        if root_uri is not None:
            _refuse_former_name(engine, name, root_uri)
        return None
    if known[name].role != role:
        raise ConfigError(
            f"Dataset {name!r} is registered with role {known[name].role!r}, not {role!r}. Choose another name."
        )
    return known[name]


def register_dataset(
    engine: Engine, name: str, *, root_uri: str | None, role: str, move_root: bool = False
) -> DatasetRow:
    """Return a dataset; it is registered on first use.

    Raises:
        ConfigError: The name is not valid or is the former one of a dataset with this root, or the dataset has another role, or another
            root and move_root is not set.
    """
    if (known := find_or_free(engine, name, role=role, root_uri=root_uri)) is not None:
        return _require_root(engine, known, root_uri=root_uri, move_root=move_root)
    if root_uri is None:
        raise ConfigError(f"Dataset {name!r} is not registered yet. Give its folder or s3:// address with --root.")
    with engine.begin() as connection:
        given = insert(Dataset).values(name=name, root_uri=root_uri, role=role)
        statement = given.on_conflict_do_nothing(index_elements=[Dataset.name]).returning(Dataset.dataset_id)
        dataset_id = connection.execute(statement).scalar()
    if dataset_id is None:
        # Another process has registered it in the meantime.
        return register_dataset(engine, name, root_uri=root_uri, role=role, move_root=move_root)
    return DatasetRow(dataset_id, name, root_uri, role)


def _require_root(engine: Engine, row: DatasetRow, *, root_uri: str | None, move_root: bool) -> DatasetRow:
    if root_uri is None or root_uri.rstrip("/") == row.root_uri.rstrip("/"):
        return row
    if not move_root:
        raise ConfigError(
            f"--root {root_uri}: dataset {row.name!r} has the root {row.root_uri}. Omit --root; or, if its shards were moved, "
            "add --move-root; or register shards of another source as another dataset."
        )
    with engine.begin() as connection:
        connection.execute(update(Dataset).where(Dataset.dataset_id == row.dataset_id).values(root_uri=root_uri))
        record_event(
            connection, current_actor(), "move_root", f"dataset {row.name}",
            before={"root_uri": row.root_uri}, after={"root_uri": root_uri},
        )  # fmt: skip
    return replace(row, root_uri=root_uri)


def list_datasets(engine: Engine, *, role: str | None = None) -> list[DatasetRow]:
    """Return the registered datasets of one role, or all, by name; removed ones are left out."""
    statement = select(Dataset.dataset_id, Dataset.name, Dataset.root_uri, Dataset.role).order_by(Dataset.name)
    statement = statement.where(Dataset.removed_at.is_(None))
    if role is not None:
        statement = statement.where(Dataset.role == role)
    with engine.connect() as connection:
        return [DatasetRow(*row) for row in connection.execute(statement)]


def find_dataset(engine: Engine, name: str) -> DatasetRow:
    """Return one dataset.

    Raises:
        ConfigError: It is not registered; the message lists the registered ones.
    """
    known = list_datasets(engine)
    for row in known:
        if row.name == name:
            return row
    _refuse_removed(engine, name)
    names = ", ".join(row.name for row in known) or "none"
    raise ConfigError(
        f"Dataset {name!r} is not registered (registered: {names}). Run alchemist ingest --dataset {name} --root FOLDER."
    )


def _refuse_removed(engine: Engine, name: str) -> None:
    statement = select(Dataset.removed_at, Dataset.removed_reason).where(
        Dataset.name == name, Dataset.removed_at.is_not(None)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    if row is not None:
        raise ConfigError(
            f"Dataset {name!r} was removed on {row.removed_at:%Y-%m-%d} ({row.removed_reason}). "
            f"Choose another name, or free this one: alchemist dataset rename {name} {name}-removed."
        )


def _refuse_former_name(engine: Engine, name: str, root_uri: str) -> None:
    """Refuse the former name of a dataset for its root: every night would be ingested, scored and published twice."""
    is_rename = (AuditEvent.action == "rename", AuditEvent.before["name"].astext == name)
    with engine.connect() as connection:
        if not connection.execute(select(exists().where(*is_rename))).scalar_one():
            return
    for row in list_datasets(engine):
        if row.root_uri.rstrip("/") == root_uri.rstrip("/"):
            raise ConfigError(
                f"Dataset {name!r} was renamed: {row.name!r} has the root {root_uri}. Give the name {row.name}, and rename the section "
                f"[datasets.{name}] of alchemist.toml if there is one."
            )


def known_shards(engine: Engine, dataset_id: int) -> dict[str, KnownShard]:
    """Return every registered shard by its address; of several revisions the current one."""
    reason = func.coalesce(Shard.state_reason, Shard.rejected_reason)
    # Never null, which the type of a coalesce does not say.
    noted_at: ColumnElement[Any] = func.coalesce(Shard.state_changed_at, Shard.created_at)
    columns = (
        Shard.shard_id, Shard.size_bytes, Shard.state, Shard.sha256, Shard.verified_at, Shard.crawl_date, reason, noted_at,
    )  # fmt: skip
    statement = select(Shard.uri, *columns).where(Shard.dataset_id == dataset_id, Shard.state != "superseded")
    with engine.connect() as connection:
        return {row[0]: KnownShard(*row[1:]) for row in connection.execute(statement)}


def superseded_bytes(engine: Engine, dataset_id: int) -> list[tuple[str, bytes]]:
    """Return the address and sha256 of every former revision of a shard."""
    statement = select(Shard.uri, Shard.sha256).where(Shard.dataset_id == dataset_id, Shard.state == "superseded")
    with engine.connect() as connection:
        return [(row[0], bytes(row[1])) for row in connection.execute(statement)]


class ShardRow(NamedTuple):
    """A registered shard with its dataset and its counts (query `find_shards`)."""

    shard_id: int
    dataset: str
    root_uri: str
    uri: str
    crawl_date: date
    state: str
    reason: str | None
    since: datetime
    size_bytes: int
    n_samples: int
    sha256: bytes
    verified_at: datetime | None
    n_quarantined: int
    n_unreadable: int
    """Records of those quarantined that ingest could not read; the others have no score of a rater."""
    n_raters: int


def find_shards(
    engine: Engine, *, dataset: str | None = None, states: Sequence[str] | None = None, subject: str | None = None
) -> list[ShardRow]:
    """Return shards with their datasets; a subject is an id, DATASET/PATH, PATH below the root, or a full address.

    Those of removed datasets are left out, unless a dataset or subject is given.
    """
    parameters = {"dataset": dataset, "states": None if states is None else list(states), "subject": subject}
    with engine.connect() as connection:
        return [ShardRow._make(row) for row in connection.execute(load_query("find_shards"), parameters)]


class QuarantinedRecord(NamedTuple):
    """A quarantined record of a shard."""

    key: str
    reason: str
    detail: str
    stage: str
    rater: str | None
    """The rater that could not score it; None for a record that ingest could not read."""


def quarantined_in(engine: Engine, shard_id: int, *, limit: int) -> list[QuarantinedRecord]:
    """Return the quarantined records of a shard in the order of the tar, each once, however many raters could not score it."""
    bad = QuarantinedSample
    statement = (
        select(bad.key, bad.reason, bad.detail, bad.stage, Rater.name)
        .join(Rater, Rater.rater_id == bad.rater_id, isouter=True)
        .where(bad.shard_id == shard_id)
        .ext(distinct_on(bad.ordinal))
        .order_by(bad.ordinal, bad.quarantine_id)
        .limit(limit)
    )
    with engine.connect() as connection:
        return [QuarantinedRecord._make(row) for row in connection.execute(statement)]


def find_retryable_rater(engine: Engine, shard_id: int) -> tuple[str, str] | None:
    """Return a rater that can try a sample of a shard again and why it could not score it; no rater gets an image that was taken down."""
    bad = QuarantinedSample
    statement = (
        select(Rater.name, bad.reason)
        .join(Rater, Rater.rater_id == bad.rater_id)
        .where(bad.shard_id == shard_id, bad.reason != Reason.TAKEN_DOWN.value)
        .order_by(bad.ordinal, bad.quarantine_id)
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else (row.name, row.reason)


def read_findings(engine: Engine, shard_id: int) -> tuple[dict[int, str | None], dict[int, str]]:
    """Return what ingest found at each position of a shard: the repairs of readable records, and the reasons of the others."""
    location, bad = SampleLocation, QuarantinedSample
    readable = select(location.ordinal, location.repair).where(location.shard_id == shard_id)
    quarantined = select(bad.ordinal, bad.reason).where(bad.shard_id == shard_id, bad.rater_id.is_(None))
    with engine.connect() as connection:
        repairs = {row[0]: row[1] for row in connection.execute(readable)}
        return repairs, {row[0]: row[1] for row in connection.execute(quarantined)}


def imported_names(engine: Engine, dataset_id: int, uri: str) -> list[str] | None:
    """Return the scores of records that the newest ingest of a shard's address imported; None if the run ledger does not say."""
    statement = (
        select(Run.config["imported_scores"])
        .join(Shard, Shard.run_id == Run.run_id)
        .where(Shard.dataset_id == dataset_id, Shard.uri == uri, Run.stage == "ingest")
        .order_by(Shard.shard_id.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


def count_shards(engine: Engine, *, dataset: str | None = None) -> dict[str, int]:
    """Return the number of shards by state, of one dataset or of all that were not removed."""
    statement = select(Shard.state, func.count()).join(Dataset, Dataset.dataset_id == Shard.dataset_id)
    statement = statement.where(Dataset.removed_at.is_(None) if dataset is None else Dataset.name == dataset)
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement.group_by(Shard.state).order_by(Shard.state))}


def confirm_shard(engine: Engine, shard_id: int, verified_at: datetime, size_bytes: int) -> None:
    """Record that a shard was read again and has the registered hash, and the size that was read.

    If it was missing or changed, the time of its restoration is kept, because earlier checks did not read it.
    """
    is_restored = Shard.state != "verified"
    restored_at = case((is_restored, func.clock_timestamp()), else_=Shard.state_changed_at)
    values = {
        "verified_at": verified_at, "size_bytes": size_bytes,
        "state": "verified", "state_reason": None, "state_changed_at": restored_at,
    }  # fmt: skip
    statement = update(Shard).where(Shard.shard_id == shard_id, Shard.state.in_(READABLE)).values(values)
    with engine.begin() as connection:
        connection.execute(statement)


def mark_unreadable(connection: Connection, shard_id: int, state: str, reason: str) -> bool:
    """Record that a registered shard is `missing` or `changed`; returns False if it already was. A retired shard stays retired."""
    values = {"state": state, "state_reason": reason, "state_changed_at": func.clock_timestamp()}
    statement = update(Shard).where(Shard.shard_id == shard_id, Shard.state.in_(READABLE), Shard.state != state)
    return connection.execute(statement.values(values)).rowcount == 1


def find_cut(engine: Engine, shard_ids: Sequence[int]) -> set[int]:
    """Return which of some registered shards had no end mark, or ended in zeros, so that they may have been unfinished uploads."""
    bad = QuarantinedSample
    where = (
        bad.shard_id == any_(cast(list(shard_ids), ARRAY(BigInteger))),
        bad.rater_id.is_(None),
        bad.reason == Reason.TRUNCATED_TAR.value,
    )
    with engine.connect() as connection:
        return set(connection.execute(select(bad.shard_id).where(*where)).scalars())


class UnreadableShard(NamedTuple):
    """A shard that is missing or changed."""

    dataset: str
    uri: str
    shard_id: int
    state: str
    reason: str | None


def unreadable_shards(
    connection: Connection, dataset_ids: Sequence[int], crawl_date: date | None, *, rater_id: int
) -> list[UnreadableShard]:
    """Return the shards that a rater cannot score because they are missing or changed."""
    is_scored = exists().where(ShardScore.shard_id == Shard.shard_id, ShardScore.rater_id == rater_id)
    statement = (
        select(
            Dataset.name.label("dataset"), Shard.uri, Shard.shard_id, Shard.state, Shard.state_reason.label("reason")
        )
        .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
        .where(Shard.dataset_id.in_(dataset_ids), Shard.state.in_(("missing", "changed")), ~is_scored)
        .order_by(Dataset.name, Shard.uri)
    )
    if crawl_date is not None:
        statement = statement.where(Shard.crawl_date == crawl_date)
    return [UnreadableShard._make(row) for row in connection.execute(statement)]


def retire_shard(connection: Connection, shard_id: int, *, state: str = "retired", reason: str) -> bool:
    """Retire a shard, or mark it as `superseded` by a later revision; returns False if it already was."""
    # One at a time: a snapshot ignores retirements above a number, so numbers must be committed in order.
    take_lock(connection, "retirements")
    newest = select(func.coalesce(func.max(Shard.retirement_id), 0)).scalar_subquery()
    values = {
        "state": state, "state_reason": reason, "state_changed_at": func.clock_timestamp(), "rejected_reason": None,
        "retirement_id": func.coalesce(Shard.retirement_id, newest + 1),
    }  # fmt: skip
    statement = (
        update(Shard).where(Shard.shard_id == shard_id, Shard.state.not_in((state, "superseded"))).values(values)
    )
    return connection.execute(statement).rowcount == 1


def reject_shard(engine: Engine, shard: NewShard, reason: str) -> None:
    """Register an unreadable shard with the reason."""
    _note_unread(engine, shard, state="rejected", rejected_reason=reason)


def await_shard(engine: Engine, shard: NewShard, reason: str) -> None:
    """Register a shard that is still being uploaded: its samples are not registered until it is complete."""
    _note_unread(engine, shard, state="growing", state_reason=reason)


def forget_unread(engine: Engine, shard_ids: Sequence[int]) -> None:
    """Delete the rows of abandoned uploads and of rejected files that no longer exist; they have no registered samples."""
    with engine.begin() as connection:
        connection.execute(delete(Shard).where(Shard.shard_id.in_(shard_ids), Shard.state.in_(UNREGISTERED)))


def _note_unread(engine: Engine, shard: NewShard, **fields: Any) -> None:
    with engine.begin() as connection:
        _keep_order(connection, shard.dataset_id)
        _forget_unread(connection, shard)
        _insert_shard(connection, replace(shard, verified_at=None), **fields)


def register_shard(
    engine: Engine, shard: NewShard, samples: Sequence[Any], faults: Sequence[Any], *, imported: Sequence[str] = (),
    supersedes: int | None = None,
) -> int | None:  # fmt: skip
    """Store a verified shard, its samples, their locations and its quarantined records in one transaction.

    A revision replaces the shard that it supersedes. Decided nights keep the locations of the former shard. Scores belong to samples,
    so samples that are in both keep theirs.

    Args:
        engine: The store.
        shard: The tar that was read.
        samples: Readable records, from `shards.samples`.
        faults: Bad records, each with its reason.
        imported: Keys of the crawl's own scores in the records' JSON.
        supersedes: Former shard under the same address, of which this is a later revision.

    Returns:
        Number of new samples; None if another process has registered the shard in the meantime.
    """
    with engine.begin() as connection:
        _keep_order(connection, shard.dataset_id)
        _forget_unread(connection, shard)
        if supersedes is not None:
            retire_shard(connection, supersedes, state="superseded", reason="a later revision has its address")
        verified = replace(shard, verified_at=shard.verified_at or read_clock(connection))
        n_repaired = sum(sample.repair is not None for sample in samples)
        counts = {"n_samples": len(samples) + len(faults), "n_repaired": n_repaired}
        shard_id = _insert_shard(connection, verified, state="verified", **counts)
        if shard_id is None:
            return None
        n_new = _insert_samples(connection, shard_id, samples)
        if imported and samples:
            connection.execute(load_query("import_scores"), {"names": list(imported)})
        insert_faults(connection, shard_id, faults, stage="ingest", rater_id=None, run_id=shard.run_id)
        # Last: a check that reads while the rows above are written does not see them, so they must be newer than that check.
        arrived = update(Shard).where(Shard.shard_id == shard_id).values(created_at=func.clock_timestamp())
        connection.execute(arrived)
        return n_new


def _keep_order(connection: Connection, dataset_id: int) -> None:
    """Let the ids of shards that are not training data ascend in the order of the commits: a snapshot ignores those above an id."""
    role = select(Dataset.role).where(Dataset.dataset_id == dataset_id)
    if connection.execute(role).scalar_one() != "train":
        # The first lock of its transaction: a session that waits for it holds none for which its holder could wait.
        take_lock(connection, "held-out shards")


def _forget_unread(connection: Connection, shard: NewShard) -> None:
    # No row refers to a shard that was rejected or is being uploaded: the next file under its address replaces it.
    same = (Shard.dataset_id == shard.dataset_id, Shard.uri == shard.uri, Shard.state.in_(UNREGISTERED))
    connection.execute(delete(Shard).where(*same))


def _insert_shard(connection: Connection, shard: NewShard, **fields: Any) -> int | None:
    values = {name: getattr(shard, name) for name in NewShard.__slots__}
    given = (
        insert(Shard)
        .values(values | fields | {"created_at": func.clock_timestamp()})
        .on_conflict_do_nothing(index_elements=[Shard.dataset_id, Shard.uri], index_where=text("state <> 'superseded'"))
    )
    return connection.execute(given.returning(Shard.shard_id)).scalar()


_LOCATION_COLUMNS = {
    "ordinal": "integer", "key": "text", "file_exts": "text[]", "file_offsets": "bigint[]", "file_sizes": "bigint[]",
    "content_hash": "bytea", "repair": "text", "content_checksum": "bytea",
}  # fmt: skip
_INCOMING_COLUMNS = _LOCATION_COLUMNS | {column.name: column.sql_type for column in SAMPLE_COLUMNS}
_SAMPLE_NAMES, _LOCATION_NAMES = ", ".join(column.name for column in SAMPLE_COLUMNS), ", ".join(_LOCATION_COLUMNS)
_MAKE_INCOMING = text(f"""
    CREATE TEMPORARY TABLE incoming ({", ".join(f"{name} {kind}" for name, kind in _INCOMING_COLUMNS.items())}) ON COMMIT DROP
""")
# In the order of pair_hash, so that two shards with the same samples cannot deadlock.
_INSERT_SAMPLES = text(f"""
    INSERT INTO alchemist.samples ({_SAMPLE_NAMES})
    SELECT DISTINCT ON (pair_hash) {_SAMPLE_NAMES} FROM incoming ORDER BY pair_hash, ordinal
    ON CONFLICT (pair_hash) DO NOTHING
""")  # noqa: S608  names of columns that this code declares


def _given(table: str, name: str) -> str:
    """Return a column as SQL that is null where the crawl gives nothing."""
    return f"nullif({table}.metadata, '{{}}')" if name == "metadata" else f"{table}.{name}"


_FILLABLE = (*(attribute.name for attribute in CRAWL_ATTRIBUTES), "metadata")
_FIRST_GIVEN = ", ".join(
    f"(array_agg({one} ORDER BY ordinal) FILTER (WHERE {one} IS NOT NULL))[1] AS {name}"
    for name, one in ((name, _given("incoming", name)) for name in _FILLABLE)
)
_IS_LACKING = " OR ".join(f"{_given('samples', name)} IS NULL AND given.{name} IS NOT NULL" for name in _FILLABLE)
_FILLED = ", ".join(
    f"{name} = coalesce({_given('samples', name)}, lacking.{name}, samples.{name})" for name in _FILLABLE
)
# Locked in the order of pair_hash too, and only the samples that lack something: a lock writes to the row.
_FILL_ATTRIBUTES = text(f"""
    WITH given AS MATERIALIZED (
        SELECT pair_hash, {_FIRST_GIVEN} FROM incoming GROUP BY pair_hash
    ),
    lacking AS MATERIALIZED (
        SELECT samples.sample_id, given.*
        FROM given INNER JOIN alchemist.samples ON given.pair_hash = samples.pair_hash
        WHERE {_IS_LACKING}
        ORDER BY given.pair_hash
        FOR NO KEY UPDATE OF samples
    )
    UPDATE alchemist.samples SET {_FILLED} FROM lacking WHERE samples.sample_id = lacking.sample_id
""")  # noqa: S608  as above
_INSERT_URLS = text("""
    INSERT INTO alchemist.sample_urls (sample_id, url_hash, source_url)
    SELECT DISTINCT samples.sample_id, sha256(convert_to(incoming.source_url, 'UTF8')) AS url_hash, incoming.source_url
    FROM incoming INNER JOIN alchemist.samples ON incoming.pair_hash = samples.pair_hash
    WHERE incoming.source_url <> samples.source_url
    ORDER BY sample_id, url_hash
    ON CONFLICT (sample_id, url_hash) DO NOTHING
""")
_INSERT_LOCATIONS = text(f"""
    INSERT INTO alchemist.sample_locations (shard_id, sample_id, {_LOCATION_NAMES})
    SELECT :shard_id, samples.sample_id, {", ".join(f"incoming.{name}" for name in _LOCATION_COLUMNS)}
    FROM incoming INNER JOIN alchemist.samples ON incoming.pair_hash = samples.pair_hash
""")  # noqa: S608  as above


def _insert_samples(connection: Connection, shard_id: int, samples: Sequence[Any]) -> int:
    connection.execute(_MAKE_INCOMING)
    copy_rows(connection, "incoming", tuple(_INCOMING_COLUMNS), (_incoming_row(sample) for sample in samples))
    n_new = connection.execute(_INSERT_SAMPLES).rowcount
    if n_new < len(samples):
        # The first crawl of a sample decides its attributes; a later one fills what is empty, and its URL is kept for takedowns.
        connection.execute(_FILL_ATTRIBUTES)
        connection.execute(_INSERT_URLS)
    connection.execute(_INSERT_LOCATIONS, {"shard_id": shard_id})
    return n_new


def _incoming_row(sample: Any) -> tuple[Any, ...]:
    files: tuple[RecordFile, ...] = sample.record.files
    return (
        sample.record.ordinal, sample.record.key, [file.ext for file in files], [file.offset for file in files],
        [file.size for file in files], sample.content_hash, sample.repair, sample.content_checksum,
        *(sample.attributes[name] if name in sample.attributes else getattr(sample, name) for name, _, _ in SAMPLE_COLUMNS),
    )  # fmt: skip


def insert_faults(
    connection: Connection, shard_id: int, faults: Iterable[Any], *, stage: str, rater_id: int | None, run_id: int
) -> None:
    """Quarantine records, each with its reason."""
    columns = ("shard_id", "ordinal", "key", "reason", "detail", "is_transient", "stage", "rater_id", "run_id")
    rows = ((shard_id, f.ordinal, f.key, f.reason, f.detail, f.is_transient, stage, rater_id, run_id) for f in faults)
    copy_rows(connection, "alchemist.quarantined_samples", columns, rows)


class StoredShard(NamedTuple):
    """A registered shard with its dataset's root, as scoring reads it."""

    shard_id: int
    uri: str
    sha256: bytes
    n_samples: int
    root_uri: str
    dataset_id: int
    crawl_date: date


def read_shard(connection: Connection, shard_id: int) -> StoredShard:
    """Return one shard with its dataset's root."""
    statement = (
        select(
            Shard.shard_id,
            Shard.uri,
            Shard.sha256,
            Shard.n_samples,
            Dataset.root_uri,
            Dataset.dataset_id,
            Shard.crawl_date,
        )
        .join(Dataset, Dataset.dataset_id == Shard.dataset_id)
        .where(Shard.shard_id == shard_id)
    )
    return StoredShard._make(connection.execute(statement).one())
