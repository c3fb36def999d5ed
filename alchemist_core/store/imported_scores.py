"""Imports scores that were computed elsewhere, in one transaction: all of them are stored, or none.

The rows are copied into a temporary table, joined with the samples by their key, and those without a stored score are inserted into the
partition of the name, in the order of sample_id. A lock by name makes imports of one name wait for each other.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sqlalchemy import Connection, Engine, select, text

from alchemist_core.config import counted, fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.rating.acceptance import HELD_OUT
from alchemist_core.shards.crawl_attributes import CRAWL_ATTRIBUTES
from alchemist_core.shards.storage import join_uri
from alchemist_core.store.copy import copy_columns, quiet_driver
from alchemist_core.store.export import require_score_name
from alchemist_core.store.leases import take_lock
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import RaterRow, find_named, register_raters
from alchemist_core.store.score_files import HASH, NUMBER, SCORE, TEXT, KeyColumn, ScoreChunk
from alchemist_core.store.tables import Dataset, Shard

KeyName = Literal["sample_id", "pair_hash", "image_hash", "source_url", "shard+key"]
_URL = next(attribute for attribute in CRAWL_ATTRIBUTES if attribute.name == "source_url")


class Key(NamedTuple):
    """How the rows of a file name samples."""

    columns: Mapping[str, KeyColumn]
    """Columns of the file."""
    incoming: str
    """The same columns in the temporary table."""
    join: str
    """Join of the temporary table with `found`, which has their sample_id."""
    is_shared: bool = False
    """Whether several samples can have one key: its score is stored for each of them. A sample can have several URLs, too."""


KEYS: dict[KeyName, Key] = {
    "sample_id": Key(
        {"sample_id": KeyColumn(NUMBER, ("sample_id",))}, "sample_id bigint",
        "INNER JOIN alchemist.samples AS found ON incoming.sample_id = found.sample_id",
    ),
    "pair_hash": Key(
        {"pair_hash": KeyColumn(HASH, ("pair_hash",))}, "pair_hash bytea",
        "INNER JOIN alchemist.samples AS found ON incoming.pair_hash = found.pair_hash",
    ),
    "image_hash": Key(
        {"image_hash": KeyColumn(HASH, ("image_hash",))}, "image_hash bytea",
        "INNER JOIN alchemist.samples AS found ON incoming.image_hash = found.image_hash", is_shared=True,
    ),
    "source_url": Key(
        {"source_url": KeyColumn(TEXT, (_URL.name, *_URL.keys))}, "source_url text",
        """INNER JOIN (
            SELECT sample_id, source_url FROM alchemist.samples UNION ALL SELECT sample_id, source_url FROM alchemist.sample_urls
        ) AS found ON incoming.source_url = found.source_url""",
        is_shared=True,
    ),
    "shard+key": Key(
        {"shard": KeyColumn(TEXT, ("shard",), is_file_name=True), "key": KeyColumn(TEXT, ("key",))}, "shard_id bigint, key text",
        "INNER JOIN alchemist.sample_locations AS found ON incoming.shard_id = found.shard_id AND incoming.key = found.key",
    ),
}  # fmt: skip
# One row is a sample: how many rows of the file name it, their scores, and the place of the first of them. The order makes the
# partition's index grow at its end.
MATCH = """
    CREATE TEMPORARY TABLE matched ON COMMIT DROP AS
    SELECT found.sample_id, count(*) AS n_rows, min(incoming.score) AS score, max(incoming.score) AS highest, min(incoming.ctid) AS place
    FROM incoming {join} GROUP BY found.sample_id ORDER BY found.sample_id
"""
COUNT_ROWS = """
    SELECT count(*) AS n_keys, coalesce(sum(n_rows - 1) FILTER (WHERE score = highest), 0) AS n_doubled,
        coalesce(sum(n_rows - 1) FILTER (WHERE score <> highest), 0) AS n_in_conflict
    FROM {matched}
"""
# The same where rows of several keys name one sample. A row is in conflict if it contradicts the first row of any of its samples.
COUNT_EACH_ROW = """
    SELECT count(*) FILTER (WHERE is_first AND NOT is_in_conflict) AS n_keys,
        count(*) FILTER (WHERE NOT is_first AND NOT is_in_conflict) AS n_doubled, count(*) FILTER (WHERE is_in_conflict) AS n_in_conflict
    FROM (
        SELECT bool_or(matched.place = incoming.ctid) AS is_first,
            bool_or(matched.place <> incoming.ctid AND matched.score <> matched.highest) AS is_in_conflict
        FROM incoming {join} INNER JOIN matched ON found.sample_id = matched.sample_id GROUP BY incoming.ctid
    ) AS each_row
"""
KEEP_FIRST = """
    UPDATE matched SET score = incoming.score FROM incoming
    WHERE incoming.ctid = matched.place AND matched.score <> matched.highest
"""
INSERT = """
    INSERT INTO alchemist.scores (rater_id, score, sample_id)
    SELECT :rater_id, matched.score, matched.sample_id FROM matched
    LEFT JOIN alchemist.scores AS stored ON stored.rater_id = :rater_id AND matched.sample_id = stored.sample_id
    WHERE stored.sample_id IS NULL
"""
N_SHOWN = 5


@dataclass(slots=True)
class ImportCounts:
    """What became of the rows of a file, and of the samples that they name."""

    n_rows: int = 0
    n_matched: int = 0
    """Rows whose score counts: the first of each key that belongs to a sample."""
    n_unmatched: int = 0
    n_doubled: int = 0
    """Rows that repeat an earlier row of the same sample with the same score."""
    n_in_conflict: int = 0
    """Rows that contradict the first row of their sample."""
    n_non_finite: int = 0
    n_new: int = 0
    n_same: int = 0
    n_other: int = 0
    """Samples with another stored score, which stays."""
    is_new_name: bool = False


@dataclass(frozen=True, slots=True)
class ScoreImport:
    """What to import."""

    name: str
    """Name of the scores."""
    key: Key
    """How the rows name samples."""
    should_keep: bool = False
    """Of two scores of one sample keep the stored one, else the file's first one; False: refuse the whole import."""
    dataset: str | None = None
    """The dataset whose shards are meant; None: every one."""
    run_id: int | None = None
    held_out: Sequence[float] = ()
    """Quantiles of the scores of validation samples that trained nothing, if what computed the scores held some out."""


def import_scores(
    engine: Engine, wanted: ScoreImport, chunks: Iterable[ScoreChunk], on_progress: Callable[[int], None]
) -> ImportCounts:
    """Store the scores of samples that have none under a name yet; a second import of the same rows stores nothing.

    Args:
        engine: The store.
        wanted: What to import.
        chunks: The rows.
        on_progress: Called with the number of rows read so far.

    Raises:
        ConfigError: The name is not allowed or belongs to other scores, no row belongs to a sample, or a shard's name is ambiguous.
        DataError: A sample has two different scores.
    """
    require_score_name(wanted.name)
    with engine.begin() as connection:
        # A process that is stopped must not keep the lock; reading an object store pauses for 13 minutes at most.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '15min'; SET LOCAL jit = off"))
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        take_lock(connection, f"import scores {wanted.name}")
        rater = _find(engine, wanted.name)
        loading = _Loading(connection, wanted)
        loading.copy(chunks, on_progress)
        loading.match()
        loading.compare(rater)
        if rater is None:
            # In a transaction of its own, because attaching a partition locks out other registrations until the transaction ends.
            rater = _register(engine, wanted)
            loading.counts.is_new_name = True
        if loading.counts.n_new:
            connection.execute(text(INSERT), {"rater_id": rater.rater_id})
    return loading.counts


def _find(engine: Engine, name: str) -> RaterRow | None:
    found = find_named(engine, [name])
    if not found:
        return None
    if found[0].kind != "imported":
        other = "a scorer" if found[0].kind == "scorer" else "a trained rater"
        raise ConfigError(f"The name {name} belongs to {other}. Import the scores under another name.")
    if found[0].state == "retired":
        raise ConfigError(f"The scores {name} are retired and get no further rows. Import under another name.")
    return found[0]


def _register(engine: Engine, wanted: ScoreImport) -> RaterRow:
    name = wanted.name
    register_raters(engine, [
        {
            "name": name, "kind": "imported", "rule": "imported", "config": {"name": name}, "run_id": wanted.run_id,
            "identity_hash": fingerprint({"imported": name}), "checkpoint_uri": "", "checkpoint_sha256": sha256().digest(),
            "acceptance_report": {HELD_OUT: list(wanted.held_out)} if wanted.held_out else {},
        }
    ])  # fmt: skip
    return find_named(engine, [name])[0]


class _Loading:
    """Copies rows into the temporary table `incoming`, and matches them with samples in the temporary table `matched`."""

    def __init__(self, connection: Connection, wanted: ScoreImport) -> None:
        self._connection, self._wanted, self._key = connection, wanted, wanted.key
        self._shards = ShardNames(connection, wanted.dataset) if "shard" in wanted.key.columns else None
        self._first_key = ""
        self.counts = ImportCounts()

    def copy(self, chunks: Iterable[ScoreChunk], on_progress: Callable[[int], None]) -> None:
        """Copy the rows; one chunk is in memory at a time."""
        self._connection.execute(
            text(f"CREATE TEMPORARY TABLE incoming ({self._key.incoming}, score real) ON COMMIT DROP")
        )
        for chunk in chunks:
            self.counts.n_rows += chunk.n_rows
            self.counts.n_non_finite += chunk.n_non_finite
            if len(chunk.columns[SCORE]):
                shown = [str(_plain(column[0])) for name, column in chunk.columns.items() if name != SCORE]
                self._first_key = self._first_key or " ".join(shown)
                self._copy(chunk.columns if self._shards is None else self._shards.replace(chunk.columns))
            on_progress(self.counts.n_rows)
        # Without statistics the planner expects few rows and looks up millions of them one by one.
        self._connection.execute(text("ANALYZE incoming"))

    def _copy(self, columns: Mapping[str, Any]) -> None:
        if not any(isinstance(column, pa.Array) for column in columns.values()):
            copy_columns(self._connection, "incoming", columns)
            return
        data = io.BytesIO()
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="all_valid")
        pyarrow.csv.write_csv(pa.table(dict(columns)), data, options)
        data.seek(0)
        cursor = self._connection.connection.cursor()
        with quiet_driver():
            cursor.copy_expert(f"COPY incoming ({', '.join(columns)}) FROM STDIN (FORMAT csv)", data)

    def match(self) -> None:
        """Find the samples of the rows, and count the rows.

        Raises:
            ConfigError: No row belongs to a sample.
            DataError: Rows of one sample have different scores.
        """
        self._connection.execute(text(MATCH.format(join=self._key.join)))
        self._connection.execute(text("ANALYZE matched"))
        counts = self.counts
        counts.n_matched, counts.n_doubled, counts.n_in_conflict = self._count_rows()
        n_used = counts.n_matched + counts.n_doubled + counts.n_in_conflict
        counts.n_unmatched = counts.n_rows - counts.n_non_finite - n_used
        if not counts.n_matched:
            such = f", such as {self._first_key}," if self._first_key else ""
            raise ConfigError(
                f"None of {counted(counts.n_rows, 'row')}{such} belongs to a sample by {self._key_name}, so nothing was imported. Check "
                "--key and --key-column, and ingest the samples first."
            )
        if counts.n_in_conflict and not self._wanted.should_keep:
            self._refuse("the file has different scores", "matched.score <> matched.highest")
        if counts.n_in_conflict:
            self._connection.execute(text(KEEP_FIRST))

    def _count_rows(self) -> tuple[int, int, int]:
        """Return the numbers of rows that count, that repeat an earlier one, and that contradict it."""
        keys = "(SELECT DISTINCT place, n_rows, score, highest FROM matched) AS keys"
        counted_from = COUNT_ROWS.format(matched=keys if self._key.is_shared else "matched")
        n_matched, n_doubled, n_in_conflict = self._connection.execute(text(counted_from)).one()
        if self._key.is_shared and (n_doubled or n_in_conflict):
            each_row = text(COUNT_EACH_ROW.format(join=self._key.join))
            n_matched, n_doubled, n_in_conflict = self._connection.execute(each_row).one()
        return int(n_matched), int(n_doubled), int(n_in_conflict)

    def compare(self, rater: RaterRow | None) -> None:
        """Compare the scores with those that are stored under the name.

        Raises:
            DataError: A sample has another score there.
        """
        rater_id = None if rater is None else rater.rater_id
        found = self._connection.execute(load_query("compare_imported_scores"), {"rater_id": rater_id}).one()
        self.counts.n_new, self.counts.n_same, self.counts.n_other = found
        if self.counts.n_other and not self._wanted.should_keep:
            self._refuse("another score is stored", "stored.score <> matched.score", rater_id=rater_id)

    @property
    def _key_name(self) -> str:
        return "+".join(self._key.columns)

    def _refuse(self, what: str, condition: str, *, rater_id: int | None = None) -> NoReturn:
        """Refuse the import, and show the keys of the first samples with two scores."""
        names = [column.split()[0] for column in self._key.incoming.split(", ")]
        columns = ", ".join(f"incoming.{name}" for name in names)
        statement = text(f"""
            SELECT {columns}, sum(count(*)) OVER () AS n
            FROM matched INNER JOIN incoming ON matched.place = incoming.ctid
            LEFT JOIN alchemist.scores AS stored ON stored.rater_id = :rater_id AND matched.sample_id = stored.sample_id
            WHERE {condition} GROUP BY matched.place, {columns} ORDER BY matched.place LIMIT {N_SHOWN}
        """)  # noqa: S608  constants
        rows = self._connection.execute(statement, {"rater_id": rater_id}).all()
        shown = ", ".join(" ".join(self._show(names, row)) for row in rows)
        raise DataError(
            f"Scores {self._wanted.name}: for {counted(int(rows[0].n), 'sample')} {what}; the first by {self._key_name}: {shown}. Nothing "
            "was imported, because a stored score never changes. Import under another name. Or --on-conflict keep: the stored score "
            "stays, else the first one in the file."
        )

    def _show(self, names: Sequence[str], row: Sequence[Any]) -> list[str]:
        return [
            self._shards.uri_of[value] if self._shards is not None and name == "shard_id" else str(_plain(value))
            for name, value in zip(names, row[: len(names)], strict=True)
        ]


def _plain(value: Any) -> Any:
    """Return a value as a user writes it: a hash as hex digits."""
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if isinstance(value, np.void):
        return value.tobytes().hex()
    return bytes(value).hex() if isinstance(value, (bytes, memoryview)) else value


class ShardNames:
    """Finds shards by their address, or by a part of its end that no other shard has.

    Args:
        connection: To the store.
        dataset: The dataset whose shards are meant; None: every one.
    """

    def __init__(self, connection: Connection, dataset: str | None) -> None:
        statement = select(Shard.shard_id, Shard.uri, Dataset.root_uri).join(
            Dataset, Dataset.dataset_id == Shard.dataset_id
        )
        statement = statement.where(Shard.state != "superseded", Dataset.removed_at.is_(None))
        if dataset is not None:
            statement = statement.where(Dataset.name == dataset)
        self.uri_of: dict[int, str] = {}
        self._by_file: dict[str, list[int]] = {}
        for shard_id, uri, root_uri in connection.execute(statement):
            self.uri_of[shard_id] = join_uri(root_uri, uri)
            self._by_file.setdefault(uri.rpartition("/")[2], []).append(shard_id)

    def find(self, name: str) -> int | None:
        """Return the id of a shard; None if there is none.

        Raises:
            ConfigError: Several shards end so.
        """
        wanted = name if name.endswith(".tar") else f"{name}.tar"
        near = self._by_file.get(wanted.rpartition("/")[2], [])
        found = [shard_id for shard_id in near if f"/{self.uri_of[shard_id]}".endswith(f"/{wanted.lstrip('/')}")]
        if len(found) > 1:
            shown = ", ".join(self.uri_of[shard_id] for shard_id in found[:N_SHOWN])
            raise ConfigError(
                f"The shard {name!r} is ambiguous: {shown}. Write more of its address in the column shard, or name its dataset with "
                "--dataset."
            )
        return found[0] if found else None

    def replace(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return a chunk's columns with the ids of shards instead of their names; rows of unknown shards are left out."""
        encoded = columns["shard"].dictionary_encode()
        ids = pa.array([self.find(name) for name in encoded.dictionary.to_pylist()], pa.int64())
        shard_id = ids.take(encoded.indices)
        is_known = shard_id.is_valid()
        return {
            "shard_id": shard_id.filter(is_known), "key": columns["key"].filter(is_known),
            SCORE: columns[SCORE][is_known.to_numpy(zero_copy_only=False)],
        }  # fmt: skip
