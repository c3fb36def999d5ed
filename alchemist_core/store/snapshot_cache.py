"""Pools that were read before, kept as arrays under the home: the second selection on a snapshot reads no row.

A folder a moment, written aside and renamed; each array has a seal beside it. What was changed, cut short or only half written is not
found, and is read from the store again. Safe to delete. Knows files, no database: whoever reads a moment says by a key all that it
depends on.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.config import fingerprint
from alchemist_core.selection.ranks import RankScale
from alchemist_core.settings import load_settings
from alchemist_core.store.eligible import EligiblePairs

# A pool of 30 million is 1.9 GB; the newest are kept.
MAX_POOLS = 4
COUNTS = ("n_taken_down", "n_unscored")
ARRAYS = tuple(field.name for field in fields(EligiblePairs) if field.name not in COUNTS)


def scale_fingerprint(scale: RankScale) -> str:
    """Return the hash of a scale's knots: what a subset's spec says of it."""
    return fingerprint([scale.knot_scores.tolist(), scale.knot_ranks.tolist()])


def find_pool(key: str, *, should_verify: bool) -> tuple[str, EligiblePairs] | None:
    """Return the eligible hash and the pool of a moment, its arrays mapped from their files; none if it is not kept as it was.

    Args:
        key: Of the moment.
        should_verify: Compare every byte with its hash (1 s for each 2 GB), not only sizes and times of the files.
    """
    folder = _folder() / key
    try:
        note: dict[str, Any] = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
        names = [name for name in ARRAYS if name in note["arrays"]]
        counts: dict[str, Any] = {name: int(note[name]) for name in COUNTS}
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Mapped one after the other: numpy reads a header by ast, which in Python 3.11 may fail in several threads at once.
    found = [_map(folder / f"{name}.npy") for name in names]
    sealed = [column for column in found if column is not None]
    if len(sealed) < len(names):
        return None
    with ThreadPoolExecutor(max(len(names), 1)) as threads:
        if should_verify and not all(threads.map(lambda column: column[1] == _sha256(column[0]), sealed)):
            return None
    columns: dict[str, Any] = {name: column for name, (column, _) in zip(names, sealed, strict=True)}
    return str(note["eligible_hash"]), EligiblePairs(**columns, **counts)


def keep_pool(key: str, eligible_hash: str, pairs: EligiblePairs) -> None:
    """Keep the pool of a moment in place of what is there, if the disk allows; those that were not used for longest go."""
    _folder().mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=_folder()))
    arrays = {name: column for name, column in pairs.columns().items() if column is not None}
    note = {"eligible_hash": eligible_hash, "arrays": sorted(arrays)} | {name: getattr(pairs, name) for name in COUNTS}
    # Without a kept pool a selection takes longer; it need not fail.
    with contextlib.suppress(OSError):
        for name, column in arrays.items():
            _save(aside / f"{name}.npy", column)
        (aside / "pool.json").write_text(json.dumps(note), encoding="utf-8")
        shutil.rmtree(_folder() / key, ignore_errors=True)
        # Refused where another selection has just put the same pool there.
        aside.rename(_folder() / key)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        for old in sorted(_folder().iterdir(), key=lambda path: -path.stat().st_mtime)[MAX_POOLS:]:
            shutil.rmtree(old, ignore_errors=True)


def rank_pool(key: str, pairs: EligiblePairs, scale: RankScale, *, should_verify: bool) -> NDArray[np.float64]:
    """Return a pool's ranks on a scale, from the file beside it or into it."""
    path = _folder() / key / f"rank-{scale_fingerprint(scale)}.npy"
    kept = _map(path)
    if kept is not None and len(kept[0]) == len(pairs) and not (should_verify and kept[1] != _sha256(kept[0])):
        return kept[0]
    rank_N = scale.rank(pairs.score_N)
    with contextlib.suppress(OSError):
        _save(path, rank_N)
    return rank_N


def forget_pools() -> None:
    """Delete all: another database of this home may give the same numbers and moments to other pools."""
    shutil.rmtree(_folder(), ignore_errors=True)


def _folder() -> Path:
    return load_settings().home.resolve() / "snapshots"


def _map(path: Path) -> tuple[NDArray[Any], str] | None:
    """Map an array from its file, with the hash that it was sealed with; none where that is not the file that was sealed."""
    try:
        seal = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if seal["stamp"] != _stamp(path):
            return None
        # A plain array over the mapped file: a memmap would make one of every slice and every sum.
        return np.asarray(np.load(path, mmap_mode="r")), str(seal["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(path: Path, column: NDArray[Any]) -> None:
    seal = path.with_suffix(".json")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, column)
    except OSError:
        # A full disk, which may show only as the file is closed, would keep what was written of it.
        aside.unlink()
        raise
    # Without its seal a file counts for nothing, so it goes first and comes last.
    seal.unlink(missing_ok=True)
    aside.replace(path)
    seal.write_text(json.dumps({"sha256": _sha256(column), "stamp": _stamp(path)}), encoding="utf-8")


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(column: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(column).data).hexdigest()
