"""The field's methods against slow twins that were written from the papers, and against cases whose answer is known."""

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import first_rater, parse_arm
from alchemist_core.experiments.method_scores import MethodConfig
from alchemist_core.experiments.methods import (
    METHODS,
    PairHead,
    draw_jointly,
    dsir_score,
    fit_pair_head,
    halves,
    jest_score,
    joint_learnability,
    rho_batch_score,
    semdedup_score,
)
from alchemist_core.models.density import fit_density, fit_logistic, principal_directions


def unit(vector_ND: np.ndarray) -> np.ndarray:
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def kept_by_semdedup(unit_ND: np.ndarray, cluster_N: np.ndarray, centroid_KD: np.ndarray, epsilon: float) -> set[int]:
    """Algorithm A7 with loops: within a cluster, from far to near, keep a sample unless one before it is within epsilon."""
    kept = set()
    for cluster in set(cluster_N.tolist()):
        members = [at for at in range(len(unit_ND)) if cluster_N[at] == cluster]
        members.sort(key=lambda at: float(unit_ND[at] @ centroid_KD[cluster]))
        for place, at in enumerate(members):
            largest = max((float(unit_ND[at] @ unit_ND[other]) for other in members[:place]), default=-math.inf)
            if largest <= 1 - epsilon:
                kept.add(at)
    return kept


@pytest.mark.parametrize("epsilon", [0.02, 0.2, 0.6])
def test_the_best_scores_of_semdedup_are_what_its_algorithm_keeps(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    near = np.repeat(rng.normal(size=(20, 6)), 4, axis=0) + rng.normal(size=(80, 6)) * 0.2
    unit_ND, centroid_KD = unit(near), unit(rng.normal(size=(5, 6)))
    cluster_N = (unit_ND @ centroid_KD.T).argmax(axis=1)
    kept = kept_by_semdedup(unit_ND, cluster_N, centroid_KD, epsilon)
    score_N = semdedup_score(unit_ND, cluster_N, centroid_KD)
    assert 5 <= len(kept) < 80
    assert set(np.argsort(-score_N, kind="stable")[: len(kept)].tolist()) == kept


def test_copies_of_one_image_are_the_first_to_go() -> None:
    rng = np.random.default_rng(1)
    unit_ND = unit(np.concatenate([rng.normal(size=(30, 8)), np.ones((10, 8))]))
    score_N = semdedup_score(unit_ND, np.zeros(40, np.int64), unit(np.ones((1, 8))))
    assert set(np.argsort(score_N)[:9].tolist()) < set(range(30, 40))


def test_newtons_method_reaches_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(2)
    feature_ND, weight_N = rng.normal(size=(200, 3)), rng.uniform(0.5, 2, 200)
    is_positive_N = feature_ND[:, 0] + rng.normal(size=200) > 0.3
    sign_N = np.where(is_positive_N, 1.0, -1.0)

    def loss(coefficient_D: np.ndarray) -> float:
        margin_N = sign_N * (feature_ND @ coefficient_D[:-1] + coefficient_D[-1])
        return float((weight_N * np.log1p(np.exp(-margin_N))).sum() + 0.7 / 2 * (coefficient_D[:-1] ** 2).sum())

    found = fit_logistic(feature_ND, is_positive_N, weight_N, penalty=0.7)
    assert np.allclose(found, minimize(loss, np.zeros(4), tol=1e-12).x, atol=1e-4)


def test_the_density_ratio_of_two_normal_distributions_is_linear_with_the_known_slope() -> None:
    rng = np.random.default_rng(3)
    corpus = rng.normal(size=(20_000, 1)).astype(np.float32)
    validation = rng.normal(1.0, 1.0, size=(20_000, 1)).astype(np.float32)
    score_N = fit_density(corpus, validation, penalty=1e-6).score(corpus)
    slope, offset = np.polyfit(corpus[:, 0], score_N, 1)
    # log N(x; 1, 1) / N(x; 0, 1) = x − 1/2, whatever the sizes.
    assert (slope, offset) == pytest.approx((1.0, -0.5), abs=0.05)
    few = fit_density(corpus, validation[:1000], penalty=1e-6).score(corpus)
    assert np.polyfit(corpus[:, 0], few, 1)[1] == pytest.approx(-0.5, abs=0.1)


def test_principal_components_have_variance_1_and_no_correlation() -> None:
    rng = np.random.default_rng(4)
    vector_ND = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 6))
    mean_D, direction_DK = principal_directions(vector_ND, 10)
    component_ND = (vector_ND - mean_D) @ direction_DK
    assert component_ND.shape == (500, 4)
    assert np.allclose(component_ND.T @ component_ND / 500, np.eye(4), atol=1e-8)


def weight_by_hand(caption: str, captions: list[str], validation: list[str]) -> float:
    """Each word and pair of words on its own, without buckets: 10,000 possible ones, one more of each."""

    def grams(text: str) -> list[str]:
        words = text.split()
        return words + [f"{one} {other}" for one, other in pairwise(words)]

    def log_p(gram: str, texts: list[str]) -> float:
        counts = Counter(found for text in texts for found in grams(text))
        return math.log((counts[gram] + 1) / (sum(counts.values()) + 10_000))

    return sum(log_p(gram, validation) - log_p(gram, captions) for gram in grams(caption))


def test_importance_weights_are_those_of_bags_of_words_and_pairs_of_words() -> None:
    captions = ["a red cat", "a red dog", "a blue dog on a mat", "nothing here"]
    validation = ["a red cat", "the red cat sleeps", "a cat"]
    expected = [weight_by_hand(caption, captions, validation) for caption in captions]
    assert dsir_score(captions, validation, seed=None) == pytest.approx(expected)
    noise = dsir_score(captions, validation, seed=5) - dsir_score(captions, validation, seed=None)
    assert len(set(np.round(noise, 9))) == 4
    assert (dsir_score(captions, validation, seed=5) == dsir_score(captions, validation, seed=5)).all()


def test_gumbel_noise_draws_captions_by_their_importance_weights() -> None:
    captions, validation = ["x", "y"], ["x", "x", "x", "y"]
    weight = np.exp(dsir_score(captions, validation, seed=None))
    drawn = [int(dsir_score(captions, validation, seed=seed).argmax()) for seed in range(500)]
    assert np.mean(drawn) == pytest.approx(weight[1] / weight.sum(), abs=0.07)


def test_each_random_batch_gives_the_same_share_of_its_best_samples() -> None:
    rng = np.random.default_rng(6)
    score_N = rng.normal(size=96)
    found = rho_batch_score(score_N, batch_size=32, seed=9)
    kept = set(np.argsort(-found, kind="stable")[:24].tolist())
    order = np.random.default_rng(9).permutation(96)
    expected = set()
    for batch in order.reshape(3, 32):
        expected |= set(sorted(batch.tolist(), key=lambda at: -score_N[at])[:8])
    assert kept == expected
    # One batch of everything is the ranking itself.
    assert (np.argsort(-rho_batch_score(score_N, batch_size=96, seed=1)) == np.argsort(-score_N)).all()


def batch_learnability(learnability_BB: np.ndarray, batch: list[int]) -> float:
    """The learnability of a batch: every image with every caption, one pair at a time."""
    return sum(float(learnability_BB[image, caption]) for image in batch for caption in batch)


def test_a_sample_brings_to_a_batch_what_its_learnability_grows_by() -> None:
    learnability_BB = np.random.default_rng(0).normal(size=(6, 6))
    for drawn in ([], [2], [4, 0, 5]):
        found = joint_learnability(learnability_BB, np.isin(np.arange(6), drawn))
        for sample in range(6):
            before = batch_learnability(learnability_BB, drawn)
            grown = batch_learnability(learnability_BB, [*drawn, sample]) - before
            assert found[sample] == (-np.inf if sample in drawn else pytest.approx(grown))


def test_jest_draws_the_first_sample_by_the_softmax_and_later_ones_given_those_before() -> None:
    learnability_BB = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 2.0, 0.0]])
    drawn = [draw_jointly(learnability_BB, 1, np.random.default_rng(seed)).tolist() for seed in range(600)]
    assert all(sorted(order) == [0, 1, 2] for order in drawn)
    first = np.bincount([order[0] for order in drawn], minlength=3) / 600
    assert first == pytest.approx(np.exp([1, 0, 0]) / np.exp([1, 0, 0]).sum(), abs=0.06)
    # After sample 1, sample 2 brings 0 + 3 + 2, and sample 0 only 1.
    after = [order[1] for order in drawn if order[0] == 1]
    assert np.mean(np.array(after) == 2) == pytest.approx(1 / (1 + math.exp(1 - 5)), abs=0.06)
    # In one chunk of all of them, no sample is given another one.
    assert sorted(draw_jointly(learnability_BB, 3, np.random.default_rng(0)).tolist()) == [0, 1, 2]


def test_the_losses_of_pairs_are_those_of_a_sigmoid() -> None:
    rng = np.random.default_rng(1)
    head = PairHead(unit(rng.normal(size=(5, 3))), unit(rng.normal(size=(5, 3))), 4.0, -1.5)
    place = np.array([3, 1, 4])
    found = head.losses(place)
    for row, image in enumerate(place):
        for column, caption in enumerate(place):
            logit = 4 * float(head.image_ND[image] @ head.text_ND[caption]) - 1.5
            matches = 1 / (1 + math.exp(-logit))
            assert found[row, column] == pytest.approx(
                -math.log(matches if image == caption else 1 - matches), rel=1e-5
            )


def test_slope_and_offset_of_a_head_are_those_of_the_probability_of_a_match_in_a_batch() -> None:
    rng = np.random.default_rng(2)
    cosine_MM = rng.normal(0.0, 0.2, size=(300, 300))
    cosine_MM[np.diag_indices(300)] += 0.4
    slope, offset = fit_pair_head(cosine_MM, batch_size=100, penalty=1e-9)
    # Two normal distributions: log odds 0.4 / 0.2² (x − 0.2), and 99 captions for each match.
    assert slope == pytest.approx(10.0, rel=0.15)
    assert offset == pytest.approx(-2.0 - math.log(99), abs=0.6)


def test_the_best_scores_of_jest_are_the_first_share_of_every_batch_and_prefer_what_only_the_reference_knows() -> None:
    rng = np.random.default_rng(3)
    known = unit(rng.normal(size=(96, 8)))
    other = unit(rng.normal(size=(96, 8)))
    is_good = np.arange(96) % 2 == 0
    # The reference matches the good half; to the learner all captions are alike.
    reference = PairHead(known, np.where(is_good[:, None], known, other), 12.0, -6.0)
    learner = PairHead(known, other, 0.0, -math.log(31))
    score_N = jest_score(learner, reference, batch_size=32, chunk=4, seed=9)
    kept = np.argsort(-score_N, kind="stable")[:24]
    # The batches of the seed: a quarter of each.
    order = np.random.default_rng(9).permutation(96)
    assert [np.isin(batch, kept).sum() for batch in order.reshape(3, 32)] == [8, 8, 8]
    assert is_good[kept].mean() > 0.9
    assert (jest_score(learner, reference, batch_size=32, chunk=4, seed=9) == score_N).all()


def test_methods_are_arms_alone_and_fused_with_a_rater() -> None:
    for name in METHODS:
        assert parse_arm(f"{name}/top_k", retention=0.2).scores == (name,)
    arm = parse_arm("learnability+trained_critic/head_gsample", retention=0.2, first_rater="loss")
    assert (arm.rater, arm.scores) == ("learnability", ("trained_critic",))
    assert arm.policy == {"strategy": "head_gsample", "rank_by": "rater+trained_critic"}
    assert first_rater(["random", "learnability+semdedup/top_k", "loss/paper"], "alignment") == "learnability"


def test_an_arm_carries_options_of_the_selection() -> None:
    assert parse_arm("learnability/top_k;accept=auto", retention=0.5).policy == {"strategy": "top_k", "accept": "auto"}
    assert parse_arm("alignment/auto;std_rank=0.1", retention=0.5).policy == {"strategy": "auto", "std_rank": "0.1"}


def test_auto_means_the_fitted_window_with_and_without_further_options() -> None:
    arms = {
        word: parse_arm(word, retention=0.5)
        for word in ("alignment/auto", "alignment/auto;variety=0.5", "random", "loss/top_k")
    }
    assert [arm.is_auto for arm in arms.values()] == [True, True, False, False]
    window = {"strategy": "shift_gsample", "mean_rank": 0.4}
    assert arms["alignment/auto"].resolve(window) == window
    assert arms["alignment/auto;variety=0.5"].resolve(window) == {**window, "variety": "0.5"}
    assert arms["loss/top_k"].resolve(window) == {"strategy": "top_k"}
    # An option replaces one value of the window; one that its strategy lacks is left out, and named.
    window = {"strategy": "gsample", "mean_rank": 0.2, "std_rank": 0.1}
    given = parse_arm("loss/auto;mean_rank=0.4;drop_top_ratio=0.1", retention=0.5)
    assert given.resolve(window) == {"strategy": "gsample", "mean_rank": "0.4", "std_rank": 0.1}
    assert given.unused_options(window) == ["drop_top_ratio"]
    assert given.unused_options({"strategy": "random"}) == ["drop_top_ratio", "mean_rank"]
    for word in ("oracle;seed=1", "random;seed"):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            parse_arm(word, retention=0.5)


def test_equal_images_are_in_one_half_of_the_corpus_and_the_halves_are_about_equal() -> None:
    hashes = [bytes(row) for row in np.random.default_rng(0).integers(0, 256, (1000, 32), np.uint8)]
    is_second_N = halves([*hashes, *hashes[:100]])
    assert (is_second_N[:100] == is_second_N[1000:]).all()
    assert 450 < is_second_N[:1000].sum() < 550


@pytest.mark.slow
def test_a_crossed_critic_scores_no_pair_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from alchemist_core.experiments import method_scores
    from alchemist_core.training import critic_training
    from alchemist_core.training.critic_training import Encoded

    rng = np.random.default_rng(0)

    def draw(n: int, name: str) -> Encoded:
        image_ND, text_NC = (rng.normal(size=(n, dim)).astype(np.float32) for dim in (16, 8))
        return Encoded(image_ND, text_NC, [f"{name} {at}" for at in range(n)])

    corpus, validation, trained_on = draw(120, "corpus"), draw(60, "validation"), list[set[str]]()
    train = critic_training.train_critic

    def watch(samples: Encoded, *others: Any) -> Any:
        trained_on.append(set(samples.captions))
        return train(samples, *others)

    monkeypatch.setattr(critic_training, "train_critic", watch)
    config = MethodConfig(method="crossed_critic", dataset="c", validation="v", rater="r")
    run = SimpleNamespace(report=lambda *_: None)
    score_N = method_scores._crossed_critic(config, run, corpus, validation).score_N
    # Ranks within each half, because the scores of two critics have no common unit.
    is_second_N = halves(method_scores._image_keys(corpus))
    for half_M in (score_N[is_second_N], score_N[~is_second_N]):
        np.testing.assert_allclose(np.sort(half_M), np.arange(1, len(half_M) + 1) / len(half_M), atol=1 / len(half_M))
    first, second = (captions & set(corpus.captions) for captions in trained_on)
    assert len(first) + len(second) == 120
    assert not first & second
    assert all(any(word.startswith("validation") for word in captions) for captions in trained_on)
