"""Scoring rule `learnability`: what validation data taught the warmed-up proxy, step by step and as a finished rater."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alchemist_core.experiments.arms import RATERS
from alchemist_core.models.star import Star
from alchemist_core.models.text import load_text_encoder
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer
from alchemist_core.rating.config import ScoringRule
from alchemist_core.statistics import area_under_curve
from alchemist_core.training.acceptance_report import Training, certify
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.learnability import Learnability
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Batch, Samples
from alchemist_core.training.scoring import Scorer
from tests.training.progress import ignore
from tests.training.test_bilevel import TEXT_DIM, TOKENIZER, draw_batch
from tests.training.test_rater_training import CONFIG as BILEVEL
from tests.training.test_rater_training import kill_twice

CONFIG = BILEVEL.model_copy(update={"rule": ScoringRule.LEARNABILITY, "proxy_warmup_steps": 60, "max_train_steps": 120})
SMALL = RaterTrainingConfig(batch_size=8, proxy_width=16, rule=ScoringRule.LEARNABILITY)


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory, train_pairs: Samples, validation_pairs: Samples) -> Path:
    out = tmp_path_factory.mktemp("raters") / "rater"
    train_rater(CONFIG, train_pairs, validation_pairs, out=out, on_progress=ignore)
    return out


def warmed_up() -> Learnability:
    size = SMALL.proxy(TOKENIZER, TEXT_DIM)
    learnability = Learnability(SMALL, make_accelerator(), (size, size))
    for seed in range(2):
        learnability.warmup_step([draw_batch(8, seed)])
    learnability.end_warmup()
    return learnability


def test_two_steps_on_validation_data_go_where_they_point_and_not_where_the_warm_up_went() -> None:
    size = SMALL.proxy(TOKENIZER, TEXT_DIM)
    assert RATERS["two_steps"]["reset_moments"]
    moved = []
    for n_before in (0, 3):
        config = SMALL.model_copy(update={"reset_moments": True, "proxy_learning_rate": 1e-9 if n_before else 1e-4})
        learnability = Learnability(config, make_accelerator(), (size, size))
        for seed in range(n_before):
            learnability.warmup_step([draw_batch(8, seed)])
        learnability.end_warmup()
        for group in learnability.optimizers["proxy"].param_groups:
            group["lr"] = 1e-4
        before = weights(learnability, "proxy")
        learnability.step([joined(draw_batch(8, 7), draw_batch(8, 8))], 8)
        moved.append(weights(learnability, "proxy") - before)
    torch.testing.assert_close(moved[0], moved[1], atol=2e-6, rtol=0)


def joined(first: Batch, last: Batch) -> Batch:
    code_BS = torch.cat([first.tokens.code_BS, last.tokens.code_BS])
    tokens = ImageTokens(code_BS, torch.cat([first.tokens.input_BSD, last.tokens.input_BSD]))
    return Batch(tokens, first.text.joined(last.text))


def weights(learnability: Learnability, name: str) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in learnability.unwrapped(name).state_dict().values()]).clone()


def test_before_the_first_step_no_sample_scores_more_than_another() -> None:
    learnability = warmed_up()
    assert learnability.scoring_rater.score(*draw_batch(16, 9)).abs().max() == 0
    assert learnability.step([draw_batch(16, 10)], 8).cost_spread == 0


def test_the_reference_stays_where_the_warm_up_ended() -> None:
    learnability = warmed_up()
    before = weights(learnability, "reference")
    for seed in range(3):
        learnability.step([draw_batch(16, 10 + seed)], 8)
    assert torch.equal(weights(learnability, "reference"), before)
    assert not torch.equal(weights(learnability, "proxy"), before)


def test_training_samples_teach_nothing_after_the_warm_up() -> None:
    one, other = warmed_up(), warmed_up()
    validation = draw_batch(8, 10)
    found = one.step([joined(validation, draw_batch(8, 11))], 8)
    assert other.step([joined(validation, draw_batch(8, 12))], 8).train_loss != found.train_loss
    assert torch.equal(weights(one, "proxy"), weights(other, "proxy"))


def test_a_batch_in_parts_takes_the_step_of_the_whole_batch() -> None:
    whole, parts = warmed_up(), warmed_up()
    batch = draw_batch(16, 10)
    halves = [joined(batch.between(at, at + 4), batch.between(at + 8, at + 12)) for at in (0, 4)]
    found, expected = parts.step(halves, 4), whole.step([batch], 8)
    assert [getattr(found, name) for name in found.__slots__] == pytest.approx(
        [getattr(expected, name) for name in expected.__slots__], abs=1e-5
    )
    torch.testing.assert_close(weights(parts, "proxy"), weights(whole, "proxy"))


@pytest.mark.slow
def test_the_rater_prefers_what_validation_data_teaches(rater: Path, train_pairs: Samples) -> None:
    score_N = Scorer.load(rater).score(train_pairs.image_NHWC, train_pairs.captions)
    assert area_under_curve(score_N[:200], score_N[200:]) > 0.95


@pytest.mark.slow
def test_a_score_is_the_difference_of_both_proxies_losses(rater: Path, heldout_pairs: Samples) -> None:
    encoder, tokenizer = load_text_encoder(CONFIG.text_encoder, "cpu"), Tokenizer.load(rater / "tokenizer.safetensors")
    data = encode_samples(heldout_pairs, tokenizer, encoder).rows(torch.arange(len(heldout_pairs)))
    state, losses = load_file(rater / "rater.safetensors"), {}
    for name in ("before", "after"):
        star = Star(CONFIG.proxy(tokenizer.config, encoder.dim)).eval()
        own = {key.removeprefix(f"{name}."): weight for key, weight in state.items() if key.startswith(f"{name}.")}
        star.load_state_dict(own)
        with torch.inference_mode():
            losses[name] = star(*data).numpy()
    score_N = Scorer.load(rater).score(heldout_pairs.image_NHWC, heldout_pairs.captions)
    np.testing.assert_allclose(score_N, losses["before"] - losses["after"], atol=1e-5)
    proxy = load_file(rater / "proxy.safetensors")
    assert all(torch.equal(weight, state[f"after.{name}"]) for name, weight in proxy.items())


@pytest.mark.slow
def test_it_is_certified_without_weights_that_it_does_not_have(rater: Path, heldout_pairs: Samples) -> None:
    metrics = json.loads((rater / "metrics.json").read_text("utf-8"))
    examined = certify(Scorer.load(rater), heldout_pairs, Training(metrics, CONFIG.rule, CONFIG.group_size))
    checks = {check.name: check for check in examined}
    assert checks.keys() & {"effective_sample_size", "entropy"} == set()
    assert checks["batch_invariance"].value == checks["corruption_isolation"].value == 0
    assert checks["recall_of_plain"].low == 0.7
    assert checks["spearman_score_minus_loss"].high == 0.98


@pytest.mark.slow
def test_the_history_contains_losses_and_no_weights(rater: Path) -> None:
    history = json.loads((rater / "metrics.json").read_text("utf-8"))["history"]
    assert len(history) == CONFIG.max_train_steps
    assert history[0].keys() == {"step", "validation_loss", "train_loss", "reference_loss", "cost_spread"}
    assert history[-1]["cost_spread"] > history[0]["cost_spread"] == 0


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_weights(
    rater: Path, tmp_path: Path, train_pairs: Samples, validation_pairs: Samples
) -> None:
    out = tmp_path / "rater"
    kill_twice(CONFIG, train_pairs, validation_pairs, out=out)
    train_rater(CONFIG, train_pairs, validation_pairs, out=out, on_progress=ignore)
    whole, resumed = load_file(rater / "rater.safetensors"), load_file(out / "rater.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_it_is_sized_as_its_proxies_whatever_a_rater_s_network_would_be() -> None:
    config = RaterTrainingConfig(rule=ScoringRule.LEARNABILITY, proxy_width=32, rater_width=64)
    assert config.rater(TOKENIZER, TEXT_DIM) == config.proxy(TOKENIZER, TEXT_DIM)
