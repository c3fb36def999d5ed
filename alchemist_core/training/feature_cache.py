"""A cache of the outputs of frozen encoders, keyed by the sha256 of their input. A segment is written once, atomically. No torch.

Letters: N requested keys · K keys of a segment.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.files import atomic_write

_KEY_BYTES = 32
Arrays = dict[str, NDArray[Any]]
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, ValueError, SyntaxError)
"""Errors that numpy raises for a damaged segment: each file in it has a CRC."""


class FeatureCache:
    """One encoder's outputs: for each key (a sha256) one row of each array."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read_folder()

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], Arrays]:
        """Return which keys are stored, and their rows, in the order of the keys."""
        try:
            return self._find(keys)
        except FileNotFoundError:
            # A takedown has replaced a segment meanwhile, or a damaged one was deleted.
            self._read_folder()
            return self.find(keys)

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Store rows for later runs; a reader sees either the whole segment or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_segment(self._folder, _as_keys(keys), arrays)

    def _read_folder(self) -> None:
        found = {path: _read_keys(path) for path in sorted(self._folder.glob("*.npz"))}
        segments = {path: key_K for path, key_K in found.items() if key_K is not None}
        sizes = [len(key_K) for key_K in segments.values()]
        self._segments = list(segments)
        self._key_K = np.concatenate([np.empty(0, f"S{_KEY_BYTES}"), *segments.values()])
        self._segment_K = np.repeat(np.arange(len(sizes)), sizes)
        self._row_K = np.concatenate([np.empty(0, np.int64), *map(np.arange, sizes)])
        self._order_K = np.argsort(self._key_K, kind="stable")

    def _find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], Arrays]:
        if not len(self._key_K) or not keys:
            return np.zeros(len(keys), bool), {}
        wanted_N, sorted_K = _as_keys(keys), self._key_K[self._order_K]
        place_N = np.minimum(np.searchsorted(sorted_K, wanted_N), len(sorted_K) - 1)
        is_known_N = sorted_K[place_N] == wanted_N
        return is_known_N, self._gather(self._order_K[place_N[is_known_N]])

    def _gather(self, known_M: NDArray[np.int64]) -> Arrays:
        found: Arrays = {}
        for segment in np.unique(self._segment_K[known_M]):
            is_here_M = self._segment_K[known_M] == segment
            _, stored = _load_segment(self._segments[segment])
            for name, values in stored.items():
                rows = found.setdefault(name, np.empty((len(known_M), *values.shape[1:]), values.dtype))
                rows[is_here_M] = values[self._row_K[known_M[is_here_M]]]
        return found


def forget(root: Path, keys: Iterable[bytes]) -> int:
    """Delete the rows of some keys from every cache below a folder; return how many rows were deleted.

    A takedown calls it, so that what was computed from an image is deleted with the image.
    """
    forgotten, n_forgotten = _as_keys(sorted(set(keys))), 0
    for path in sorted(root.rglob("*.npz")):
        # Another takedown may have rewritten the segment. A damaged segment is deleted whole, because it may hold the keys.
        with suppress(FileNotFoundError):
            n_forgotten += _forget_in(path, forgotten)
    return n_forgotten


def _forget_in(path: Path, forgotten: NDArray[np.bytes_]) -> int:
    key_K, stored = _load_segment(path, keys_only=True)
    is_kept_K = ~np.isin(key_K, forgotten)
    if is_kept_K.all():
        return 0
    key_K, stored = _load_segment(path)
    arrays = {name: values[is_kept_K] for name, values in stored.items()}
    if is_kept_K.any():
        _write_segment(path.parent, key_K[is_kept_K], arrays)
    path.unlink(missing_ok=True)
    return int((~is_kept_K).sum())


def _write_segment(folder: Path, key_K: NDArray[np.bytes_], arrays: Arrays) -> None:
    """Write a segment under the name of its keys: a name never changes its rows, so readers may cache it."""
    path = folder / f"{hashlib.sha256(key_K.tobytes()).hexdigest()[:24]}.npz"
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, keys=key_K.view(np.uint8).reshape(-1, _KEY_BYTES), **arrays)


def _read_keys(path: Path) -> NDArray[np.bytes_] | None:
    """Return the keys of a segment; None if it is missing."""
    try:
        return _load_segment(path, keys_only=True)[0]
    except FileNotFoundError:
        return None


def _load_segment(path: Path, *, keys_only: bool = False) -> tuple[NDArray[np.bytes_], Arrays]:
    """Return the keys of a segment and its arrays; a damaged segment is deleted, because encoders can compute its rows again.

    Raises:
        FileNotFoundError: The segment is missing, or was damaged.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            key_K: NDArray[np.bytes_] = stored["keys"].view(f"S{_KEY_BYTES}").ravel()
            names = () if keys_only else (name for name in stored.files if name != "keys")
            arrays = {name: stored[name] for name in names}
    except DAMAGES as damage:
        path.unlink(missing_ok=True)
        raise FileNotFoundError(f"{path} was damaged and is deleted") from damage
    return key_K, arrays


def _as_keys(keys: Sequence[bytes]) -> NDArray[np.bytes_]:
    # Compare as strings of 32 bytes: numpy strips trailing zeros on both sides.
    return np.frombuffer(b"".join(keys), f"S{_KEY_BYTES}")
