import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import DataError
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import Scorer


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory, train_pairs: Samples, validation_pairs: Samples) -> Path:
    config = RaterTrainingConfig(
        proxy_warmup_steps=10, max_train_steps=10, proxy_width=32, rater_width=32, codebook_size=64
    )
    out = tmp_path_factory.mktemp("raters") / "rater"
    train_rater(config, train_pairs, validation_pairs, out=out, on_progress=lambda *_: None)
    return out


@pytest.fixture(scope="module")
def scorer(rater: Path) -> Scorer:
    return Scorer.load(rater)


def score(scorer: Scorer, pairs: Samples) -> np.ndarray:
    return scorer.score(pairs.image_NHWC, pairs.captions)


@pytest.fixture(scope="module", name="together_N")
def score_together(scorer: Scorer, train_pairs: Samples) -> np.ndarray:
    """The scores of all pairs, scored together."""
    return score(scorer, train_pairs)


def test_a_score_is_bit_identical_alone_in_any_order_and_in_any_company(
    scorer: Scorer, train_pairs: Samples, together_N: np.ndarray
) -> None:
    order_N = np.random.default_rng(0).permutation(400)
    np.testing.assert_array_equal(score(scorer, train_pairs.rows(order_N)), together_N[order_N])
    for size in (1, 7, 64):
        np.testing.assert_array_equal(score(scorer, train_pairs.rows(order_N[:size])), together_N[order_N[:size]])


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 255])
def test_another_batch_shape_moves_no_score_by_a_hundred_thousandth_of_the_spread(
    rater: Path, train_pairs: Samples, together_N: np.ndarray, batch: int
) -> None:
    """Kernels depend on the shape: the change is bounded, and two samples farther apart keep their order."""
    some_N = np.random.default_rng(1).permutation(400)[:40]
    some, expected_N = train_pairs.rows(some_N), together_N[some_N]
    loaded = Scorer.load(rater)
    loaded.batch = batch
    found_N = score(loaded, some)
    tolerance = 1e-5 * float(together_N.std())
    np.testing.assert_allclose(found_N, expected_N, rtol=0, atol=tolerance)
    is_apart_NN = expected_N[:, None] - expected_N[None, :] > 2 * tolerance
    assert (found_N[:, None] > found_N[None, :])[is_apart_NN].all()


def test_the_padding_of_a_batch_is_not_encoded(
    scorer: Scorer, train_pairs: Samples, together_N: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, n_encoded = scorer.tokenizer.encode, list[int]()

    def count(image_NHWC: np.ndarray) -> torch.Tensor:
        n_encoded.append(len(image_NHWC))
        return encode(image_NHWC)

    monkeypatch.setattr(scorer.tokenizer, "encode", count)
    np.testing.assert_array_equal(score(scorer, train_pairs.rows(np.arange(3))), together_N[:3])
    assert n_encoded == [3]


def test_threads_that_rate_at_a_time_change_no_bit(
    scorer: Scorer, train_pairs: Samples, together_N: np.ndarray
) -> None:
    parts = [train_pairs.rows(np.arange(start, start + 50)) for start in range(0, 400, 50)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: score(scorer, part), parts))
    np.testing.assert_array_equal(np.concatenate(found), together_N)


def test_an_image_of_noise_beside_a_sample_changes_no_bit_of_its_score(scorer: Scorer, train_pairs: Samples) -> None:
    buffer = scorer.make_buffer()
    captions = train_pairs.captions[:10]
    buffer[:10] = train_pairs.image_NHWC[:10]
    alone = scorer.score_batch(buffer, captions)
    buffer[10:] = np.random.default_rng(0).integers(0, 256, buffer[10:].shape, np.uint8)
    np.testing.assert_array_equal(scorer.score_batch(buffer, captions), alone)


def test_a_score_is_fp32_one_a_sample_and_varied(together_N: np.ndarray) -> None:
    assert together_N.dtype == np.float32
    assert together_N.shape == (400,)
    assert together_N.std() > 1e-4


def test_the_caption_changes_the_score_of_its_sample_alone(
    scorer: Scorer, train_pairs: Samples, together_N: np.ndarray
) -> None:
    captions = list(train_pairs.captions)
    captions[3] = "a purple moon"
    changed_N = score(scorer, Samples(train_pairs.image_NHWC, captions)) != together_N
    assert np.flatnonzero(changed_N).tolist() == [3]


def test_a_loaded_rater_scores_as_another_loaded_one(rater: Path, train_pairs: Samples, together_N: np.ndarray) -> None:
    np.testing.assert_array_equal(score(Scorer.load(rater), train_pairs), together_N)


def test_nothing_to_score_gives_nothing(scorer: Scorer, train_pairs: Samples) -> None:
    assert score(scorer, train_pairs.rows(np.arange(0))).shape == (0,)


def test_images_without_captions_are_refused(scorer: Scorer, train_pairs: Samples) -> None:
    with pytest.raises(DataError, match="400 images but 1 captions"):
        scorer.score(train_pairs.image_NHWC, ["alone"])


def test_images_are_asked_for_at_the_side_that_is_read(scorer: Scorer) -> None:
    assert scorer.image_side == 16


def test_scoring_leaves_torch_s_random_state_alone(scorer: Scorer, train_pairs: Samples) -> None:
    before = torch.get_rng_state()
    score(scorer, train_pairs)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rater_without_a_decode_version_reads_images_as_before(rater: Path, tmp_path: Path) -> None:
    assert "decode_version" not in json.loads((rater / "config.json").read_text())
    folder = shutil.copytree(rater, tmp_path / "rater")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decode_version": 2}))
    assert [Scorer.load(path).decode_version for path in (rater, folder)] == [1, 2]


def test_a_rater_scores_in_the_batch_size_of_its_config_whose_default_is_in_no_hash(
    rater: Path, train_pairs: Samples, tmp_path: Path
) -> None:
    assert "score_batch_size" not in RaterTrainingConfig().as_json()
    folder = shutil.copytree(rater, tmp_path / "rater")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"score_batch_size": 16}))
    small, usual = Scorer.load(folder), Scorer.load(rater)
    assert (small.batch, usual.batch) == (16, 256)
    some = train_pairs.rows(np.arange(20))
    scores = [scorer.score(some.image_NHWC, some.captions) for scorer in (small, usual)]
    assert np.allclose(*scores, atol=1e-4)
