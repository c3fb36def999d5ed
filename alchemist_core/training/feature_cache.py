"""A cache of the outputs of frozen encoders, keyed by the sha256 of their input. Its rows stay on the disk until they are read. No torch.

A segment is an npz file without compression, written once, atomically: its arrays are mapped into memory as they lie in the file, and
each has a CRC.

Letters: N requested keys · M of them that are stored · K keys of a segment · S segments · B rows of a batch.
"""

import errno
import hashlib
import mmap
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from alchemist_core.files import atomic_write
from alchemist_core.store.manifests import HASH_BYTES, hash_order, hash_prefixes, hash_rows

_KEYS = "keys"
Arrays = Mapping[str, NDArray[Any]]
DAMAGES = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, KeyError, OverflowError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""Errors that numpy and zipfile raise for a damaged segment."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Arrays with a row per key: those of a file, mapped into memory, or any in memory."""

    arrays: Arrays
    path: Path | None = None
    mapped: mmap.mmap | None = None

    def let_go(self) -> None:
        """Stop counting the pages that were read as memory of this process. The kernel keeps them as long as it has room."""
        if self.mapped is not None:
            self.mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True, eq=False)
class FoundRows:
    """The rows of some keys, read from the disk when they are asked for. A takedown does not change them: open files keep their bytes."""

    is_known_N: NDArray[np.bool_]
    """Whether each key is stored."""
    row_M: NDArray[np.int64]
    """The row of each stored key, counted over all segments."""
    segments: list[Segment]
    end_S: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_M)

    def read(self, name: str, place_B: NDArray[np.int64], *, first: int | None = None) -> NDArray[Any]:
        """Return rows of one array. Rows of unequal length, such as captions of different lengths, get zeros at their ends.

        Args:
            name: Name of the array.
            place_B: Indices into the stored keys, in the order in which they were asked for.
            first: Number of entries of each row to read; None: as many as the longest has.
        """
        row_B = self.row_M[place_B]
        segment_B = np.searchsorted(self.end_S, row_B, side="right")
        array_S = [segment.arrays[name] for segment in self.segments]
        n_entries, *others = max(values.shape[1:] for values in array_S) or (None,)
        shape = () if n_entries is None else (n_entries if first is None else first, *others)
        found = np.zeros((len(row_B), *shape), array_S[0].dtype)
        for number in np.unique(segment_B):
            is_here_B, values = segment_B == number, array_S[number]
            row_H = row_B[is_here_B] - (self.end_S[number] - len(values))
            if shape:
                part = values[:, : shape[0]][row_H]
                found[is_here_B, : part.shape[1]] = part
            else:
                found[is_here_B] = values[row_H]
            self.segments[number].let_go()
        return found


class FeatureCache:
    """One encoder's outputs: for each key one row of each array. Keys are arrays of 32 bytes per row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key_N32: NDArray[np.uint8]) -> FoundRows:
        """Return the rows of the keys that are stored. Only `check` compares them with their CRCs."""
        try:
            return self._find(key_N32)
        except FileNotFoundError:
            # A takedown has replaced a segment meanwhile, or a damaged one was deleted.
            return self.find(key_N32)

    def add(self, key_K32: NDArray[np.uint8], arrays: Arrays) -> None:
        """Store rows for later runs; a reader sees either the whole segment or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_segment(self._folder, {_KEYS: key_K32, **arrays})

    def check(self, key_N32: NDArray[np.uint8], *, index: int = 0, count: int = 1) -> None:
        """Compare the segments of some keys with their CRCs, and delete the damaged ones: encoders can compute their rows again.

        A process compares each segment once, unless the file changes: an experiment trains many models on the same rows.

        Args:
            key_N32: Keys that will be read.
            index: Number of the share of the segments that this process reads.
            count: Number of shares.
        """
        for path in [segment.path for segment in self.find(key_N32).segments]:
            if path is not None and zlib.crc32(path.name.encode()) % count == index:
                with suppress(FileNotFoundError):
                    stored = path.stat()
                    _check_once(path, stored.st_mtime_ns, stored.st_size)

    def _find(self, key_N32: NDArray[np.uint8]) -> FoundRows:
        place_N = hash_order(key_N32)
        prefix_N = hash_prefixes(key_N32)[place_N]
        row_N, segments, ends = np.full(len(key_N32), -1), [], [0]
        for path in sorted(self._folder.glob("*.npz")) if len(key_N32) else ():
            key_K32 = _read_keys(path)
            low_K, high_K = (np.searchsorted(prefix_N, hash_prefixes(key_K32), side) for side in ("left", "right"))
            # A key may be asked for several times: each row of the segment belongs to the places from low to high.
            n_each_K = high_K - low_K
            row_M = np.repeat(np.arange(len(key_K32)), n_each_K)
            place_M = place_N[np.repeat(high_K - np.cumsum(n_each_K), n_each_K) + np.arange(len(row_M))]
            is_new_M = (key_N32[place_M] == key_K32[row_M]).all(1) & (row_N[place_M] < 0)
            if is_new_M.any():
                row_N[place_M[is_new_M]] = row_M[is_new_M] + ends[-1]
                segments.append(_map_segment(path))
                ends.append(ends[-1] + len(key_K32))
        return FoundRows(row_N >= 0, row_N[row_N >= 0], segments, np.array(ends[1:]))


def forget(root: Path, keys: Iterable[bytes]) -> int:
    """Delete the rows of some keys from every cache below a folder; return how many rows were deleted.

    A takedown calls it, so that what was computed from an image is deleted with the image.
    """
    forgotten, n_forgotten = hash_rows(sorted(set(keys))), 0
    for path in sorted(root.rglob("*.npz")):
        # Another takedown may have rewritten the segment. A damaged segment is deleted whole, because it may hold the keys.
        with suppress(FileNotFoundError):
            n_forgotten += _forget_in(path, forgotten)
    return n_forgotten


def _forget_in(path: Path, forgotten_M32: NDArray[np.uint8]) -> int:
    key_K32 = _read_keys(path)
    # As values of 32 bytes: strings would lose zeros at their ends.
    is_kept_K = ~np.isin(key_K32.view(f"V{HASH_BYTES}").ravel(), forgotten_M32.view(f"V{HASH_BYTES}").ravel())
    if is_kept_K.all():
        return 0
    _refuse_damage(path)
    if is_kept_K.any():
        arrays = {name: values[is_kept_K] for name, values in _map_segment(path).arrays.items()}
        _write_segment(path.parent, arrays)
    path.unlink(missing_ok=True)
    return int((~is_kept_K).sum())


def _write_segment(folder: Path, arrays: Arrays) -> None:
    """Write a segment under the name of its keys: a name never changes its rows, so readers may cache it."""
    path = folder / f"{hashlib.sha256(arrays[_KEYS].tobytes()).hexdigest()[:24]}.npz"
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _read_keys(path: Path) -> NDArray[np.uint8]:
    with _damage_deletes(path), path.open("rb") as file, np.load(file) as stored:
        key_K32: NDArray[np.uint8] = np.ascontiguousarray(stored[_KEYS]).view(np.uint8).reshape(-1, HASH_BYTES)
    return key_K32


def _map_segment(path: Path) -> Segment:
    with _damage_deletes(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Rows are read in random order: reading ahead would read most of the disk for nothing.
        mapped.madvise(mmap.MADV_RANDOM)
        arrays, end = {}, 0
        for info in archive.infolist():
            start = _data_start(file, info)
            arrays[info.filename.removesuffix(".npy")] = _map_array(mapped, file)
            # A gap is an array that a damaged directory has lost.
            if info.compress_type != zipfile.ZIP_STORED or info.header_offset != end:
                raise zipfile.BadZipFile(
                    f"{info.filename} is compressed, or begins at {info.header_offset}, not at {end}"
                )
            end = start + info.file_size
        if end != archive.start_dir:
            raise zipfile.BadZipFile(f"The last array ends at {end}, not at {archive.start_dir}")
    return Segment(arrays, path, mapped)


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Go to the data of an array, which follow its name and an extra field, and return their offset."""
    file.seek(info.header_offset + 26)
    n_name, n_extra = struct.unpack("<HH", file.read(4))
    return file.seek(n_name + n_extra, 1)


def _map_array(mapped: mmap.mmap, file: BinaryIO) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or is_fortran:
        raise zipfile.BadZipFile(f"an array of version {version}, or with its columns in a row")
    return np.frombuffer(mapped, dtype, int(np.prod(shape)), file.tell()).reshape(shape)


@lru_cache(maxsize=1 << 16)
def _check_once(path: Path, _mtime_ns: int, _n_bytes: int) -> None:
    # A failure is not remembered.
    _refuse_damage(path)


def _refuse_damage(path: Path) -> None:
    with _damage_deletes(path), zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{name} has another CRC")


@contextmanager
def _damage_deletes(path: Path) -> Iterator[None]:
    """Delete a segment that the block finds damaged, because encoders can compute its rows again.

    Raises:
        FileNotFoundError: The segment is missing, or was damaged.
    """
    try:
        yield
    except (*DAMAGES, OSError) as damage:
        # A damaged directory sends zipfile to offsets that no file has.
        if isinstance(damage, OSError) and damage.errno != errno.EINVAL:
            raise
        path.unlink(missing_ok=True)
        raise FileNotFoundError(f"{path} was damaged and is deleted") from damage
