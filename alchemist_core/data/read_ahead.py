"""Reads members straight from their source tars, in a given order, some way ahead of whoever takes them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.data.member_table import MemberTable
from alchemist_core.data.repaired_samples import repair_sample
from alchemist_core.data.shard_copying import read_records
from alchemist_core.data.storage import is_s3

Sample = dict[str, Any]
_GROUP, _N_GROUPS_AHEAD = 32, 8
# A file answers at once; an object store only after a while, but many at a time.
_N_FILE_THREADS, _N_OBJECT_THREADS = 4, 32


def read_ahead(members: MemberTable, index_K: NDArray[np.int64]) -> Iterator[Sample]:
    """Yield members in the order given, as webdataset does: `__key__`, `__url__`, and bytes by extension; and pair_hash, rank.

    Every member's bytes are compared with what ingest registered, and then repaired where ingest repaired them.

    Raises:
        DataError: A source is gone, or holds other bytes.
    """
    n_threads = _N_OBJECT_THREADS if any(map(is_s3, members.uris)) else _N_FILE_THREADS
    n_ahead = max(_N_GROUPS_AHEAD, n_threads)
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="read-ahead")
    reading: deque[Future[list[Sample]]] = deque()
    try:
        for start in range(0, len(index_K), _GROUP):
            reading.append(pool.submit(_read_group, members, index_K[start : start + _GROUP]))
            if len(reading) > n_ahead:
                yield from reading.popleft().result()
        while reading:
            yield from reading.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read_group(members: MemberTable, index_K: NDArray[np.int64]) -> list[Sample]:
    records = members.rows(index_K)
    return [
        {
            "__key__": record.key,
            "__url__": record.uri,
            **repair_sample({ext: bytes(data) for ext, data in zip(record.exts, parts, strict=True)}, record.repair),
            "pair_hash": record.pair_hash,
            "rank": record.rank,
        }
        for record, parts in zip(records, read_records(records), strict=True)
    ]
