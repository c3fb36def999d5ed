"""Is a subset worth it? The way from a random subset to a planted one of the same size that each strategy goes, over seeds.

`python -m tests.benchmarks.closing [--seeds 3,4,5] [--rules alignment] [--strategies auto,top_k]`, alone. It
writes `.alchemist/bench/closing.json`. A seed varies corpus, rater, selection and training together; the
arms of one seed share the first weights. Held-out loss is cross-entropy on clean unseen scenes; lower is better.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from alchemist_core.loops.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.loops.downstream_training import train_downstream
from alchemist_core.loops.heldout import heldout_losses
from alchemist_core.loops.rater_training import train_rater
from alchemist_core.loops.scoring import Scorer
from alchemist_core.selection.draw import draw_members
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.selection.strategies import STRATEGIES, STRATEGY_OF_RULE
from alchemist_core.settings import load_settings
from tests.benchmarks.rows import Row, at_least, interval, write_rows
from tests.benchmarks.scenes_study import Study, kind_aucs, load_study

RETENTIONS = (0.2, 0.5)
TARGET = 0.8


def main() -> None:
    """Measure every seed and write the means with their intervals."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="3,4,5")
    parser.add_argument("--rules", default="alignment")
    parser.add_argument("--strategies", default="auto,top_k")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    closed: dict[str, list[float]] = {}
    for seed in seeds:
        for name, share in Arms(seed).closed(given.rules.split(","), given.strategies.split(",")).items():
            closed.setdefault(name, []).append(share)
    rows: list[Row] = []
    for name, shares in closed.items():
        mean, half = interval(shares)
        each = ", ".join(f"{share:.3f}" for share in shares)
        rows.append(at_least(f"closed: {name}", mean, TARGET, "of the gap", f"± {half:.3f}, seeds {seeds}: {each}"))
    write_rows("closing", rows)


class Arms:
    """One seed: its corpus, and the loss of every set of pairs that was tried."""

    def __init__(self, seed: int) -> None:
        self.seed, self.study = seed, load_study(load_settings().home.resolve() / "bench" / "scenes", seed=seed)
        self.folder = tempfile.TemporaryDirectory()

    def closed(self, rules: list[str], strategies: list[str]) -> dict[str, float]:
        """Give the share of the gap that each rule and strategy closes at each retention."""
        found = {}
        for rule in rules:
            rater = self._rater(rule)
            for retention in RETENTIONS:
                k = round(retention * len(self.study.train))
                controls = {name: self._loss(rater, members) for name, members in self._controls(k).items()}
                for name in strategies:
                    loss = self._loss(rater, self._members(rater, rule, name, k))
                    gap = controls["random"] - controls["planted"]
                    found[f"{rule}, {name}, {retention:.0%}"] = (controls["random"] - loss) / gap
                    print(f"seed {self.seed} {rule} {name} {retention:.0%}: {loss:.4f}, {controls}", flush=True)
        return found

    def _rater(self, rule: str) -> Path:
        out = Path(self.folder.name) / rule
        config = RaterTrainingConfig.model_validate({"seed": self.seed, "rule": rule})
        train_rater(config, self.study.train, self.study.validation, out=out, report=_quiet)
        score_N = Scorer.load(out).score(self.study.train.image_NHWC, self.study.train.captions)
        print(f"seed {self.seed} {rule}: {kind_aucs(score_N, self.study.kinds)}", flush=True)
        return out

    def _controls(self, k: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(self.seed)
        good = generator.permutation(np.flatnonzero(self.study.kinds == "informative"))
        return {"random": generator.permutation(len(self.study.train))[:k], "planted": np.resize(good, k)}

    def _members(self, rater: Path, rule: str, name: str, k: int) -> np.ndarray:
        study: Study = self.study
        score_N = Scorer.load(rater).score(study.train.image_NHWC, study.train.captions)
        rank_N = fit_rank_scale(score_N).rank(score_N)
        strategy = STRATEGIES[STRATEGY_OF_RULE[rule] if name == "auto" else name]()  # type: ignore[index]
        hash_N = np.random.default_rng(self.seed).integers(-(2**63), 2**63, len(rank_N))
        return draw_members(rank_N, hash_N, k=k, strategy=strategy, noise=Noise(self.seed))

    def _loss(self, rater: Path, members: np.ndarray) -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model"
            config = DownstreamConfig(seed=self.seed)
            pairs = self.study.train.rows(np.sort(members))
            train_downstream(config, pairs, tokenizer_from=rater, out=out, report=_quiet)
            return float(heldout_losses(out, self.study.test).mean())


def _quiet(*_progress: Any) -> None:
    pass


if __name__ == "__main__":
    main()
