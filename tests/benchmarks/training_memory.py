"""Memory of a process that trains on encoded samples, by their number, with codes and rows that are made up.

`python -m tests.benchmarks.training_memory [--samples 10000,100000,1000000] [--batches 200] [--keep FOLDER]`, alone on the machine. It
needs 3 GB of disk: 1.4 for the codes of a million images at 256 px, 0.5 for their rows, 0.9 for captions. It writes
`.alchemist/bench/training_memory.json`.

Each number of samples is measured in a process of its own: rows are read as from the store, the cache is checked and searched, and batches
are read in the order of training. Captions are all different and encoded by `words`: those of 100,000 samples are encoded at the start and
read from the cache, those of a million, which exceed 4 GiB, at each step. Figures are over the process before the rows: `held_mib` is
memory of the process alone, `peak_mib` all that was resident at any time, mapped files included.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.sample_table import LocatedSample, spool_samples
from alchemist_core.training.feature_cache import FeatureCache
from tests.benchmarks.rows import Row, write_rows
from tests.peak_memory import held_mib, peak_mib

BATCH, SEGMENT = 256, 4096
# What a process may have more at any number of samples than at the smallest.
MOST_MIB = 100


def main() -> None:
    """Measure each number of samples in a process, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", default="10000,100000,1000000")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder of the made-up codes, to use them again")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = sorted(int(count) for count in given.samples.split(","))
    if given.one is not None:
        print(json.dumps(measure(counts[0], given.one, given.batches)))
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = given.keep or Path(folder)
        fill(cache, counts[-1])
        found = {count: in_process(count, cache, given.batches) for count in counts}
    rows = [row for count, one in found.items() for row in rows_of(count, one)]
    for name in ("held_mib", "peak_mib"):
        grown = max(one[name] for one in found.values()) - found[counts[0]][name]
        title = f"{name}, most over {counts[0]:,} samples"
        rows.append(
            Row(title, round(grown, 1), "MiB", f"≤ {MOST_MIB}", grown <= MOST_MIB, f"up to {counts[-1]:,} samples")
        )
    write_rows("training_memory", rows)


def rows_of(count: int, found: dict[str, float]) -> list[Row]:
    """Return a row for each figure of one process."""
    units = {"held_mib": "MiB", "peak_mib": "MiB", "start_s": "s", "batch_ms": "ms"}
    return [Row(f"{name}, {count:,} samples", round(found[name], 1), unit, None, None) for name, unit in units.items()]


def in_process(count: int, cache: Path, n_batches: int) -> dict[str, float]:
    """Measure one number of samples in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.training_memory"]
    options = ["--samples", str(count), "--one", str(cache), "--batches", str(n_batches)]
    found: dict[str, float] = json.loads(
        subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE).stdout
    )
    print(count, found, flush=True)
    return found


def measure(count: int, cache: Path, n_batches: int) -> dict[str, float]:
    """Encode samples whose codes are all in the cache, and read batches of them.

    Returns:
        MiB that the process alone held at most, MiB that were resident at most (pages of files that were read included), seconds until the
        first batch, and milliseconds per batch.
    """
    import torch

    from alchemist_core.models.text import WordVectors
    from alchemist_core.training.encoding import encode_samples
    from alchemist_core.training.sample_reading import StoredSamples
    from alchemist_core.training.samples import batch_index

    torch.set_num_threads(1)
    tokenizer, encoder = make_tokenizer(), WordVectors()
    # What the libraries take once is no memory of the samples.
    tokenizer.tokens(torch.zeros(BATCH, tokenizer.config.n_tokens, dtype=torch.int64))
    encoder.encode([""] * BATCH)
    resident, held = peak_mib(reset=True), held_mib()
    most = held
    start = time.perf_counter()
    samples = StoredSamples(spool_samples(located(count)), 256, lambda *_: None)
    data = encode_samples(samples, tokenizer, encoder, cache=cache)
    start_s, most = time.perf_counter() - start, max(most, held_mib())
    start = time.perf_counter()
    for step in range(n_batches):
        # Without the inputs of the tokens, which a step computes from their codes: they take the same at every number of samples.
        index_B = batch_index(len(data), step, batch_size=BATCH, seed=0)
        data.codes.rows(index_B), data.captions.rows(index_B)
        most = max(most, held_mib())
    batch_ms = (time.perf_counter() - start) / n_batches * 1e3
    return {"held_mib": most - held, "peak_mib": peak_mib() - resident, "start_s": start_s, "batch_ms": batch_ms}


def make_tokenizer() -> Any:
    """Return a tokenizer with the 680 tokens of 256 px and random weights, without convolutions."""
    import torch

    from alchemist_core.models.config import SCALES, TokenizerConfig
    from alchemist_core.models.tokenizer import Tokenizer

    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(resolution=64, scales=SCALES[256], n_codes=4096))


def located(count: int) -> Iterator[list[LocatedSample]]:
    """Yield made-up rows of the store, some thousands at a time."""
    for start in range(0, count, SEGMENT):
        yield [_located(number) for number in range(start, min(start + SEGMENT, count))]


def _located(number: int) -> LocatedSample:
    return LocatedSample(
        sample_id=number, pair_hash=_hash(b"pair", number), image_hash=_hash(b"image", number), perceptual_hash=number,
        caption=f"a photograph of thing number {number} on a table, in the evening light of a garden", dataset_id=1,
        root_uri="s3://bucket/crawl", shard_id=number % 100, uri=f"2026-01-01/{number % 100:06d}.tar",
        ordinal=number // 100, key=f"{number:09d}", file_exts=["jpg", "json", "txt"],
        file_offsets=[number * 1000 + part for part in (0, 600, 800)], file_sizes=[600, 200, 90], content_hash=None,
        repair=None,
    )  # fmt: skip


def fill(cache: Path, count: int) -> None:
    """Write made-up codes of the images of all samples, in segments of the usual size."""
    from alchemist_core.training.encoding import tokenizer_fingerprint

    tokenizer = make_tokenizer()
    store = FeatureCache(cache / "images" / tokenizer_fingerprint(tokenizer))
    generator, shape = np.random.default_rng(0), tokenizer.config.n_tokens
    for start in range(0, count, SEGMENT):
        numbers = range(start, min(start + SEGMENT, count))
        code_NS = generator.integers(0, 4096, (len(numbers), shape), np.int16)
        store.add(hash_rows([_hash(b"image", number) for number in numbers]), {"code": code_NS})


def _hash(what: bytes, number: int) -> bytes:
    return hashlib.sha256(what + number.to_bytes(8)).digest()


if __name__ == "__main__":
    main()
