"""Copying half of a corpus into tars, against `cp` and fsync of the same bytes and against webdataset's read, filter, write.

`python -m tests.benchmarks.materialize [--gib 4] [--small 100000] [--pairs 5]`, alone on the machine: 4 GiB need about 12 GiB of disk.
It writes `.alchemist/bench/materialize.json`. Each round runs our stage and the other program, one after the other, in
alternating order; a row is the median of their ratios. Our time includes the whole stage: finding the members in the store, both
checks, and the manifest.
"""

import argparse
import gc
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from alchemist_core.files import artifact_path
from alchemist_core.settings import load_settings
from alchemist_core.stages.materialize import MaterializeConfig, MaterializeResult
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.subsets.materialized import Verify
from tests.benchmarks.picture_store import Pictures, add_pictures, own_store
from tests.benchmarks.rows import Row, at_least, write_rows

# Side lengths at which a synthetic JPEG with its caption has about 80 KB and about 4 KB.
LARGE_SIDE, SMALL_SIDE = 640, 128
SHARD_SIZE = 1_000


class Timed(NamedTuple):
    """One run: seconds and bytes."""

    seconds: float
    n_bytes: int

    @property
    def rate(self) -> float:
        """Return MB/s."""
        return self.n_bytes / self.seconds / 1e6


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    with own_store() as engine:
        rows = []
        for name, side, n_pairs in (
            ("80 KB members", LARGE_SIDE, int(given.gib * 2**30 / 80_000)), ("4 KB members", SMALL_SIDE, given.small),
        ):  # fmt: skip
            pictures = add_pictures(engine, name.replace(" ", "-"), side=side, n_pairs=n_pairs)
            rows += measure(pictures, name, given.pairs, has_targets=side == LARGE_SIDE)
            shutil.rmtree(pictures.root)
            shutil.rmtree(artifact_path("materialized"))
    write_rows("materialize", rows)


def measure(pictures: Pictures, name: str, n_pairs: int, *, has_targets: bool) -> list[Row]:
    """Compare one size of members with both baselines."""
    rows = []
    ours: dict[Verify, list[Timed]] = {"source": [], "read_back": []}
    cps: list[Timed] = []
    copy(pictures, "source")  # so that every file was read once before any is timed
    for _ in range(n_pairs):
        cps.append(plain_copy(copy_folder(pictures)))
        for verify, runs in ours.items():
            runs.append(copy(pictures, verify))
    for verify, limit in (("source", 0.8), ("read_back", 0.5)):
        ratio = statistics.median(mine.rate / cp.rate for mine, cp in zip(ours[verify], cps, strict=True))
        detail = (
            f"{middle(ours[verify]):,.0f} MB/s of {cps[0].n_bytes / 1e6:,.0f} MB; cp and fsync {middle(cps):,.0f} MB/s"
        )
        title = f"{name}: verify {verify}, of cp + fsync"
        rows.append(
            at_least(title, ratio, limit, "×", detail)
            if has_targets
            else Row(title, round(ratio, 3), "×", None, None, detail)
        )
    theirs = [filter_with_webdataset(pictures) for _ in range(max(n_pairs // 2, 1))]
    ratio = middle(ours["read_back"]) / middle(theirs)
    rows.append(
        at_least(f"{name}: verify read_back, of webdataset", ratio, 4, "×", f"webdataset {middle(theirs):,.0f} MB/s")
    )
    rows.append(rerun(pictures, name))
    return rows


def middle(runs: list[Timed]) -> float:
    """Return the median rate."""
    return statistics.median(run.rate for run in runs)


def timed(work: Callable[[], Path]) -> Timed:
    """Time what makes a folder of tars."""
    began = time.perf_counter()
    folder = work()
    return Timed(time.perf_counter() - began, sum(path.stat().st_size for path in folder.rglob("*.tar")))


def copy(pictures: Pictures, verify: Verify) -> Timed:
    """Remove an earlier result, wait for the disk, and materialize."""
    shutil.rmtree(copy_folder(pictures), ignore_errors=True)
    os.sync()
    return timed(lambda: Path(run_stage(pictures, verify).folder))


def run_stage(pictures: Pictures, verify: Verify) -> MaterializeResult:
    """Run the whole stage."""
    return materialize(MaterializeConfig(subset=pictures.name, shard_size=SHARD_SIZE, verify=verify))


def copy_folder(pictures: Pictures) -> Path:
    """Return the folder of the materialized dataset."""
    return artifact_path(f"materialized/{pictures.name}/v1-{SHARD_SIZE}")


def plain_copy(folder: Path) -> Timed:
    """Copy the same tars as `cp` does, and make each safe on the disk."""
    to = load_settings().home / "plain"
    os.sync()

    def work() -> Path:
        to.mkdir()
        for path in sorted(folder.glob("*.tar")):
            shutil.copyfile(path, to / path.name)
            with (to / path.name).open("rb") as file:
                os.fsync(file.fileno())
        return to

    made = timed(work)
    shutil.rmtree(to)
    return made


def filter_with_webdataset(pictures: Pictures) -> Timed:
    """Choose the same records with webdataset's own reader and writer; nothing is made safe, nothing checked."""
    import webdataset

    to, keys = load_settings().home / "theirs", pictures.keys()
    os.sync()

    def work() -> Path:
        to.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = webdataset.WebDataset(pictures.tars(), shardshuffle=False)
            with webdataset.ShardWriter(str(to / "%06d.tar"), maxcount=SHARD_SIZE, verbose=0) as writer:
                for sample in read:
                    if sample["__key__"] in keys:
                        writer.write(sample)
            gc.collect()
        return to

    made = timed(work)
    shutil.rmtree(to)
    return made


def rerun(pictures: Pictures, name: str) -> Row:
    """Run a finished stage again."""
    before = places(copy_folder(pictures))
    n_bytes = run_stage(pictures, "read_back").n_bytes_written
    is_same = before == places(copy_folder(pictures))
    return Row(f"{name}: bytes that a rerun writes", n_bytes, "bytes", "0", n_bytes == 0 and is_same)


def places(folder: Path) -> set[tuple[str, int, int]]:
    """Return what would tell that a file was written again."""
    stats = {path.name: path.stat() for path in folder.iterdir()}
    return {(name, stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


if __name__ == "__main__":
    main()
