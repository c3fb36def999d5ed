"""The same training-like loop with three data sources: SubsetDataset in place, materialized tars, and webdataset filtering all tars.

`python -m tests.benchmarks.zero_copy [--pairs 20000] [--side 400] [--workers 2]`, alone on the machine: 20,000 samples are 0.6 GB, and
another GB for the materialized dataset. It writes `.alchemist/bench/zero_copy.json`. The loop decodes each image in the loader's
workers, resizes it to 64 px, and trains a small network for one step per batch. Each source reads the whole subset once in random
order, three times in
turns; the median is reported.
"""

import argparse
import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.subsets.dataset import Reader, SubsetDataset
from tests.benchmarks.picture_store import Pictures, add_pictures, own_store
from tests.benchmarks.rows import Row, at_least, write_rows

BATCH, SIDE, ROUNDS = 64, 64, 3
SHUFFLE_BUFFER = 1_000
Feed = Callable[[int], Iterable[Any]]


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with own_store() as engine:
        pictures = add_pictures(engine, "pool", side=given.side, n_pairs=given.pairs)
        began = time.perf_counter()
        folder = materialize(MaterializeConfig(subset="pool", shuffle_seed=0)).folder
        copied_s = time.perf_counter() - began
        feeds: dict[str, Feed] = {
            "zero-copy view": partial(zero_copy, n_workers=given.workers),
            "materialized tars": partial(read_tars, folder, n_workers=given.workers),
            "webdataset from all tars": partial(choose, pictures, n_workers=given.workers),
        }
        rows = measure(feeds, len(pictures.members), f"copied in {copied_s:.1f} s before")
    write_rows("zero_copy", rows)


def measure(feeds: dict[str, Feed], n_members: int, copied: str) -> list[Row]:
    """Run the loop over each way of feeding it, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in feeds}
    for epoch in range(ROUNDS):
        for name, feed in feeds.items():
            n_samples, seconds = train(feed(epoch))
            if n_samples != n_members:
                raise SystemExit(f"{name} gave {n_samples:,} samples of {n_members:,}: the figures would not compare")
            rates[name].append(n_samples / seconds)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    ours, tars, theirs = middle.values()
    return [
        *(Row(f"{name}: samples a second", round(rate), "samples/s", None, None) for name, rate in middle.items()),
        at_least("zero-copy view, of materialized tars", ours / tars, 0.8, "×", copied),
        at_least("zero-copy view, of webdataset from all tars", ours / theirs, 1, "×"),
    ]


def train(batches: Iterable[Any]) -> tuple[int, float]:
    """Take a step for every batch; the workers' start is not timed, the first batch's wait is."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(8)
    )
    net(torch.zeros(1, 3, SIDE, SIDE))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    n_samples, began = 0, time.perf_counter()
    for image in batches:
        optimizer.zero_grad()
        net(image.float() / 255).square().mean().backward()
        optimizer.step()
        n_samples += len(image)
    return n_samples, time.perf_counter() - began


def zero_copy(epoch: int, *, n_workers: int) -> Iterable[Any]:
    """Read the members where they lie."""
    dataset = SubsetDataset("pool", reader=Reader(batch_size=BATCH), transform=decode)
    dataset.set_epoch(epoch)
    return DataLoader(dataset, batch_size=BATCH, num_workers=n_workers)


def read_tars(folder: str, epoch: int, *, n_workers: int) -> Iterable[Any]:
    """Read the copied tars from end to end: they lie shuffled."""
    return load_with_webdataset(sorted(map(str, Path(folder).glob("*.tar"))), epoch, n_workers=n_workers)


def choose(pictures: Pictures, epoch: int, *, n_workers: int) -> Iterable[Any]:
    """Read every tar of the corpus, leave out who is no member, and shuffle in a buffer."""
    return load_with_webdataset(pictures.tars(), epoch, n_workers=n_workers, keys=pictures.keys())


def load_with_webdataset(tars: list[str], epoch: int, *, n_workers: int, keys: set[str] | None = None) -> Iterable[Any]:
    """Read tars with webdataset, one worker a tar at a time."""
    import webdataset

    warnings.simplefilter("ignore")
    pipeline = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=epoch, empty_check=False)
    if keys is not None:
        pipeline = pipeline.select(partial(is_member, keys)).shuffle(SHUFFLE_BUFFER)
    return DataLoader(pipeline.map(decode), batch_size=BATCH, num_workers=n_workers)


def is_member(keys: set[str], sample: dict[str, Any]) -> bool:
    """Tell whether a sample is of the subset."""
    return sample["__key__"] in keys


def decode(sample: dict[str, Any]) -> torch.Tensor:
    """Return the resized image on which a small model is trained."""
    picture = Image.open(io.BytesIO(sample["jpg"]))
    picture.draft("RGB", (SIDE, SIDE))
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


if __name__ == "__main__":
    main()
