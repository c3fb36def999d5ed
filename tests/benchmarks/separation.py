"""How the scores of good and of damaged samples separate while a rater is trained, for the figures of the documentation.

`python -m tests.benchmarks.separation` trains one rater of preset `tiny` on the synthetic corpus of seed 3, on which no setting was chosen,
and writes docs/figures/separation.json: two minutes on two cores. `make pictures` then draws it.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.settings import load_settings
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import RaterRun
from infra.docs.figures import KINDS, MEASURED
from tests.benchmarks.scenes_study import kind_aucs, load_study

SEED = 3
STEPS_OF_RATER = (1, 50, 150, 400, 1200)
"""Steps after the warm-up of the proxies, before which the rater is not trained."""
EDGES = np.linspace(-3.5, 3.5, 36)
N_RANK_BINS = 20


def main() -> int:
    """Train, measure and write."""
    study = load_study(load_settings().home.resolve() / "bench" / "scenes", seed=SEED)
    config = RaterTrainingConfig(seed=SEED)
    steps = {config.proxy_warmup_steps + step: step for step in STEPS_OF_RATER}
    marks: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = RaterRun(config, study.train, study.validation, out=Path(folder) / "rater", cache=None)
        assert run.n_train == len(study.kinds), "a sample of the corpus cannot be decoded"

        def measure(done: int, total: int, note: str) -> None:
            if done in steps:
                marks.append(mark(scores_of(run), study.kinds, steps[done]))
                print(f"step {done:,} of {total:,}: {note}, {marks[-1]['auc']}", flush=True)

        run.train(measure)
        score_N = scores_of(run)
    rank_N = fit_rank_scale(score_N).rank(score_N)
    bins = {
        kind: np.histogram(rank_N[study.kinds == kind], bins=N_RANK_BINS, range=(0, 1))[0].tolist() for kind in KINDS
    }
    found = {
        "command": "python -m tests.benchmarks.separation", "seed": SEED, "n_samples": len(study.kinds),
        "edges": [round(float(edge), 3) for edge in EDGES], "marks": marks, "rank_bins": bins,
    }  # fmt: skip
    MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


@torch.no_grad()
def scores_of(run: RaterRun) -> np.ndarray:
    """Return the scores of all training samples, in their order."""
    start, rater = run.n_all_validation, run.models.scoring_rater
    parts = torch.split(torch.arange(start, start + run.n_train), 256)
    score_N = torch.cat([rater.score(*run.data.rows(index_B).to(run.accelerator.device)) for index_B in parts])
    scores: np.ndarray = score_N.numpy(force=True)
    return scores


def mark(score_N: np.ndarray, kind_N: np.ndarray, step: int) -> dict[str, Any]:
    """Return the shares of each kind in bins of the standardised scores, and how well the scores tell each kind of damage."""
    standard_N = np.clip((score_N - score_N.mean()) / (score_N.std() or 1), EDGES[0], EDGES[-1])
    shares = {}
    for kind in KINDS:
        of_kind = standard_N[kind_N == kind]
        shares[kind] = [round(float(n) / len(of_kind), 4) for n in np.histogram(of_kind, bins=EDGES)[0]]
    note = "before training" if step == STEPS_OF_RATER[0] else "the last step" if step == STEPS_OF_RATER[-1] else ""
    aucs = {kind: round(float(auc), 4) for kind, auc in kind_aucs(score_N, kind_N).items()}
    return {"step": step, "note": note, "shares": shares, "auc": aucs}


if __name__ == "__main__":
    sys.exit(main())
