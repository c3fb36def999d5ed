import numpy as np
import pytest
import torch

from alchemist_core.errors import DataError
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.selection.weights import reads_of_epoch
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.samples import EpochReads, Samples, WeightedSamples, batch_index


def read_order(n_samples: int, n_steps: int, *, batch_size: int, seed: int) -> list[int]:
    return torch.cat([batch_index(n_samples, s, batch_size=batch_size, seed=seed) for s in range(n_steps)]).tolist()


def test_every_epoch_meets_every_sample_once() -> None:
    order = read_order(10, 15, batch_size=4, seed=0)
    assert [sorted(order[start : start + 10]) for start in range(0, 60, 10)] == [list(range(10))] * 6


def test_epochs_differ_and_seeds_differ() -> None:
    order = read_order(50, 4, batch_size=25, seed=0)
    assert order[:50] != order[50:]
    assert order != read_order(50, 4, batch_size=25, seed=1)


def test_a_step_s_batch_does_not_depend_on_the_steps_before() -> None:
    assert batch_index(7, 1000, batch_size=20, seed=3).tolist() == batch_index(7, 1000, batch_size=20, seed=3).tolist()


def test_an_epoch_s_order_is_drawn_once_however_many_steps_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # For 30 million samples it takes seconds, which a training step must not cost.
    drawn, draw = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **given: drawn.append(n) or draw(n, **given))
    for step in range(20):
        batch_index(1003, step, batch_size=100, seed=90)
        batch_index(1005, step, batch_size=100, seed=91)
    assert sorted(drawn) == [1003, 1003, 1005, 1005]


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    assert set(batch_index(3, 0, batch_size=8, seed=0).tolist()) == {0, 1, 2}


def test_a_caption_for_each_image_or_none_at_all() -> None:
    with pytest.raises(DataError, match="2 images but 1 captions"):
        Samples(np.zeros((2, 16, 16, 3), np.uint8), ["one"])


def test_encoding_all_at_once_or_some_gives_the_same(validation_pairs: Samples) -> None:
    tokenizer = fit_tokenizer(validation_pairs.image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=0)
    index_B = np.array([5, 150, 7])
    some = encode_samples(validation_pairs.rows(index_B), tokenizer, WordVectors()).rows(torch.arange(3))
    every = encode_samples(validation_pairs, tokenizer, WordVectors()).rows(torch.from_numpy(index_B))
    assert torch.equal(some.tokens.code_BS, every.tokens.code_BS)
    assert torch.equal(some.text.pooled_BD, every.text.pooled_BD)


def test_weighted_samples_are_read_as_often_as_their_weights_say_in_each_epoch() -> None:
    weight_N = np.array([0.25, 2.0, 1.5, 0.25, 1.0, 3.0])
    plain = Samples(np.zeros((6, 2, 2, 3), np.uint8), list("abcdef"))
    reads = EpochReads(WeightedSamples(plain, weight_N), seed=4)
    assert reads.n_reads == 8
    index = torch.cat([reads.batch(step, batch_size=5) for step in range(8 * 5)])
    for epoch, part in enumerate(index.split(8)):
        wanted = reads_of_epoch(weight_N, np.arange(6), seed=4, epoch=epoch)
        assert np.bincount(part.numpy(), minlength=6).tolist() == wanted.tolist()
    # A step depends only on its number, so a resumed run reads the same.
    assert (
        EpochReads(WeightedSamples(plain, weight_N), seed=4).batch(17, batch_size=5).tolist() == index[85:90].tolist()
    )
    assert len({tuple(part.tolist()) for part in index.split(8)}) > 20


def test_samples_without_weights_are_read_as_before() -> None:
    plain = Samples(np.zeros((6, 2, 2, 3), np.uint8), list("abcdef"))
    for samples in (plain, WeightedSamples(plain, None)):
        assert EpochReads(samples, seed=4).n_reads == 6
        for step in (0, 1, 9):
            found = EpochReads(samples, seed=4).batch(step, batch_size=4)
            assert found.tolist() == batch_index(6, step, batch_size=4, seed=4).tolist()
