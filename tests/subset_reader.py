"""A separate process that queries the published version of a subset over and over and records every result."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe

from sqlalchemy import text

from alchemist_core.store.engine import make_engine

READ = "SELECT min(subset_id), max(subset_id), count(*), sum(sample_id) FROM alchemist.current_subset_samples(:name)"
Seen = tuple[int, ...]


@dataclass
class Reading:
    """What the reader saw, known when it has ended: smallest and largest version, members, sum of their ids."""

    n_reads: int = 0
    seen: set[Seen] = field(default_factory=set)


@contextmanager
def reading(url: str, name: str) -> Iterator[Reading]:
    """Let the reader read while the block runs; it has read once when the block begins."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_poll, args=(url, name, there), daemon=True)
    process.start()
    assert here.recv() == "reading"
    found = Reading()
    try:
        yield found
    finally:
        here.send("stop")
        found.n_reads, found.seen = here.recv()
        process.join()


def _poll(url: str, name: str, pipe: Pipe) -> None:
    engine, seen, n_reads = make_engine(url), set(), 0
    while not pipe.poll():
        with engine.connect() as connection:
            seen.add(tuple(map(int, connection.execute(text(READ), {"name": name}).one())))
        n_reads += 1
        if n_reads == 1:
            pipe.send("reading")
    pipe.send((n_reads, seen))
    engine.dispose()
