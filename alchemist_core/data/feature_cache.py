"""A cache of what frozen encoders gave, addressed by the content that they read: segments that are written once, whole.

It knows neither encoders nor torch: arrays in, arrays out.

Letters: N things asked for · K things known.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEY_BYTES = 32
Arrays = dict[str, NDArray[Any]]


class FeatureCache:
    """One encoder's outputs: for each key (a sha256) one row of each array."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segments = sorted(folder.glob("*.npz")) if folder.is_dir() else []
        keys = [_read_keys(path) for path in self._segments]
        self._key_K = np.concatenate(keys) if keys else np.empty(0, f"S{_KEY_BYTES}")
        self._segment_K = np.repeat(np.arange(len(keys)), [len(segment) for segment in keys])
        self._row_K = np.concatenate([np.arange(len(segment)) for segment in keys]) if keys else np.empty(0, np.int64)
        self._order_K = np.argsort(self._key_K, kind="stable")

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], Arrays]:
        """Return which keys are known, and the rows of those, in the order of the keys."""
        if not len(self._key_K) or not keys:
            return np.zeros(len(keys), bool), {}
        wanted_N, sorted_K = _as_keys(keys), self._key_K[self._order_K]
        place_N = np.minimum(np.searchsorted(sorted_K, wanted_N), len(sorted_K) - 1)
        is_known_N = sorted_K[place_N] == wanted_N
        return is_known_N, self._gather(self._order_K[place_N[is_known_N]])

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Keep rows for a later cache on this folder; a reader sees a segment whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write(self._folder / f"{_name(keys)}.npz", _as_keys(keys), arrays)

    def _gather(self, known_M: NDArray[np.int64]) -> Arrays:
        found: Arrays = {}
        for segment in np.unique(self._segment_K[known_M]):
            is_here_M = self._segment_K[known_M] == segment
            with np.load(self._segments[segment]) as stored:
                for name in (name for name in stored.files if name != "keys"):
                    values = stored[name]
                    rows = found.setdefault(name, np.empty((len(known_M), *values.shape[1:]), values.dtype))
                    rows[is_here_M] = values[self._row_K[known_M[is_here_M]]]
        return found


def forget(root: Path, keys: Iterable[bytes]) -> int:
    """Delete every row of some keys from every cache below a folder; return how many rows went.

    A takedown calls it: what was made from an image goes with the image.
    """
    gone, n_gone = _as_keys(sorted(set(keys))), 0
    for path in sorted(root.rglob("*.npz")):
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        key_K = arrays.pop("keys").view(f"S{_KEY_BYTES}").ravel()
        is_gone_K = np.isin(key_K, gone)
        if not is_gone_K.any():
            continue
        n_gone += int(is_gone_K.sum())
        if is_gone_K.all():
            path.unlink()
        else:
            _write(path, key_K[~is_gone_K], {name: rows[~is_gone_K] for name, rows in arrays.items()})
    return n_gone


def _write(path: Path, key_K: NDArray[np.bytes_], arrays: Arrays) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        np.savez(file, allow_pickle=False, keys=key_K.view(np.uint8).reshape(-1, _KEY_BYTES), **arrays)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _read_keys(path: Path) -> NDArray[np.bytes_]:
    with np.load(path) as stored:
        key_K: NDArray[np.bytes_] = stored["keys"].view(f"S{_KEY_BYTES}").ravel()
    return key_K


def _as_keys(keys: Sequence[bytes]) -> NDArray[np.bytes_]:
    # Compared as strings of 32 bytes: numpy drops zeros at the end of both sides alike.
    return np.frombuffer(b"".join(keys), f"S{_KEY_BYTES}")


def _name(keys: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(keys)).hexdigest()[:24]
