"""The scored samples of decided nights in files that grow by night, so that a selection reads from the store only what is new.

A decided night never changes, so its rows are read once. What can change is not kept here: every selection reads takedowns,
duplicates, flags, captions, URLs and other scores from the store. A kept night is used only if all of these are as they were:

- its fingerprint (`night_states.sql`): the ledger with the time at which each shard's scores were stored, retries, retired shards. In a
  restored or another database a night was scored at another time;
- the server's counters of updated and deleted scores of the rater, and the times at which counters were reset: scores that were changed
  by hand. The counters lag by up to ten seconds behind a session that stays connected;
- the sha256 of each file, for a selection that is stored; its size and time for a preview.

A rater has one folder with a column a file, in the order of pair_hash; a row is a sample in a night. New nights are merged into new
files, which replace the folder; processes that mapped the former ones keep them. Memory does not grow with the store: a piece at a time
is read, sorted and written.

Letters: N rows · P rows of a piece.
"""

import hashlib
import json
import os
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from alchemist_core.settings import load_settings
from alchemist_core.store.copy import copy_out
from alchemist_core.store.manifests import HASH_BYTES, find_hashes, hash_order, hash_prefixes
from alchemist_core.store.queries import load_query

RANGE = 1_000_000
"""Sample ids, or rows of nights, that one query reads."""
PIECE_ROWS = 1 << 20
MAX_READERS = 4
"""Most connections that read at the same time."""
ROW_FIELDS = {"sample_id": ">i8", "pair_hash": "(32,)u1", "score": ">f4", "night_id": ">i4"}
_FORMATS: dict[str, tuple[str, tuple[int, ...]]] = {
    "pair_hash_N32": ("|u1", (HASH_BYTES,)), "sample_id_N": ("<i8", ()), "score_N": ("<f4", ()), "night_N": ("<i4", ()),
}  # fmt: skip
NOTE = "nights.json"
_HASH_SPACE = 1 << 64


class NightRows(NamedTuple):
    """Aligned columns in the order of pair_hash: a row is a sample in a night."""

    pair_hash_N32: NDArray[np.uint8]
    sample_id_N: NDArray[np.int64]
    score_N: NDArray[np.float32]
    night_N: NDArray[np.int32]

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return self._asdict()

    def take(self, which: Any) -> "NightRows":
        """Return some of the rows: a slice, a mask or indices."""
        return NightRows(**{name: column[which] for name, column in self.columns.items()})


class _Night(NamedTuple):
    """The fingerprint of a night, and the number of its scored records."""

    state: str
    n_scored: int


class _Wanted(NamedTuple):
    """The nights that are read, and the state of the store that they depend on."""

    parameters: dict[str, Any]
    nights: Mapping[int, _Night]
    edits: list[Any]


class _Kept(NamedTuple):
    """The files of a rater: the fingerprint of each night in them, and the rows."""

    states: Mapping[int, str]
    rows: NightRows


def read_scored(
    connection: Connection,
    folder: Path,
    *,
    rater_id: int,
    night_ids: Sequence[int],
    last_retirement_id: int,
    should_verify: bool,
) -> NightRows:
    """Return the scored samples of decided nights, each once: under its first night. New nights are read from the store.

    Args:
        connection: Open on the store.
        folder: Where the files of this home are.
        rater_id: The rater that scored.
        night_ids: Decided nights.
        last_retirement_id: Shards retired up to this number do not count.
        should_verify: Whether to compare every byte of the files with its hash.
    """
    which = {"rater_id": rater_id, "last_retirement_id": last_retirement_id}
    states = _read_states(connection, which, night_ids)
    edits = read_edits(connection, rater_id)
    place = folder / f"nights-{rater_id}"
    kept = _load(place, edits, should_verify=should_verify)
    if kept is not None and not should_verify and _missing(kept, states):
        # What is merged gets new hashes, so it must be what was written.
        kept = _load(place, edits, should_verify=True)
    if missing := _missing(kept, states):
        # A snapshot of their own, taken after `edits` was read: a later change of scores changes the counters too.
        with _open_aside(folder) as aside, _frozen(connection) as reading:
            now = _read_states(reading, which, missing)
            kept = _grow(reading, Path(aside), kept, _Wanted(which, now, edits))
            _replace(place, Path(aside))
    if kept is None:
        return _empty()
    return _first_nights(kept, set(states))


def _open_aside(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for new files: beside those of the home, or where temporary files lie if the home cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".", dir=folder)
    except OSError:
        return tempfile.TemporaryDirectory(prefix="alchemist-")


def _missing(kept: _Kept | None, states: Mapping[int, _Night]) -> list[int]:
    """Return the nights that the files do not hold as they are now."""
    known = {} if kept is None else kept.states
    return sorted(night_id for night_id, night in states.items() if known.get(night_id) != night.state)


def _frozen(connection: Connection) -> Connection:
    """Open another connection, whose statements all see one snapshot of the store."""
    return connection.engine.connect().execution_options(isolation_level="REPEATABLE READ")


def _read_states(connection: Connection, which: Mapping[str, int], night_ids: Sequence[int]) -> dict[int, _Night]:
    rows = connection.execute(load_query("night_states"), {**which, "night_ids": list(night_ids)})
    return {int(row.night_id): _Night(str(row.state), int(row.n_scored)) for row in rows}


def kept_folder() -> Path:
    """Return the folder of all sets of samples that this home keeps."""
    return load_settings().home.resolve() / "snapshots"


CHECKED_MEMBERS = 1_000
CHECK = text("""
    SELECT count(*) FROM unnest(CAST(:sample_ids AS bigint[]), CAST(:pair_hashes AS bytea[])) AS given (sample_id, pair_hash)
    INNER JOIN alchemist.samples ON given.sample_id = samples.sample_id AND given.pair_hash = samples.pair_hash
""")


def find_ids(connection: Connection, subset_id: int, pair_hash_K32: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return the ids of a subset version's members from the files of their nights; None if these are not all here.

    The store itself is asked for a thousand of them: of another database, none would have the same id.
    """
    statement = text("""
        SELECT rank_scales.rater_id, rank_snapshots.night_ids, rank_snapshots.options FROM alchemist.subsets
        INNER JOIN alchemist.rank_snapshots USING (snapshot_id) INNER JOIN alchemist.rank_scales USING (rank_scale_id)
        WHERE subsets.subset_id = :subset_id
    """)
    row = connection.execute(statement, {"subset_id": subset_id}).one_or_none()
    if row is None or not len(pair_hash_K32):
        return None
    which = {"rater_id": row.rater_id, "last_retirement_id": int(row.options.get("last_retirement_id", 0))}
    place = kept_folder() / f"nights-{row.rater_id}"
    kept = _load(place, read_edits(connection, row.rater_id), should_verify=True)
    states = _read_states(connection, which, row.night_ids)
    if kept is None or any(kept.states.get(night_id) != night.state for night_id, night in states.items()):
        return None
    place_K = find_hashes(kept.rows.pair_hash_N32, pair_hash_K32)
    if (place_K < 0).any():
        return None
    sample_id_K = kept.rows.sample_id_N[place_K]
    some = np.unique(np.linspace(0, len(place_K) - 1, CHECKED_MEMBERS).astype(np.int64))
    checked = {"sample_ids": sample_id_K[some].tolist(), "pair_hashes": [pair_hash_K32[at].tobytes() for at in some]}
    is_same = connection.execute(CHECK, checked).scalar_one() == len(some)
    return sample_id_K if is_same else None


def read_edits(connection: Connection, rater_id: int) -> list[Any]:
    """Return what changes when scores of a rater are updated or deleted, or when the server's counters start again.

    They are those of now, not of the transaction's snapshot.
    """
    statement = text("""
        SELECT
            coalesce(sum(n_tup_upd), 0)::bigint, coalesce(sum(n_tup_del), 0)::bigint,
            (SELECT stats_reset::text FROM pg_stat_database WHERE datname = current_database()),
            (SELECT stats_reset::text FROM pg_stat_bgwriter)
        FROM pg_stat_user_tables WHERE schemaname = 'alchemist' AND relname = 'scores_' || CAST(:rater_id AS text)
    """)
    return list(connection.execute(statement, {"rater_id": rater_id}).one())


# --- Files ---------------------------------------------------------------------------------------------------------------------


def _load(place: Path, edits: list[Any], *, should_verify: bool) -> _Kept | None:
    """Return what the files of a rater hold; None if they are missing, damaged, or of scores that were changed since."""
    try:
        note: dict[str, Any] = json.loads((place / NOTE).read_text(encoding="utf-8"))
        if note["edits"] != edits:
            return None
        columns = [_map(place / f"{name}.npy", note["columns"][name]) for name in _FORMATS]
        states = {int(night_id): str(state) for night_id, state in note["nights"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    rows = NightRows(*columns)
    if len({len(column) for column in rows}) != 1:
        return None
    if should_verify:
        with ThreadPoolExecutor(len(rows)) as threads:
            found = list(threads.map(lambda column: hashlib.sha256(column.data).hexdigest(), rows))
        if found != [note["columns"][name]["sha256"] for name in _FORMATS]:
            return None
    return _Kept(states, rows)


def _map(path: Path, seal: Mapping[str, Any]) -> NDArray[Any]:
    """Map a column. Raises ValueError if the file is not the one that was written."""
    if _stamp(path) != seal["stamp"]:
        message = f"{path} was changed"
        raise ValueError(message)
    # A plain array, because every slice of a memmap is a memmap.
    return np.asarray(np.load(path, mmap_mode="r"))


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _replace(place: Path, aside: Path) -> None:
    """Put the new files of a rater into their place, if all of them were written."""
    if not (aside / NOTE).exists():
        return
    for spooled in aside.glob("run-*.npy"):
        spooled.unlink()
    former = aside.with_name(f"{aside.name}.old")
    try:
        if place.exists():
            place.rename(former)
        aside.rename(place)
    except OSError:
        # Another selection has put its own files there meanwhile: they are as good.
        pass
    finally:
        shutil.rmtree(former, ignore_errors=True)
        aside.mkdir(exist_ok=True)


def _write(aside: Path, n_rows: int, pieces: Iterator[NightRows], note: dict[str, Any]) -> NightRows:
    """Write the columns piece by piece, then the note that makes them valid, and return them mapped.

    Raises:
        OSError: The disk is full.
    """
    digests = {name: hashlib.sha256() for name in _FORMATS}
    files = {name: (aside / f"{name}.npy").open("wb") for name in _FORMATS}
    try:
        for name, (kind, shape) in _FORMATS.items():
            head = {"descr": kind, "fortran_order": False, "shape": (n_rows, *shape)}
            np.lib.format.write_array_header_1_0(files[name], head)
        for piece in pieces:
            for name, column in zip(_FORMATS, piece, strict=True):
                data = np.ascontiguousarray(column).data
                files[name].write(data)
                digests[name].update(data)
    finally:
        for file in files.values():
            file.close()
    seals = {name: {"sha256": digests[name].hexdigest(), "stamp": _stamp(aside / f"{name}.npy")} for name in _FORMATS}
    rows = NightRows(*(_map(aside / f"{name}.npy", seals[name]) for name in _FORMATS))
    # No fsync: after a power cut a size or a hash does not fit, and the nights are read again.
    (aside / NOTE).write_text(json.dumps(note | {"columns": seals}), encoding="utf-8")
    return rows


# --- Reading new nights --------------------------------------------------------------------------------------------------------


def _grow(connection: Connection, aside: Path, kept: _Kept | None, wanted: _Wanted) -> _Kept:
    """Read nights from the store and merge them with the kept ones, into files if the disk has room."""
    runs = [run for run in _read_runs(connection, aside, wanted) if len(run.sample_id_N)]
    former = {} if kept is None else dict(kept.states)
    if kept is not None:
        runs.append(_without(kept.rows, former.keys() & wanted.nights.keys()))
    held = former | {night_id: night.state for night_id, night in wanted.nights.items()}
    n_rows = sum(len(run.sample_id_N) for run in runs)
    if not n_rows:
        return _Kept(held, _empty())
    note = {"edits": wanted.edits, "nights": held}
    try:
        rows = _write(aside, n_rows, _merge(runs, n_rows), note)
    except OSError:
        # Without files the next selection reads the nights again, but it works.
        (aside / NOTE).unlink(missing_ok=True)
        parts = list(_merge(runs, n_rows))
        rows = _join(parts) if parts else _empty()
    return _Kept(held, rows)


def _without(rows: NightRows, night_ids: set[int]) -> NightRows:
    return rows.take(~np.isin(rows.night_N, list(night_ids))) if night_ids else rows


def _read_runs(connection: Connection, aside: Path, wanted: _Wanted) -> Iterator[NightRows]:
    """Yield the rows of nights in runs that are sorted by pair_hash, mapped from files; several connections read."""
    which = wanted.parameters
    missing = {night_id: night.n_scored for night_id, night in wanted.nights.items()}
    parts, is_dense = _plan(connection, missing, which["rater_id"])
    if len(parts) == 1:
        _set_up(connection, is_dense=is_dense)
        yield _read(connection, which | parts[0])
        return
    # This session waits while others read its snapshot.
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    token = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()

    def read(number: int) -> NightRows | Path:
        with connection.engine.connect().execution_options(isolation_level="REPEATABLE READ") as other, other.begin():
            # All connections see what the first one sees.
            other.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{token}'")
            _set_up(other, is_dense=is_dense)
            # The connections keep all cores busy already.
            other.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
            return _spool(_read(other, which | parts[number]), aside / f"run-{number}")

    n_readers = max(min(len(os.sched_getaffinity(0)), MAX_READERS, len(parts)), 1)
    with ThreadPoolExecutor(n_readers) as threads:
        for run in threads.map(read, range(len(parts))):
            # Mapped here, because numpy parses headers with ast, which can fail in several threads in Python 3.11.
            yield run if isinstance(run, NightRows) else _map_run(run)


def _set_up(connection: Connection, *, is_dense: bool) -> None:
    # The joins of a range then fit into memory; JIT compilation takes longer than it saves.
    connection.execute(text("SET LOCAL work_mem = '256MB'"))
    connection.execute(text("SET LOCAL jit = off"))
    if is_dense:
        # Postgres expects few rows, because it doesn't know that (night, sample) is unique, and would look up each sample by an index.
        connection.execute(text("SET LOCAL enable_nestloop = off"))


def _plan(connection: Connection, missing: Mapping[int, int], rater_id: int) -> tuple[list[dict[str, Any]], bool]:
    """Divide the reading, and tell whether the nights are dense: by ranges if they hold most samples of a range, else by nights."""
    n_scored = sum(missing.values())
    # From 0, because a sample inserted by hand can have that id.
    first, last = (
        0,
        int(connection.execute(text("SELECT coalesce(max(sample_id), 0) FROM alchemist.samples")).scalar_one()),
    )
    if last > 4 * n_scored:
        bounds = text("""
            SELECT coalesce(min(sample_id), 0), coalesce(max(sample_id), 0) FROM alchemist.night_locations
            WHERE rater_id = :rater_id AND night_id = ANY(:night_ids)
        """)
        first, last = connection.execute(bounds, {"rater_id": rater_id, "night_ids": list(missing)}).one()
    if last - first <= 4 * n_scored:
        starts = range(first - 1, last, RANGE)
        return [
            {"night_ids": list(missing), "after_sample_id": start, "last_sample_id": start + RANGE} for start in starts
        ], True
    groups: list[list[int]] = [[]]
    for night_id in sorted(missing):
        if sum(missing[one] for one in groups[-1]) >= RANGE:
            groups.append([])
        groups[-1].append(night_id)
    return [{"night_ids": group, "after_sample_id": first - 1, "last_sample_id": last} for group in groups], False


def _read(connection: Connection, parameters: dict[str, Any]) -> NightRows:
    """Return the rows of one query, sorted by pair_hash."""
    found = copy_out(connection, load_query("scored_of_nights"), parameters, ROW_FIELDS)
    rows = NightRows(
        np.ascontiguousarray(found["pair_hash"]), found["sample_id"].astype(np.int64),
        found["score"].astype(np.float32), found["night_id"].astype(np.int32),
    )  # fmt: skip
    return _in_order(rows)


def _spool(rows: NightRows, stem: Path) -> NightRows | Path:
    """Move rows into files, so that memory does not hold all runs; if the disk is full, or there are none, they stay in memory."""
    if not len(rows.sample_id_N):
        return rows
    try:
        for name, column in rows.columns.items():
            np.save(f"{stem}-{name}.npy", column)
    except OSError:
        return rows
    return stem


def _map_run(stem: Path) -> NightRows:
    return NightRows(*(np.asarray(np.load(f"{stem}-{name}.npy", mmap_mode="r")) for name in _FORMATS))


def _merge(runs: Sequence[NightRows], n_rows: int) -> Iterator[NightRows]:
    """Yield the rows of sorted runs in the order of pair_hash, in pieces of about equal size: hashes are spread evenly."""
    n_pieces = max(-(-n_rows // PIECE_ROWS), 1)
    starts = [0] * len(runs)
    for number in range(1, n_pieces + 1):
        bound = _HASH_SPACE * number // n_pieces
        ends = [_cut(run.pair_hash_N32, bound) for run in runs]
        slices = zip(runs, starts, ends, strict=True)
        parts = [run.take(slice(start, end)) for run, start, end in slices if end > start]
        starts = ends
        if parts:
            yield _merge_parts(parts)


def _cut(pair_hash_N32: NDArray[np.uint8], bound: int) -> int:
    """Return the number of hashes whose first 64 bits are below a bound."""
    return bisect_left(
        range(len(pair_hash_N32)), bound, key=lambda row: int.from_bytes(pair_hash_N32[row, :8].tobytes(), "big")
    )


def _merge_parts(parts: list[NightRows]) -> NightRows:
    if len(parts) == 1:
        return parts[0]
    *few, most = sorted(parts, key=lambda part: len(part.sample_id_N))
    added = _join(few)
    if len(added.sample_id_N) > len(most.sample_id_N) // 4:
        return _in_order(_join([added, most]))
    if len(few) > 1:
        added = _in_order(added)
    # Few rows are inserted among many, which is faster than sorting all.
    place = np.searchsorted(hash_prefixes(most.pair_hash_N32), hash_prefixes(added.pair_hash_N32))
    new = added.columns
    rows = NightRows(**{name: np.insert(column, place, new[name], axis=0) for name, column in most.columns.items()})
    return _in_order(rows) if _has_ties(rows) else rows


def _join(parts: Sequence[NightRows]) -> NightRows:
    """Return the rows of one part after the other."""
    columns = [part.columns for part in parts]
    return NightRows(**{name: np.concatenate([column[name] for column in columns]) for name in _FORMATS})


def _in_order(rows: NightRows) -> NightRows:
    """Sort rows by pair_hash. The nights of one sample are in no particular order."""
    rows = rows.take(np.argsort(hash_prefixes(rows.pair_hash_N32)))
    return rows.take(hash_order(rows.pair_hash_N32)) if _has_ties(rows) else rows


def _has_ties(rows: NightRows) -> bool:
    """Return whether two samples share the first 64 bits of their hashes: 1 in 40,000 for a corpus of 30 million."""
    prefix_P = hash_prefixes(rows.pair_hash_N32)
    return bool(((prefix_P[1:] == prefix_P[:-1]) & (rows.sample_id_N[1:] != rows.sample_id_N[:-1])).any())


def _first_nights(kept: _Kept, wanted: set[int]) -> NightRows:
    """Return each sample of the wanted nights once, under the first of them."""
    rows = kept.rows
    if not kept.states.keys() <= wanted:
        rows = rows.take(np.isin(rows.night_N, list(wanted)))
    is_new_N = np.append(True, rows.sample_id_N[1:] != rows.sample_id_N[:-1])[: len(rows.sample_id_N)]
    if is_new_N.all():
        return rows
    start_N = np.flatnonzero(is_new_N)
    night_N = np.minimum.reduceat(rows.night_N, start_N)
    return rows.take(start_N)._replace(night_N=night_N)


def _empty() -> NightRows:
    return NightRows(*(np.empty((0, *shape), kind) for kind, shape in _FORMATS.values()))
