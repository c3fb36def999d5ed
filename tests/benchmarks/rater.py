"""The rater: cost of a step against a plain loop, quality of the scores on a synthetic corpus, agreement of two seeds.

`python -m tests.benchmarks.rater [--seeds 3,4,5,6,7] [--steps-only]`, alone on the machine: two minutes per rater. It writes
`.alchemist/bench/rater.json`. A seed changes corpus, tokenizer, networks and data order together; no setting was chosen on
seeds 3 and above.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from alchemist_core.models.star import Star
from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.rating.rater import Rater
from alchemist_core.settings import load_settings
from alchemist_core.statistics import mean_ranks, spearman
from alchemist_core.training.bilevel import Bilevel
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.launching import own_device
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import batch_index
from alchemist_core.training.scoring import Scorer
from tests.benchmarks.plain_loop import PlainLoop
from tests.benchmarks.rows import Row, at_least, interval, write_rows
from tests.benchmarks.scenes_study import KINDS, Study, kind_aucs, load_study

LIMITS = {"plain": 0.90, "chaotic": 0.99, "wrong_caption": 0.95}
N_TIMED, N_ROUNDS = 15, 6
TWIN = 1000


def main() -> None:
    """Measure everything and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="3,4,5,6,7")
    parser.add_argument("--steps-only", action="store_true")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    root = load_settings().home.resolve() / "bench" / "scenes"
    rows = step_rows(load_study(root, seed=seeds[0]))
    if not given.steps_only:
        rows += [*alignment_rows(root, seeds), *loss_rows(root, seeds[:3])]
    write_rows("rater", rows)


def step_rows(study: Study) -> list[Row]:
    """Time steps of the product and of the plain loop in turns, on the same batches."""
    config = RaterTrainingConfig()
    tokenizer, encoder = fit_tokenizer(study.train.image_NHWC, config.tokenizer_config, 0), WordVectors()
    data = encode_samples(study.train, tokenizer, encoder)
    size = config.proxy(tokenizer.config, encoder.dim)
    bilevel = Bilevel(config, Accelerator(cpu=True), (size, size))
    torch.manual_seed(0)
    plain = PlainLoop(Star(size), Rater(Star(size), size.width))
    seconds: dict[str, list[float]] = {"ours": [], "plain, 1 thread": [], "plain, 2 threads": []}
    for turn in range(N_ROUNDS):
        both = [
            data.rows(batch_index(len(data), turn * N_TIMED + step, batch_size=128, seed=0)) for step in range(N_TIMED)
        ]
        seconds["ours"].append(_time(lambda batch: bilevel.step([batch], 64), both))
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            first = torch.arange(64)
            halves = [
                (type(batch)(batch.tokens.rows(first), batch.text.rows(first)), batch.between(64, None))
                for batch in both
            ]
            seconds[f"plain, {n_threads} thread{'s' * (n_threads > 1)}"].append(
                _time(lambda pair: plain.step(*pair), halves)
            )
            torch.set_num_threads(1)
    best = {name: min(times) for name, times in seconds.items()}
    fastest = min(value for name, value in best.items() if name != "ours")
    detail = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in best.items())
    return [
        at_least("step: plain loop over ours", fastest / best["ours"], 1.4, "×", detail),
        *_breakdown(bilevel, both),
    ]


def _breakdown(bilevel: Bilevel, both: list[Any]) -> list[Row]:
    """Time the parts of a step one after another, on one thread."""
    train = [batch.between(64, None) for batch in both]
    parts = {
        "θ forward, 128 pairs": _time(lambda batch: bilevel.proxy(*batch), both),
        "θ forward and backward": _time(lambda batch: bilevel.proxy(*batch).mean().backward(), both),
        "θ̂ forward and backward, 64 pairs": _time(lambda batch: bilevel.reference(*batch).mean().backward(), train),
        "rater forward and backward": _time(lambda batch: bilevel.rater(*batch).score_B.sum().backward(), train),
        "three optimisers": _time(lambda _: [optimizer.step() for optimizer in bilevel.optimizers.values()], train),
    }
    return [Row(f"step: {name}", round(value * 1000, 2), "ms", None, None) for name, value in parts.items()]


def _time(step: Any, batches: list[Any]) -> float:
    began = time.perf_counter()
    for batch in batches:
        step(batch)
    return (time.perf_counter() - began) / len(batches)


def alignment_rows(root: Path, seeds: list[int]) -> list[Row]:
    """Train one rater per seed, and on the first three corpora a second one with another seed."""
    scores = {seed: _score(root, corpus=seed, seed=seed) for seed in seeds}
    kinds = {seed: load_study(root, seed=seed).kinds for seed in seeds}
    aucs = {seed: kind_aucs(scores[seed], kinds[seed]) for seed in seeds}
    rows = []
    for kind in KINDS:
        mean, half = interval([aucs[seed][kind] for seed in seeds])
        each = ", ".join(f"{aucs[seed][kind]:.4f}" for seed in seeds)
        rows.append(
            at_least(
                f"alignment: AUC against {kind}", mean, LIMITS[kind], "AUC", f"± {half:.4f}, seeds {seeds}: {each}"
            )
        )
    agreements = [spearman(scores[seed], _score(root, corpus=seed, seed=seed + TWIN)) for seed in seeds[:3]]
    mean, half = interval(agreements)
    each = ", ".join(f"{value:.3f}" for value in agreements)
    rows.append(
        Row("alignment: rank correlation of two seeds", round(mean, 4), "Spearman", None, None, f"± {half:.4f}: {each}")
    )
    return rows


def loss_rows(root: Path, seeds: list[int]) -> list[Row]:
    """Return the mean rank of each kind under scoring rule `loss`; 0 is the highest."""
    ranks: dict[str, list[float]] = {kind: [] for kind in ("informative", *KINDS)}
    for seed in seeds:
        rank_N = 1 - mean_ranks(_score(root, corpus=seed, seed=seed, rule="loss")) / len(
            load_study(root, seed=seed).kinds
        )
        for kind, found in ranks.items():
            found.append(float(rank_N[load_study(root, seed=seed).kinds == kind].mean()))
    rows = []
    for kind, found in ranks.items():
        mean, half = interval(found)
        rows.append(
            Row(f"loss: mean rank of {kind}", round(mean, 4), "rank", None, None, f"± {half:.4f}, seeds {seeds}")
        )
    in_order = [rows[1].value, rows[0].value, max(rows[2].value, rows[3].value)]
    is_paper = all(first < second for first, second in itertools.pairwise(in_order))
    rows.append(Row("loss: plain first, informative between", float(is_paper), "0 or 1", "= 1", is_paper))
    return rows


def _score(root: Path, *, corpus: int, seed: int, **overrides: Any) -> np.ndarray:
    began = time.perf_counter()
    score_N = train_and_score(load_study(root, seed=corpus), seed=seed, **overrides)
    print(f"corpus {corpus}, seed {seed}, {overrides}: {time.perf_counter() - began:.0f} s", flush=True)
    return score_N


def train_and_score(study: Study, **training: Any) -> np.ndarray:
    """Train a rater with some options; return its scores of the training samples."""
    config = RaterTrainingConfig.model_validate(training)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rater"
        train_rater(config, study.train, study.validation, out=out, on_progress=lambda *_: None)
        return Scorer.load(out, own_device()).score(study.train.image_NHWC, study.train.captions)


if __name__ == "__main__":
    main()
