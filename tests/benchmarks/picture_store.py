"""A store with ingested synthetic images and a subset version of about half of them, for benchmarks that copy or read."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
from sqlalchemy import Engine

from alchemist_core.settings import load_settings
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.engine import migrate, open_store
from alchemist_core.store.postgres import start_postgres, stop_postgres
from alchemist_core.subsets.member_table import MemberLocation, MemberTable
from alchemist_core.subsets.members import locate_all
from tests.benchmarks.jpeg_corpus import write_corpus
from tests.stored_version import add_version, share_of

SHARD_BYTES = 1 << 28


class Pictures(NamedTuple):
    """A corpus of images of one size, and the subset of half of them."""

    name: str
    root: Path
    members: MemberTable

    def tars(self) -> list[str]:
        """Return the corpus's tars."""
        return [str(path) for path in sorted(self.root.glob("*.tar"))]

    def keys(self) -> set[str]:
        """Return the members' keys, which are unique in the whole corpus here."""
        return set(self.members.table.column("key").to_pylist())

    def rows(self) -> list[MemberLocation]:
        """Return the members."""
        return self.members.rows(np.arange(len(self.members)))


@contextmanager
def own_store() -> Iterator[Engine]:
    """A temporary server and home, on the disk of ALCHEMIST_BENCH_FOLDER."""
    folder = os.environ.get("ALCHEMIST_BENCH_FOLDER")
    with TemporaryDirectory(prefix="alchemist-bench-", dir=folder) as name, pytest.MonkeyPatch.context() as patch:
        home = Path(name)
        home.chmod(0o755)
        patch.setenv("ALCHEMIST_HOME", str(home))
        server = start_postgres(home)
        # A corpus of millions is inserted with foreign keys off, which requires a superuser.
        server.run_sql("ALTER ROLE alchemist SUPERUSER")
        url = server.create_database("bench")
        migrate(url)
        patch.setenv("ALCHEMIST_DATABASE_URL", url)
        load_settings.cache_clear()
        try:
            yield open_store()
        finally:
            open_store().dispose()
            stop_postgres(home)
    load_settings.cache_clear()


def add_pictures(engine: Engine, name: str, *, side: int, n_pairs: int, shard_bytes: int = SHARD_BYTES) -> Pictures:
    """Make and ingest a corpus in tars of about a size; its subset has the same name."""
    root = load_settings().home / name
    began = time.perf_counter()
    pair_bytes = 0.2 * side**2  # about
    write_corpus(root, side=side, n_pairs=n_pairs, shard_pairs=max(int(shard_bytes / pair_bytes), 1))
    ingest(IngestConfig(dataset=name, root=str(root), perceptual_hash=False))
    subset = add_version(engine, name, share_of(engine, name, 0.5))
    print(f"{name}: {n_pairs:,} pairs drawn and ingested in {time.perf_counter() - began:.0f} s")
    return Pictures(name, root, locate_all(engine, subset))
