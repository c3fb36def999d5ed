"""Work through long arrays piece by piece, on every core: pieces stay in the processor's cache, and memory stays bounded.

Each piece is a pure function of its own elements, so neither their number nor that of the threads changes any result.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# At once, the temporaries of 30 million keys need 1.5 GiB.
CHUNK = 1 << 16


def map_chunks(work: Callable[[slice], T], n: int) -> list[T]:
    """Return what a function gives for each piece of n elements, in their order.

    >>> map_chunks(lambda chunk: chunk.stop - chunk.start, 70_000)
    [65536, 4464]
    """
    chunks = [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
    if len(chunks) < 4:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(work, chunks))
