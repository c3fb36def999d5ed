"""The bytes of a materialized tar, from its records in source tars: large reads, numpy for headers, and no Python object per record.

A record is copied with the headers and the padding between its files, in one run with its neighbours where these are neighbours in the
source too; then all headers are replaced and the padding is zeroed. Each record is compared with the checksum that ingest stored. Where
it stored none, or the checksum differs, the record's sha256 decides.

Letters: K records of the tar · F files of them · R runs.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from xxhash import xxh3_128, xxh3_128_digest

from alchemist_core.errors import DataError
from alchemist_core.shards.captions import BadTextError, read_annotation
from alchemist_core.shards.repairs import split_repairs
from alchemist_core.shards.samples import checksum_content, hash_content, hash_pair
from alchemist_core.shards.storage import read_into, remedy_of
from alchemist_core.shards.tar_writer import end_mark, is_plain, plain_headers
from alchemist_core.shards.tar_writer import header as make_header
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.subsets.member_table import MemberLocation, MemberTable

_BLOCK = tarfile.BLOCKSIZE
# Small enough that what was read is in the processor's cache when it is hashed and written, large enough that calls cost nothing.
_CHUNK_BYTES = 1 << 21
_N_DIGITS = 9
_CHECKSUM_BYTES = xxh3_128().digest_size


@dataclass(frozen=True)
class TarPlan:
    """The planned contents of a tar: its records, the dataset-wide number of the first, the extension of all images."""

    name: str
    first: int
    members: MemberTable
    image_ext: str

    def sha256(self) -> str:
        """Return a hash of all that determines the tar's bytes; the sources of the records do not."""
        digest = hashlib.sha256(f"{self.first} {self.image_ext}".encode())
        digest.update(_described(self.members))
        return digest.hexdigest()


def _described(members: MemberTable) -> bytes:
    """Return each record's hash, and its extensions and sizes as Python writes them."""
    table = members.table.select(["pair_hash", "exts", "sizes"]).combine_chunks()
    if not len(table):
        return b""
    exts = pc.binary_join(table.column("exts"), "/").combine_chunks().dictionary_encode()
    words = pa.array([repr(tuple(word.split("/"))) for word in exts.dictionary.to_pylist()])
    sizes = pc.binary_join(table.column("sizes").cast(pa.list_(pa.string())), ", ").combine_chunks()
    ends = pc.if_else(pc.equal(pc.list_value_length(table.column("sizes")), 1), ",))", "))").combine_chunks()
    parts = [b"(", words.take(exts.indices), b", (", sizes, ends, b""]
    texts = [part if isinstance(part, bytes) else part.cast(pa.binary()) for part in parts]
    joined = pc.binary_join_element_wise(table.column("pair_hash").combine_chunks().cast(pa.binary()), *texts)
    _, offsets, data = joined.buffers()
    starts = np.frombuffer(offsets, np.int32, len(joined) + 1, 4 * joined.offset)
    return bytes(memoryview(data)[starts[0] : starts[-1]])


class TarCopy:
    """The bytes of one tar, chunk by chunk; afterwards, the checksums of the records whose store has none.

    Args:
        plan: The contents.
    """

    def __init__(self, plan: TarPlan) -> None:
        self._members, self._layout = plan.members, _Layout(plan)
        checksum_K = plan.members.table.column("content_checksum").combine_chunks()
        self._is_known_K = checksum_K.is_valid().to_numpy(zero_copy_only=False)
        self._checksum_K16 = np.frombuffer(checksum_K.buffers()[1] or b"", np.uint8).reshape(-1, _CHECKSUM_BYTES)
        self._checksum_K16 = self._checksum_K16[checksum_K.offset :][: len(checksum_K)].copy()

    def blocks(self) -> Iterator[memoryview | bytes]:
        """Yield the bytes. A part is overwritten when the next one is asked for.

        Raises:
            DataError: A source is missing, or a record does not hold the registered sample.
        """
        layout = self._layout
        arena = np.empty(0, np.uint8)
        for start, stop in layout.chunks():
            size_bytes = int(layout.end_K[stop - 1] - layout.begin_K[start])
            if len(arena) < size_bytes:
                arena = np.empty(size_bytes, np.uint8)
            chunk = arena[:size_bytes]
            layout.read(start, stop, chunk)
            self._verify(start, stop, chunk.data)
            layout.write_headers(start, stop, chunk)
            yield chunk.data
        yield end_mark(layout.size_bytes)

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the records whose checksum was not stored, and their checksums, after all bytes were copied."""
        index_K = np.flatnonzero(~self._is_known_K)
        return index_K, self._checksum_K16[index_K]

    def _verify(self, start: int, stop: int, chunk: memoryview) -> None:
        """Compare records with the registered checksums; the sha256 decides about those without one, and about those that differ."""
        layout = self._layout
        at_F, size_F, first_K = layout.files(start, stop)
        digests = [xxh3_128_digest(chunk[at : at + size]) for at, size in zip(at_F, size_F, strict=True)]
        contents = [checksum_content(digests[begin:end]) for begin, end in pairwise(first_K)]
        found_K16 = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, _CHECKSUM_BYTES)
        is_same_K = self._is_known_K[start:stop] & (found_K16 == self._checksum_K16[start:stop]).all(axis=1)
        for place in np.flatnonzero(~is_same_K).tolist():
            (record,) = self._members.rows(np.array([start + place]))
            files = range(first_K[place], first_K[place + 1])
            check_sha256(record, [chunk[at_F[file] : at_F[file] + size_F[file]] for file in files])
        is_new_K = ~self._is_known_K[start:stop]
        self._checksum_K16[start:stop][is_new_K] = found_K16[is_new_K]


class _Layout:
    """Where the files of a tar lie, in the tar and in their sources."""

    def __init__(self, plan: TarPlan) -> None:
        table = plan.members.table.select(["exts", "offsets", "sizes", "source"]).combine_chunks()
        self._uris = plan.members.uris
        n_files_K = pc.list_value_length(table.column("exts")).to_numpy().astype(np.int64)
        self._first_K = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_files_K)])
        self._source_F = np.repeat(table.column("source").to_numpy(), n_files_K)
        self._offset_F, self._size_F = (_flat(table.column(name)).to_numpy() for name in ("offsets", "sizes"))
        number_F = np.repeat(plan.first + np.arange(len(table)), n_files_K)
        self._names = _Names(number_F, _flat(table.column("exts")), plan.image_ext)
        self._special = self._names.special_headers(self._size_F)
        head_F = np.full(len(self._size_F), _BLOCK)
        for file, data in self._special.items():
            head_F[file] = len(data)
        end_F = np.cumsum(head_F + self._size_F + -self._size_F % _BLOCK)
        self._head_F = np.concatenate([np.zeros(1, np.int64), end_F[:-1]]) if len(end_F) else end_F
        self._data_F = self._head_F + head_F
        self.begin_K, self.end_K = (
            np.concatenate([np.zeros(1, np.int64), end_F])[at] for at in (self._first_K[:-1], self._first_K[1:])
        )
        self.size_bytes = int(end_F[-1]) if len(end_F) else 0

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield the records, start and stop, that are copied together."""
        number_K = self.begin_K // _CHUNK_BYTES
        edges = np.flatnonzero(np.diff(number_K, prepend=-1, append=-2)).tolist() if len(number_K) else []
        yield from pairwise(edges)

    def files(self, start: int, stop: int) -> tuple[list[int], list[int], list[int]]:
        """Return where the files of some records lie in their chunk, their sizes, and the first file of each record, and the end."""
        part = slice(self._first_K[start], self._first_K[stop])
        at_F = self._data_F[part] - self.begin_K[start]
        first_K = self._first_K[start : stop + 1] - self._first_K[start]
        return at_F.tolist(), self._size_F[part].tolist(), first_K.tolist()

    def read(self, start: int, stop: int, chunk: NDArray[np.uint8]) -> None:
        """Read some records into their chunk, with what lies between their files in the source.

        Raises:
            DataError: A source is missing or too short.
        """
        part = slice(self._first_K[start], self._first_K[stop])
        source_F, offset_F, size_F = self._source_F[part], self._offset_F[part], self._size_F[part]
        data_F = self._data_F[part] - self.begin_K[start]
        # Files of one run have the same distance in the source as in the tar, so that one read fills all of it.
        shift_F = offset_F - data_F
        is_first_F = np.ones(len(size_F), bool)
        is_first_F[1:] = (np.diff(source_F) != 0) | (np.diff(shift_F) != 0)
        (first_R,) = np.nonzero(is_first_F)
        last_R = np.append(first_R[1:], len(size_F)) - 1
        length_R = data_F[last_R] + size_F[last_R] - data_F[first_R]
        view = chunk.data
        runs: dict[int, list[tuple[int, memoryview]]] = {}
        columns = (source_F[first_R], offset_F[first_R], data_F[first_R], length_R)
        for source, offset, at, length in zip(*(column.tolist() for column in columns), strict=True):
            if length:
                runs.setdefault(source, []).append((offset, view[at : at + length]))
        for source in sorted(runs):
            read_into(self._uris[source], runs[source])

    def write_headers(self, start: int, stop: int, chunk: NDArray[np.uint8]) -> None:
        """Write the header of each file, and zeros after its bytes."""
        first, last = int(self._first_K[start]), int(self._first_K[stop])
        base = self.begin_K[start]
        size_F, data_F = self._size_F[first:last], self._data_F[first:last] - base
        chunk_B = chunk.reshape(-1, _BLOCK)
        (rest,) = np.nonzero(size_F % _BLOCK)
        block = (data_F[rest] + size_F[rest]) // _BLOCK
        chunk_B[block] *= np.arange(_BLOCK) < (size_F[rest] % _BLOCK)[:, None]
        head_F = (self._head_F[first:last] - base) // _BLOCK
        chunk_B[head_F] = self._names.headers(slice(first, last), size_F)
        for file, data in self._special.items():
            if first <= file < last:
                at = int(self._head_F[file] - base)
                chunk[at : at + len(data)] = np.frombuffer(data, np.uint8)


class _Names:
    """Names of the files of a tar: a number of nine digits or more, and an extension."""

    def __init__(self, number_F: NDArray[np.int64], ext_F: pa.Array, image_ext: str) -> None:
        coded = ext_F.dictionary_encode()
        self._number_F, self._code_F = number_F, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        self._exts = [image_ext if ext in IMAGE_EXTS else ext for ext in coded.dictionary.to_pylist()]

    @cached_property
    def _n_digits(self) -> int:
        return max(_N_DIGITS, len(str(int(self._number_F.max(initial=0)))))

    def special_headers(self, size_F: NDArray[np.int64]) -> dict[int, bytes]:
        """Return the headers that are not plain, by file: of long names, of names that are not ASCII, and of very large files."""
        is_odd = np.array([not is_plain(f"{'9' * self._n_digits}.{ext}", 0) for ext in self._exts], bool)
        is_odd_F = (is_odd[self._code_F] if len(is_odd) else np.zeros(len(size_F), bool)) | (size_F >= 1 << 33)
        # Numbers of ten digits are rare: all names are made one by one then.
        is_odd_F |= self._number_F >= 10**_N_DIGITS
        return {
            file: make_header(f"{self._number_F[file]:09d}.{self._exts[self._code_F[file]]}", int(size_F[file]))
            for file in np.flatnonzero(is_odd_F).tolist()
        }

    def headers(self, part: slice, size_F: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the plain headers of some files; those of `special_headers` replace theirs."""
        power = 10 ** np.arange(_N_DIGITS - 1, -1, -1)
        digit_F9 = (self._number_F[part, None] // power % 10 + ord("0")).astype(np.uint8)
        code_F = self._code_F[part]
        name_FN = np.concatenate([digit_F9, self._endings[code_F]], axis=1)
        return plain_headers(name_FN, size_F & ((1 << 33) - 1))

    @cached_property
    def _endings(self) -> NDArray[np.uint8]:
        """Return a dot and the extension of each code, filled up with zeros, cut to what a plain name can hold."""
        longest = 100 - _N_DIGITS
        texts = [f".{ext}".encode("utf-8", "surrogateescape")[:longest] for ext in self._exts]
        width = max(map(len, texts), default=1)
        return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8).reshape(-1, width)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    found = pc.list_flatten(column)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def check_record(record: MemberLocation, files: Sequence[bytes | memoryview]) -> None:
    """Compare a record's bytes with the registered checksum, and if it is missing or differs, with the registered hash.

    Raises:
        DataError: They differ.
    """
    if record.content_checksum is None or checksum_content(map(xxh3_128_digest, files)) != record.content_checksum:
        check_sha256(record, files)


def check_sha256(record: MemberLocation, files: Sequence[bytes | memoryview]) -> None:
    """Compare a record's bytes with the registered hash of its files, or with the sample's hash if ingest stored no other.

    Raises:
        DataError: They differ.
    """
    hashes = [hashlib.sha256(data).digest() for data in files]
    if record.content_hash is not None:
        if hash_content(hashes) != record.content_hash:
            raise DataError(_describe_change(record, "a file has another sha256"))
        return
    by_ext = dict(zip(record.exts, files, strict=True))
    text, document = (bytes(by_ext[ext]) if ext in by_ext else None for ext in ("txt", "json"))
    try:
        caption = read_annotation(text, document, split_repairs(record.repair)).caption
    except BadTextError as error:
        raise DataError(_describe_change(record, str(error))) from error
    image_hash = next((found for ext, found in zip(record.exts, hashes, strict=True) if ext in IMAGE_EXTS), b"")
    if hash_pair(image_hash, hashlib.sha256(caption.encode()).digest()) != record.pair_hash:
        raise DataError(_describe_change(record, "its image or caption has another sha256"))


def _describe_change(record: MemberLocation, detail: str) -> str:
    return (
        f"{record.uri}: record {record.key!r} does not hold the registered sample {record.pair_hash.hex()[:16]} ({detail}). "
        f"{remedy_of(record.uri)}, and select again."
    )
