"""Bounds of the time and memory that one image may take, for it is others who wrote it.

C code that decodes cannot be stopped from within, so an image that may take long is read in a process that may die: `one_image` ends that
process. What is cheap by its size is read in any process.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alchemist_core.data.faults import Reason
from alchemist_core.data.images import MAX_DECODED_BYTES, BadImageError, read_header, sniff_format
from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings

# Headers are read in time that may grow with the square of the bytes; pixels of so many bytes are decoded in a fraction of a second.
_CHEAP_FILE_BYTES, _CHEAP_DECODED_BYTES = 1 << 20, 1 << 26
_MEMORY_BYTES = 3 * MAX_DECODED_BYTES
_STATM = Path("/proc/self/statm")


class CostlyImageError(DataError):
    """Report an image that is to be read in a process that may die."""


def is_costly(data: bytes) -> bool:
    """Tell whether reading an image could take long: TIFF may hold anything, the others take what their size says."""
    if len(data) > _CHEAP_FILE_BYTES:
        return True
    try:
        return sniff_format(data) == "tiff" or read_header(data).n_decoded_bytes > _CHEAP_DECODED_BYTES
    except BadImageError:
        return False


@contextmanager
def one_image() -> Iterator[None]:
    """End this process if the block takes more processor time than an image may; let its memory grow by a bound only."""
    with _memory_limit():
        signal.setitimer(signal.ITIMER_PROF, load_settings().decode_limit_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def explain_death(code: int) -> tuple[Reason, str]:
    """Return why an image is quarantined on which a process ended with a code."""
    if code == -signal.SIGPROF:
        limit_s = load_settings().decode_limit_s
        return Reason.TOO_SLOW, f"reading it takes more than {limit_s:g} s of processor time"
    return Reason.DECODER_DIED, f"a worker process ended with code {code}"


@contextmanager
def _memory_limit() -> Iterator[None]:
    if not _STATM.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = int(_STATM.read_text().split()[5]) * resource.getpagesize() + _MEMORY_BYTES
    soft = bound if before[0] == resource.RLIM_INFINITY else min(bound, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
