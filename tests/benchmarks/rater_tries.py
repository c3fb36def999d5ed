"""Other methods that were tried to value samples: those of earlier papers without a rater, and other settings of ours.

`python -m tests.benchmarks.rater_tries [--seeds 0,1] [--only NAME,…]`, on synthetic corpora that no reported result uses; one to three
minutes per method. It writes `.alchemist/bench/rater_tries.json`: AUC of informative samples against each kind of damage.

Letters: N training samples.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.rating.config import DRIFT_PRICE, PRICE_FLOOR
from alchemist_core.rating.objective import instance_objective
from alchemist_core.rating.rater import SampleRater
from alchemist_core.settings import load_settings
from alchemist_core.training.bilevel import make_rater
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.rater_training import make_models
from alchemist_core.training.samples import Batch, Samples, batch_index
from tests.benchmarks.rows import Row, write_rows
from tests.benchmarks.scenes_study import KINDS, Study, kind_aucs, load_study

SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "penalty .5": {"penalty": 0.5},
    "penalty 2": {"penalty": 2.0},
    "penalty as SEAL's": {"penalty_schedule": "seal"},
    "group head in the proxies' loss": {"group_weight": True},
    "rater reads hidden states": {"rater_features": "hidden"},
    "rater from scratch": {"rater_init": "scratch"},
    "warm-up 100": {"proxy_warmup_steps": 100},
    "warm-up 800": {"proxy_warmup_steps": 800},
    "softmax groups of 16": {"softmax_group_size": 16},
    "price .2": {"kl_weight": 0.2},
    "price 1": {"kl_weight": 1.0},
    "average .99": {"rater_ema_decay": 0.99},
    "sentence vectors (minilm)": {"text_encoder": "minilm"},
    "600 steps": {"max_train_steps": 600},
    "2400 steps": {"max_train_steps": 2400},
    "rule learnability, 600 steps": {"rule": "learnability", "max_train_steps": 600},
    "rule learnability": {"rule": "learnability"},
}
UNROLLS = (10, 100)


def main() -> None:
    """Try everything on every seed and write what each found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    chosen = [name for name in given.only.split(",") if name]
    found: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, given.seeds.split(",")):
        study = load_study(load_settings().home.resolve() / "bench" / "scenes", seed=seed)
        for name, try_ in _tries(study, seed):
            if chosen and name not in chosen:
                continue
            began = time.perf_counter()
            for what, score_N in try_().items():
                aucs = kind_aucs(score_N, study.kinds)
                found.setdefault(what, []).append(aucs)
                shown = " / ".join(f"{aucs[kind]:.4f}" for kind in KINDS)
                print(f"seed {seed} {what}: {shown} ({time.perf_counter() - began:.0f} s)", flush=True)
    rows = [
        Row(f"{what}: AUC against {kind}", round(float(np.mean([aucs[kind] for aucs in each])), 4), "AUC", None, None,
            ", ".join(f"{aucs[kind]:.4f}" for aucs in each))
        for what, each in found.items() for kind in KINDS
    ]  # fmt: skip
    write_rows("rater_tries", rows)


def _tries(study: Study, seed: int) -> Iterator[tuple[str, Callable[[], dict[str, np.ndarray]]]]:
    for name, changed in SETTINGS.items():
        yield name, lambda changed=changed, name=name: _ours(Run(study, seed, changed), name)
    for length in UNROLLS:
        name = f"unrolls of {length} steps"
        yield name, lambda length=length, name=name: {name: Run(study, seed, {}).train(unroll=length).scores()}
    yield "mean of two raters", lambda: {"mean of two raters": _mean_of_two(study, seed)}
    yield "learnability in a network", lambda: _learnability_in_a_network(study, seed)
    yield "ancestors", lambda: _ancestors(Run(study, seed, {}))


def _ours(run: "Run", name: str) -> dict[str, np.ndarray]:
    run.train()
    if name != "ours":
        return {name: run.scores()}
    loss_N, reference_N = run.losses(run.models.proxy), run.losses(run.models.reference)
    return {name: run.scores(), "no rater: last L(θ̂) - L(θ)": reference_N - loss_N, "no rater: -L(θ)": -loss_N}


def _mean_of_two(study: Study, seed: int) -> np.ndarray:
    """Mean of two runs with different seeds on one corpus, each divided by its own spread."""
    score_2N = np.stack([Run(study, each, {}).train().scores() for each in (seed, seed + 1_000)])
    return (score_2N / score_2N.std(1, keepdims=True)).mean(0)


def _ancestors(run: "Run") -> dict[str, np.ndarray]:
    """Learning to Reweight's one-step alignment, by a finite difference."""
    run.warm_up()
    model = run.models.proxy
    before_N = run.losses(model)
    for validation in run.validation_batches(8):
        (model(*validation).mean() / 8).backward()
    with torch.no_grad():
        length = torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum().sqrt()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.05 * parameter.grad / length)
    model.zero_grad()
    return {"no rater: one-step alignment": before_N - run.losses(model)}


def _learnability_in_a_network(study: Study, seed: int) -> dict[str, np.ndarray]:
    """Train a rater's network on the scores of rule `learnability`, at every step of its training or at the end."""
    run = Run(study, seed, {"rule": "learnability"})
    run.warm_up()
    networks = {name: make_rater(run.config, run.sizes[1]) for name in ("during", "after")}
    learners = {name: torch.optim.AdamW(net.parameters(), 1e-3, betas=(0.9, 0.95)) for name, net in networks.items()}
    for net in networks.values():
        net.backbone.load_state_dict(run.models.proxy.state_dict())
    spread = 0.0
    for step in range(run.config.max_train_steps):
        batch = run.train_batch(step)
        with torch.no_grad():
            cost_B = -run.models.scoring_rater.score(*batch)
        price = max(0.5 * spread, PRICE_FLOOR)
        score_B = networks["during"].score(*batch)
        _descend(learners["during"], instance_objective(score_B, cost_B, price=price, drift_price=DRIFT_PRICE))
        spread = 0.98 * spread + 0.02 * cost_B.std().item()
        run.step(step)
    target_N = torch.from_numpy(run.scores())
    target_N = (target_N - target_N.mean()) / target_N.std()
    for step in range(run.config.max_train_steps):
        index_B = run.train_index(step)
        score_B = networks["after"].score(*run.data.rows(index_B))
        _descend(learners["after"], (score_B - target_N[index_B - run.n_validation]).square().mean())
    return {f"learnability taught to a network {name} training": run.scores(net) for name, net in networks.items()}


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


class Run:
    """One training of proxies and rater in memory."""

    def __init__(self, study: Study, seed: int, changed: dict[str, Any]) -> None:
        self.config, self.seed = RaterTrainingConfig.model_validate({"seed": seed, **changed}), seed
        config, encoder = self.config, load_text_encoder(self.config.text_encoder, "cpu")
        tokenizer = fit_tokenizer(study.train.image_NHWC, config.tokenizer_config, seed)
        images = np.concatenate([study.validation.image_NHWC, study.train.image_NHWC])
        both = Samples(images, [*study.validation.captions, *study.train.captions])
        self.data, self.n_validation = encode_samples(both, tokenizer, encoder), len(study.validation)
        self.sizes = config.proxy(tokenizer.config, encoder.dim), config.rater(tokenizer.config, encoder.dim)
        self.models = make_models(config, Accelerator(cpu=True), self.sizes)

    def warm_up(self) -> None:
        """Train the proxy alone."""
        for step in range(self.config.proxy_warmup_steps):
            self.models.warmup_step([self.data.rows(self._train_index(step))])
        self.models.end_warmup()

    def train(self, *, unroll: int | None = None) -> "Run":
        """Warm up, then step both levels; with `unroll`, θ̂ begins as θ again every so many steps."""
        self.warm_up()
        for step in range(self.config.max_train_steps):
            if unroll is not None and step % unroll == 0:
                self.models.reference.load_state_dict(self.models.proxy.state_dict())
            self.step(step)
        return self

    def step(self, step: int) -> None:
        """Step once, the warm-up's steps not counted."""
        index_B = torch.cat([self._validation_index(step), self.train_index(step)])
        self.models.step([self.data.rows(index_B)], self.config.batch_size)

    def train_index(self, step: int) -> Tensor:
        """Return the positions of a step's training samples in the table, after the warm-up."""
        return self._train_index(self.config.proxy_warmup_steps + step)

    def train_batch(self, step: int) -> Batch:
        """Return the same samples."""
        return self.data.rows(self.train_index(step))

    def validation_batches(self, n_batches: int) -> Iterator[Batch]:
        """Give validation batches in training's order."""
        return (self.data.rows(self._validation_index(step)) for step in range(n_batches))

    @torch.no_grad()
    def losses(self, model: nn.Module) -> np.ndarray:
        """Return every training sample's loss."""
        return torch.cat([model(*batch) for batch in self._all()]).numpy()

    @torch.no_grad()
    def scores(self, rater: SampleRater | None = None) -> np.ndarray:
        """Return every training sample's score, by the run's rater or another."""
        rater = rater or self.models.scoring_rater
        return torch.cat([rater.score(*batch) for batch in self._all()]).numpy()

    def _all(self) -> Iterator[Batch]:
        return (self.data.rows(index_B) for index_B in torch.arange(self.n_validation, len(self.data)).split(512))

    def _validation_index(self, step: int) -> Tensor:
        return batch_index(self.n_validation, step, batch_size=self.config.batch_size, seed=self.seed + 1)

    def _train_index(self, step: int) -> Tensor:
        n_train = len(self.data) - self.n_validation
        return self.n_validation + batch_index(n_train, step, batch_size=self.config.batch_size, seed=self.seed)


if __name__ == "__main__":
    main()
