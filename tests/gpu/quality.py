"""Quality of raters trained on the card: AUC on the synthetic corpus, against the interval of raters trained on the CPU."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from alchemist_core.cores import n_own_cores
from tests.benchmarks.rater import train_and_score
from tests.benchmarks.rows import Row, interval
from tests.benchmarks.scenes_study import KINDS, kind_aucs, load_study
from tests.gpu.parts import Given

SEEDS = (3, 4, 5, 6)


def measure(given: Given) -> Iterator[Row]:
    """Train a rater a seed on both, at the same time; a seed changes corpus, networks and order of the data."""
    seeds = given.pick(SEEDS, SEEDS[:2])
    sizes = given.pick({}, {"n_train": 200, "n_validation": 100, "n_test": 2})
    training = given.pick({}, {"proxy_warmup_steps": 2, "max_train_steps": 4})
    # A training on the CPU uses two threads. CUDA reads the variable when it starts, which is later than a process's start.
    with ProcessPoolExecutor(
        given.pick(max(1, n_own_cores() // 2 - 1), 1),
        multiprocessing.get_context("spawn"), _hide_cards,
    ) as pool:  # fmt: skip
        work = [(given.place / "scenes", seed, sizes, training) for seed in seeds]
        on_cpu = [pool.submit(_aucs, *one) for one in work]
        began = time.perf_counter()
        own = [_aucs(*one) for one in work]
        seconds = (time.perf_counter() - began) / len(seeds)
        others = [future.result() for future in on_cpu]
    yield Row("time of a rater", seconds, "s", None, None, "training and scoring, beside those of the CPU")
    for kind in KINDS:
        mean, half = interval([found[kind] for found in others])
        difference = float(np.mean([found[kind] for found in own])) - mean
        detail = f"this device {mean + difference:.4f}, CPU {mean:.4f} ± {half:.4f}, seeds {seeds}"
        name, target = f"AUC against {kind}: difference from the CPU", f"within ± {half:.4f}"
        yield Row(name, difference, "AUC", target, abs(difference) <= half, detail)


def _hide_cards() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _aucs(root: Path, seed: int, sizes: dict[str, int], training: dict[str, int]) -> dict[str, float]:
    # A folder for each process, because two cannot make one corpus.
    study = load_study(root / str(os.getpid()), seed=seed, **sizes)
    return kind_aucs(train_and_score(study, seed=seed, **training), study.kinds)
