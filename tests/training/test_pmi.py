"""Scoring rule `pmi`: one proxy under several captions, the same captions for every sample, so that its neighbours do not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alchemist_core.errors import DataError
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.rating.config import ScoringRule
from alchemist_core.training.acceptance_report import Training, certify
from alchemist_core.training.bilevel import make_scoring_rater
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.learnability import Learnability, Pmi
from alchemist_core.training.pmi import PmiRater, choose_captions
from alchemist_core.training.rater_training import make_models, train_rater
from alchemist_core.training.samples import Batch, Samples
from alchemist_core.training.scoring import Scorer
from tests.oracles import oracle_rating as oracle
from tests.training.progress import ignore
from tests.training.test_bilevel import TEXT_DIM, TOKENIZER, draw_batch
from tests.training.test_rater_training import CONFIG as BILEVEL
from tests.training.test_rater_training import kill_twice

CONFIG = BILEVEL.model_copy(update={"rule": ScoringRule.PMI, "proxy_warmup_steps": 60, "max_train_steps": 120})
SMALL = RaterTrainingConfig(batch_size=8, proxy_width=16, rule=ScoringRule.PMI, pmi_captions=3)
SIZE = SMALL.proxy(TOKENIZER, TEXT_DIM)


@pytest.fixture(scope="module")
def star() -> Star:
    torch.manual_seed(0)
    star = Star(SIZE).eval()
    with torch.no_grad():
        # As printed, all codes are about equally likely at first, under every caption.
        star.head.weight *= 50
    return star


def captions(n: int, seed: int) -> TextFeatures:
    return draw_batch(n, seed).text


@torch.inference_mode()
def test_a_score_is_computed_from_the_losses_under_its_captions(star: Star) -> None:
    batch, others = draw_batch(4, 1), captions(3, 2)
    # The last sample has the second of the other captions.
    text = batch.text.between(0, 3).joined(others.between(1, 2))
    found = PmiRater(star, others).score(batch.tokens, text).tolist()
    for place in range(4):
        image = batch.between(place, place + 1).tokens
        own = "1" if place == 3 else "own"
        losses = {own: star(image, text.between(place, place + 1)).item()}
        losses |= {str(k): star(image, others.between(k, k + 1)).item() for k in range(3)}
        assert found[place] == pytest.approx(oracle.pmi(own, losses, ["0", "1", "2"]), abs=1e-5)
    assert np.ptp(found) > 0.01, "a proxy that ignores captions would pass"


@torch.inference_mode()
def test_a_score_has_the_same_bits_whatever_is_beside_it(star: Star) -> None:
    rater, batch, other = PmiRater(star, captions(3, 2)), draw_batch(8, 1), draw_batch(8, 5)
    score_B = rater.score(*batch)
    for place in range(8):
        index = torch.arange(8).roll(place)
        moved = Batch(batch.tokens.rows(index), batch.text.rows(index))
        assert torch.equal(rater.score(*moved), score_B[index])
    mixed = [
        torch.cat([getattr(batch.text, name)[:4], getattr(other.text, name)[4:]])
        for name in ("token_BTD", "mask_BT", "pooled_BD")
    ]
    tokens = [
        torch.cat([getattr(batch.tokens, name)[:4], getattr(other.tokens, name)[4:]])
        for name in ("code_BS", "input_BSD")
    ]
    beside_B = rater.score(type(batch.tokens)(*tokens), TextFeatures(*mixed))
    assert torch.equal(beside_B[:4], score_B[:4])
    assert not torch.equal(beside_B[4:], score_B[4:])


def test_captions_are_a_part_of_the_weights_however_many_and_long_they_are(star: Star) -> None:
    rater, batch = PmiRater(star, captions(5, 2)), draw_batch(4, 1)
    loaded = make_scoring_rater(SMALL, SIZE).eval()
    loaded.load_state_dict(rater.state_dict())
    with torch.inference_mode():
        assert torch.equal(loaded.score(*batch), rater.score(*batch))
    assert loaded.state_dict().keys() == rater.state_dict().keys()


def test_chosen_captions_are_the_first_different_ones_without_common_padding() -> None:
    text = captions(4, 3).rows(torch.tensor([2, 2, 0, 2, 1, 3])).padded(9)
    noisy = TextFeatures(text.token_BTD, text.mask_BT, text.pooled_BD * (1 + 1e-6 * torch.arange(6)[:, None]))
    found = choose_captions(noisy, 3)
    assert torch.equal(found.token_BTD, text.token_BTD[[0, 2, 4], :3])
    assert found.mask_BT.all()
    assert len(choose_captions(noisy, 9).mask_BT) == 4
    with pytest.raises(DataError, match="have only one"):
        choose_captions(text.rows(torch.zeros(5, dtype=torch.long)), 3)


def test_its_proxy_is_that_of_learnability() -> None:
    models: list[Learnability] = []
    for rule in (ScoringRule.PMI, ScoringRule.LEARNABILITY):
        made = make_models(SMALL.model_copy(update={"rule": rule}), make_accelerator(), (SIZE, SIZE))
        assert isinstance(made, Learnability)
        made.warmup_step([draw_batch(8, 0)])
        made.end_warmup()
        made.step([draw_batch(16, 10)], 8)
        models.append(made)
    pmi, learnability = models
    assert isinstance(pmi, Pmi)
    assert not isinstance(learnability, Pmi)
    pmi.compare_with(captions(3, 2))
    expected = learnability.unwrapped("proxy").state_dict()
    found = pmi.scoring_rater.state_dict()
    assert all(torch.equal(weight, found[f"proxy.{name}"]) for name, weight in expected.items())
    assert torch.equal(found["token_KTD"], captions(3, 2).token_BTD)


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory, train_pairs: Samples, validation_pairs: Samples) -> Path:
    out = tmp_path_factory.mktemp("raters") / "rater"
    train_rater(CONFIG, train_pairs, validation_pairs, out=out, on_progress=ignore)
    return out


@pytest.mark.slow
def test_a_trained_rater_compares_with_captions_of_the_validation_samples(
    rater: Path, validation_pairs: Samples, heldout_pairs: Samples
) -> None:
    encoder, tokenizer = load_text_encoder(CONFIG.text_encoder, "cpu"), Tokenizer.load(rater / "tokenizer.safetensors")
    state = load_file(rater / "rater.safetensors")
    known = {encoder.encode([caption]).pooled_BD.numpy().tobytes(): caption for caption in validation_pairs.captions}
    others = [known[row.numpy().tobytes()] for row in state["pooled_KD"]]
    assert len(set(others)) == CONFIG.pmi_captions
    star = Star(CONFIG.proxy(tokenizer.config, encoder.dim)).eval()
    star.load_state_dict(load_file(rater / "proxy.safetensors"))
    data = encode_samples(heldout_pairs, tokenizer, encoder).rows(torch.arange(len(heldout_pairs)))
    with torch.inference_mode():
        losses = {caption: star(data.tokens, encoder.encode([caption] * data.n_samples)).tolist() for caption in others}
        own = star(*data).tolist()
    expected = [
        oracle.pmi(caption, {**{name: losses[name][at] for name in others}, caption: own[at]}, others)
        for at, caption in enumerate(heldout_pairs.captions)
    ]
    score_N = Scorer.load(rater).score(heldout_pairs.image_NHWC, heldout_pairs.captions)
    np.testing.assert_allclose(score_N, expected, atol=1e-5)


@pytest.mark.slow
def test_it_is_certified_by_the_same_checks_and_tells_wrong_captions(rater: Path, heldout_pairs: Samples) -> None:
    metrics = json.loads((rater / "metrics.json").read_text("utf-8"))
    examined = certify(Scorer.load(rater), heldout_pairs, Training(metrics, CONFIG.rule, CONFIG.group_size))
    checks = {check.name: check for check in examined}
    assert checks.keys() & {"effective_sample_size", "entropy"} == set()
    assert checks["batch_invariance"].value == checks["corruption_isolation"].value == 0
    assert checks["caption_sensitivity"].value is not None
    assert checks["caption_sensitivity"].value > 0.6


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_weights(
    rater: Path, tmp_path: Path, train_pairs: Samples, validation_pairs: Samples
) -> None:
    out = tmp_path / "rater"
    kill_twice(CONFIG, train_pairs, validation_pairs, out=out)
    train_rater(CONFIG, train_pairs, validation_pairs, out=out, on_progress=ignore)
    whole, resumed = load_file(rater / "rater.safetensors"), load_file(out / "rater.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
