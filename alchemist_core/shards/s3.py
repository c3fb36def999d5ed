"""Objects of an S3-compatible store as files that can be read by range. Imports boto3 on first use.

A read uses one version of an object: if the object is replaced meanwhile, the read fails instead of mixing the two.
"""

import io
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from alchemist_core.errors import DataError, MissingShardError, ReplacedObjectError, UnreachableRootError
from alchemist_core.settings import load_settings
from alchemist_core.shards.byte_ranges import ByteRange, cut_ranges, merge_ranges

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.exceptions import ClientError

# A request's latency costs about as much as this many bytes: ranges closer than this are fetched together.
_MAX_GAP_BYTES = 1 << 18
_PART_BYTES, _N_AHEAD = 1 << 23, 3
_BUFFER_BYTES = 1 << 16
# botocore retries requests; this module retries answers whose body breaks off or does not have its announced length. No attempt
# starts after _GIVE_UP_S, and each takes at most 6 requests of _SILENCE_S: an unresponsive store is reported within 13 minutes.
_N_ATTEMPTS, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GIVE_UP_S = 6, 0.1, 10.0, 300.0
_SILENCE_S = 60.0
_N_THREADS = 32
_KEYS_A_DELETE, _MAX_ETAGS = 1_000, 100_000
# ETags of objects that were read by range, by endpoint and address.
_ETAGS: dict[tuple[str | None, str], str] = {}
_KINDS: dict[str, type[DataError]] = {
    "NoSuchKey": MissingShardError, "404": MissingShardError, "NoSuchBucket": UnreachableRootError,
}  # fmt: skip
# HTTP statuses of a store that is overloaded, or fails for a while.
_BUSY = frozenset({429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")

T = TypeVar("T")


def list_objects(root_uri: str) -> Iterator[tuple[str, int, datetime]]:
    """Yield address, size and time of the last change of every object under a prefix.

    Raises:
        DataError: The bucket cannot be listed, or the prefix is empty.
    """
    found = find_objects(root_uri)
    if not found:
        raise UnreachableRootError(f"{root_uri} is empty. Correct the root, or upload the shards first.")
    yield from found


def find_objects(root_uri: str) -> list[tuple[str, int, datetime]]:
    """Return address, size and time of the last change of every object under a prefix, which may be empty.

    Raises:
        DataError: The bucket cannot be listed.
    """
    bucket, prefix = _split(root_uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = _ask(root_uri, lambda: [entry for page in pages for entry in page.get("Contents", [])])
    base = root_uri.rstrip("/")
    return [
        (f"{base}/{entry['Key'].removeprefix(prefix)}", int(entry["Size"]), entry["LastModified"]) for entry in found
    ]


def has_objects(root_uri: str) -> bool:
    """Return whether a prefix holds any object.

    Raises:
        DataError: The bucket cannot be listed.
    """
    bucket, prefix = _split(root_uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    page = _ask(root_uri, lambda: _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1))
    return bool(page.get("Contents"))


def read_labels(uri: str) -> tuple[int, dict[str, str]]:
    """Return an object's size and the metadata that it was uploaded with.

    Raises:
        DataError: The object is missing, or access is denied.
    """
    bucket, key = _split(uri)
    head = _ask(uri, lambda: _client().head_object(Bucket=bucket, Key=key))
    return int(head["ContentLength"]), dict(head["Metadata"])


def stat_object(uri: str) -> tuple[int, datetime]:
    """Return an object's size and the time of its last change.

    Raises:
        DataError: The object is missing, or access is denied.
    """
    bucket, key = _split(uri)
    head = _ask(uri, lambda: _client().head_object(Bucket=bucket, Key=key))
    return int(head["ContentLength"]), head["LastModified"]


def put_file(uri: str, path: Path, labels: Mapping[str, str]) -> None:
    """Upload a file, in parts if it is large. The store verifies each part's SHA-256, and shows the object once it is complete.

    Raises:
        DataError: Access is denied, or the store cannot be reached.
    """
    from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415  as botocore below

    bucket, key = _split(uri)
    extra = {"Metadata": dict(labels), "ChecksumAlgorithm": "SHA256"}
    try:
        _ask(uri, lambda: _client().upload_file(str(path), bucket, key, ExtraArgs=extra))
    except S3UploadFailedError as error:
        # boto3 names the store's answer in the text alone.
        _refuse_if_busy(uri, cast("ClientError", error.__context__))
        raise DataError(
            f"{uri} cannot be written: {error}. Check the address, the credentials and the quota."
        ) from error


def remove_objects(root_uri: str) -> None:
    """Delete every object under a prefix.

    Raises:
        DataError: The address is a whole bucket, access is denied, or the store cannot be reached.
    """
    bucket, prefix = _split(root_uri)
    if not prefix.strip("/"):
        raise DataError(f"{root_uri!r} is a whole bucket: nothing is deleted. Name a prefix: s3://BUCKET/PREFIX.")
    keys = [_split(uri)[1] for uri, _, _ in find_objects(root_uri)]
    for start in range(0, len(keys), _KEYS_A_DELETE):
        wanted = [{"Key": key} for key in keys[start : start + _KEYS_A_DELETE]]
        request = {"Bucket": bucket, "Delete": {"Objects": wanted, "Quiet": True}}
        answer = _ask(root_uri, partial(_client().delete_objects, **request))
        if errors := answer.get("Errors"):
            raise DataError(
                f"{len(errors):,} objects under {root_uri} cannot be deleted, the first is {errors[0].get('Key')}: "
                f"{errors[0].get('Code')}. Run the command again, or check the credentials."
            )


def open_object(uri: str) -> io.BufferedReader:
    """Open an object for reading, seekable, in parts of 8 MiB. Parts are prefetched while the reader moves forward.

    Raises:
        DataError: The object is missing, or access is denied.
    """
    bucket, key = _split(uri)
    head = _ask(uri, lambda: _client().head_object(Bucket=bucket, Key=key))
    return io.BufferedReader(_ObjectReader(uri, int(head["ContentLength"]), head["ETag"]), _BUFFER_BYTES)


def view_ranges(uri: str, ranges: Sequence[ByteRange]) -> list[memoryview]:
    """Return the bytes of each (offset, size); adjacent ranges are fetched together. Views are short if the object ends early.

    The object's ETag is asked for once per process: all ranges are of one version, and a later version is read whole.
    """
    spans = merge_ranges(ranges, _MAX_GAP_BYTES)
    place = (load_settings().s3_endpoint_url, uri)
    if (etag := _ETAGS.get(place)) is not None:
        try:
            return cut_ranges(_get_all(uri, etag, spans), spans, ranges)
        except ReplacedObjectError:
            _ETAGS.pop(place, None)
    bucket, key = _split(uri)
    etag = _ask(uri, lambda: _client().head_object(Bucket=bucket, Key=key))["ETag"]
    blocks = _get_all(uri, etag, spans)
    if len(_ETAGS) >= _MAX_ETAGS:
        _ETAGS.clear()
    _ETAGS[place] = etag
    return cut_ranges(blocks, spans, ranges)


def _get_all(uri: str, etag: str, spans: Sequence[ByteRange]) -> list[bytes]:
    if len(spans) < 2:
        return [_get(uri, etag, span) for span in spans]
    return list(_pool(os.getpid()).map(lambda span: _get(uri, etag, span), spans))


class _ObjectReader(io.RawIOBase):
    def __init__(self, uri: str, size_bytes: int, etag: str) -> None:
        self._uri, self._size_bytes, self._etag = uri, size_bytes, etag
        self._position = 0
        self._pool = ThreadPoolExecutor(_N_AHEAD)
        self._parts: dict[int, Future[bytes]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        size = min(len(view), self._size_bytes - self._position)
        if size <= 0:
            return 0
        number, start = divmod(self._position, _PART_BYTES)
        data = self._part(number)[start : start + size]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _part(self, number: int) -> bytes:
        """Return a part, and prefetch the next ones if the reader came from the previous part."""
        n_ahead = _N_AHEAD if number in self._parts or number - 1 in self._parts else 0
        last = (self._size_bytes - 1) // _PART_BYTES
        wanted = range(number, min(number + n_ahead, last) + 1)
        kept = {at: part for at, part in self._parts.items() if number - 1 <= at <= number + _N_AHEAD}
        self._parts = kept | {at: self._fetch(at) for at in wanted if at not in kept}
        return self._parts[number].result()

    def _fetch(self, number: int) -> "Future[bytes]":
        offset = number * _PART_BYTES
        size = min(_PART_BYTES, self._size_bytes - offset)
        return self._pool.submit(_get, self._uri, self._etag, (offset, size))


def _get(uri: str, etag: str, span: ByteRange) -> bytes:
    bucket, key = _split(uri)
    offset, size = span
    wanted = {"Bucket": bucket, "Key": key, "IfMatch": etag, "Range": f"bytes={offset}-{offset + size - 1}"}

    def fetch() -> bytes:
        answer = _client().get_object(**wanted)
        return _whole_body(answer, offset)

    return _ask(uri, fetch)


def _whole_body(answer: Mapping[str, Any], offset: int) -> bytes:
    """Read a body and check that it has the length of its range: a wrong Content-Length would truncate it silently."""
    from botocore.exceptions import IncompleteReadError  # noqa: PLC0415  boto3 takes a third of a second

    body = bytes(answer["Body"].read())
    found = _CONTENT_RANGE.match(answer.get("ContentRange", ""))
    n_expected = int(found[2]) - int(found[1]) + 1 if found and int(found[1]) == offset else -1
    if len(body) != n_expected:
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=n_expected)
    return body


def _insist(fetch: Callable[[], T]) -> T:
    """Retry broken transfers with random, growing pauses."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415  boto3 takes a third of a second
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    began = time.monotonic()
    for attempt in range(_N_ATTEMPTS - 1):
        try:
            return fetch()
        except (HTTPClientError, IncompleteReadError, ResponseParserError):
            if time.monotonic() - began > _GIVE_UP_S:
                raise
            time.sleep(random.random() * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))  # noqa: S311  no secret
    return fetch()


def _ask(uri: str, request: Callable[[], T]) -> T:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  boto3 takes a third of a second
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        return _insist(request)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "?")
        if code == "InvalidRange":
            return cast("T", b"")
        if code in {"PreconditionFailed", "412"}:
            raise ReplacedObjectError(f"{uri} was replaced while it was read. Run the stage again.") from error
        _refuse_if_busy(uri, error)
        raise _KINDS.get(code, DataError)(
            f"{uri} cannot be read: {code}. Check the address and the credentials."
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise UnreachableRootError(
            f"{uri} cannot be reached: {error}. Check ALCHEMIST_S3_ENDPOINT_URL and the network."
        ) from error


def _refuse_if_busy(uri: str, error: "ClientError") -> None:
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _BUSY:
        code = error.response.get("Error", {}).get("Code", "?")
        raise DataError(
            f"{uri} cannot be read or written now: the store answers {code}. Run the command again; if this happens often, with fewer "
            "slots."
        ) from error


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise DataError(f"{uri!r} does not name a bucket. Write s3://BUCKET/PREFIX.")
    return bucket, key


def _client() -> Any:
    # Connections must not be shared with a process that forked from this one, such as a loader's worker.
    return _make_client(load_settings().s3_endpoint_url, os.getpid())


@cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_N_THREADS, thread_name_prefix="s3")


@cache
def _make_client(endpoint_url: str | None, _pid: int) -> Any:
    import boto3  # noqa: PLC0415  a third of a second, and most roots are folders
    from botocore.config import Config  # noqa: PLC0415

    retries = {"mode": "standard", "max_attempts": 6}
    config = Config(retries=retries, connect_timeout=10, read_timeout=_SILENCE_S, max_pool_connections=2 * _N_THREADS)
    return boto3.client("s3", endpoint_url=endpoint_url, config=config)
