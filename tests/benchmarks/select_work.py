"""The work that `select_scale` times, each part in its own process, with its time and peak memory.

`python -m tests.benchmarks.select_work WORD [ARGUMENT…]` prints one JSON object. Memory-mapped pages count as memory here.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.sampler import Keys, sample_members
from alchemist_core.selection.strategies import ShiftGsample
from alchemist_core.stages.select import SelectConfig, run
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_rater
from alchemist_core.store.snapshots import take_snapshot
from alchemist_core.subsets.selected import select_members as draw_from
from tests.peak_memory import peak_mib

ROUNDS = 5
NAME = "large"
Facts = dict[str, Any]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something took, and what it gave."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def commit(retention: str) -> Facts:
    """Select from Postgres, nothing kept, and publish."""
    select_s, report = timed(lambda: run(config(retention=float(retention))))
    publish_s, _ = timed(lambda: publish(PublishSubsetConfig(name=NAME)))
    return {"select_s": select_s, "publish_s": publish_s, "n": report.n_eligible, "k": report.n_samples}


def draw(retention: str) -> Facts:
    """Read the snapshot from its cached, verified arrays and select from the stored ranks; then compare the selection with argpartition."""
    rater = find_rater(open_store(), "production")
    assert rater is not None
    snapshot_s, snapshot = timed(lambda: take_snapshot(open_store(), rater, ["pool"]))
    policy = SelectionPolicy(strategy="shift_gsample", retention=float(retention), seed=3)
    draw_s, drawn = timed(lambda: draw_from(policy, snapshot))
    held_mib = peak_mib()
    return {
        "snapshot_s": snapshot_s, "draw_s": draw_s, "n": len(snapshot.pairs), "k": len(drawn.member_K), "held_mib": held_mib,
        **against_argpartition(snapshot.rank_N, snapshot.pairs.pair_hash64_N, len(drawn.member_K)),
    }  # fmt: skip


def against_argpartition(rank_N: np.ndarray, hash_N: np.ndarray, k: int) -> Facts:
    """Time the whole selection and an argpartition of the same keys alone, in turns."""
    strategy, noise = ShiftGsample(), Noise(3)
    key_N = Keys(rank_N, hash_N, strategy, noise).all()
    pairs = [
        (
            timed(lambda: sample_members(rank_N, hash_N, k=k, strategy=strategy, noise=noise))[0],
            timed(lambda: np.argpartition(key_N, len(key_N) - k))[0],
        )
        for _ in range(ROUNDS)
    ]
    drawn_s, bare_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"members_s": drawn_s, "argpartition_s": bare_s}


def preview(retention: str, seed: str) -> Facts:
    """Preview another retention and seed: the time that a person waits when the store is open."""
    open_store()
    seconds, report = timed(lambda: run(config(retention=float(retention), seed=int(seed), dry_run=True)))
    again_s, _ = timed(lambda: run(config(retention=float(retention) / 2, seed=int(seed) + 1, dry_run=True)))
    return {"first_s": seconds, "again_s": again_s, "k": report.n_samples, "overlap": report.overlap_with_published}


def stream(folder: str, retention: str) -> Facts:
    """Select from two memory-mapped arrays alone."""
    rank_N, hash_N = (np.asarray(np.load(Path(folder) / f"{name}.npy", mmap_mode="r")) for name in ("rank", "hash"))
    k = round(float(retention) * len(rank_N))
    seconds, member_K = timed(lambda: sample_members(rank_N, hash_N, k=k, strategy=ShiftGsample(), noise=Noise(0)))
    return {"seconds": seconds, "k": len(member_K)}


def config(*, retention: float, seed: int = 0, dry_run: bool = False) -> Any:
    """Return the config of the selection."""
    policy = {"strategy": "shift_gsample", "retention": retention, "seed": seed}
    return SelectConfig.model_validate({"dataset": "pool", "name": NAME, "policy": policy, "dry_run": dry_run})


if __name__ == "__main__":
    work = {"commit": commit, "draw": draw, "preview": preview, "stream": stream}[sys.argv[1]]
    print(json.dumps(work(*sys.argv[2:]) | {"peak_mib": peak_mib()}))
