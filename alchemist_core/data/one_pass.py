"""A shard read from its beginning to its end once, hashed on the way, and still seekable. Knows no tar.

Whoever walks a tar looks ahead by a header and goes back for the members before it: what was read last is kept. Only a walk
that goes farther back, as behind damage, reads something twice.
"""

import hashlib
import io
from collections import OrderedDict
from typing import BinaryIO

_BLOCK_BYTES = 1 << 22
_N_KEPT = 4


class OnePassReader(io.RawIOBase):
    """Reads a file in blocks, in order, each hashed when it is first read."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes
        self._digest = hashlib.sha256()
        self._n_hashed = 0
        self._position = 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.n_read_bytes = 0
        """Bytes asked of the file so far: the size of the shard, where nothing was read twice."""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to so many bytes; all that is left without a size."""
        end = self._size_bytes if size is None or size < 0 else min(self._position + size, self._size_bytes)
        parts = []
        while self._position < end:
            number, start = divmod(self._position, _BLOCK_BYTES)
            part = self._block(number)[start : start + end - self._position]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def sha256(self) -> bytes:
        """Read what nobody has asked for and return the hash of everything."""
        n_blocks = -(-self._size_bytes // _BLOCK_BYTES)
        if self._n_hashed < n_blocks:
            self._block(n_blocks - 1)
        return self._digest.digest()

    def _block(self, number: int) -> bytes:
        if number in self._kept:
            return self._kept[number]
        while self._n_hashed < number:
            self._load(self._n_hashed)
        return self._load(number)

    def _load(self, number: int) -> bytes:
        self._file.seek(number * _BLOCK_BYTES)
        data = self._file.read(_BLOCK_BYTES)
        self.n_read_bytes += len(data)
        if number == self._n_hashed:
            self._digest.update(data)
            self._n_hashed += 1
        self._kept[number] = data
        while len(self._kept) > _N_KEPT:
            self._kept.popitem(last=False)
        return data
