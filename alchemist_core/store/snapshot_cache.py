"""Pools that were read before, kept as arrays under the home: the second selection on a snapshot reads no row.

A folder a pool, named by its eligible hash; a small file a moment, which names the pool of then. Safe to delete. Knows files, no
database: whoever reads a moment says by a key all that it depends on.
"""

import json
import os
import shutil
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


def scale_fingerprint(scale: RankScale) -> str:
    """Return the hash of a scale's knots: what a subset's spec says of it."""
    return fingerprint([scale.knot_scores.tolist(), scale.knot_ranks.tolist()])


def find_pool(key: str, *, with_sources: bool = False) -> tuple[str, EligiblePairs] | None:
    """Return the eligible hash and the pool of a moment, its arrays mapped from their files; none if it is not kept."""
    note = _folder() / "moments" / f"{key}.json"
    if not note.is_file():
        return None
    kept: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    folder = _folder() / kept["eligible_hash"]
    names = [field.name for field in fields(EligiblePairs) if (folder / f"{field.name}.npy").is_file()]
    required = {field.name for field in fields(EligiblePairs)} - {*COUNTS, *(() if with_sources else ("source_N",))}
    if not required <= set(names):
        return None
    os.utime(folder)
    columns = {name: _load(folder / f"{name}.npy") for name in names}
    return kept["eligible_hash"], EligiblePairs(**columns, **{name: kept[name] for name in COUNTS})


def keep_pool(key: str, eligible_hash: str, pairs: EligiblePairs) -> None:
    """Keep a pool under its hash and note the moment; the pools that were not used for longest go."""
    folder = _folder() / eligible_hash
    for name, column in pairs.columns().items():
        if column is not None:
            _save(folder / f"{name}.npy", column)
    note = _folder() / "moments" / f"{key}.json"
    counts = {name: getattr(pairs, name) for name in COUNTS}
    _write(note, json.dumps({"eligible_hash": eligible_hash, **counts}).encode())
    pools = sorted(
        (path for path in _folder().iterdir() if path.name != "moments"), key=lambda path: -path.stat().st_mtime
    )
    for old in pools[MAX_POOLS:]:
        shutil.rmtree(old, ignore_errors=True)


def rank_pool(eligible_hash: str, pairs: EligiblePairs, scale: RankScale) -> NDArray[np.float64]:
    """Return a pool's ranks on a scale, from the file beside it or into it."""
    path = _folder() / eligible_hash / f"rank-{scale_fingerprint(scale)}.npy"
    if not path.parent.is_dir():
        return scale.rank(pairs.score_N)
    if not path.is_file():
        _save(path, scale.rank(pairs.score_N))
    return _load(path)


def _folder() -> Path:
    return load_settings().home.resolve() / "snapshots"


def _load(path: Path) -> NDArray[Any]:
    # A plain array over the mapped file: a memmap would make one of every slice and every sum.
    return np.asarray(np.load(path, mmap_mode="r"))


def _save(path: Path, column: NDArray[Any]) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        np.save(file, column)
    aside.replace(path)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)
