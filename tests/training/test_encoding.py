import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import DataError
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.text import TextFeatures, WordVectors
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer
from alchemist_core.training import encoding
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.samples import ImagesOf, JoinedSamples, Samples


class CountingTokenizer(Tokenizer):
    """Counts the images that it had to encode."""

    n_encoded = 0

    def encode(self, image_NHWC: np.ndarray) -> torch.Tensor:
        self.n_encoded += len(image_NHWC)
        return super().encode(image_NHWC)


class CountingEncoder:
    """An encoder whose results are cached, and that counts its calls."""

    dim = WordVectors.dim

    def __init__(self) -> None:
        self.n_encoded, self._words = 0, WordVectors()

    def encode(self, captions: list[str]) -> TextFeatures:
        self.n_encoded += len(captions)
        return self._words.encode(captions)


@pytest.fixture
def tokenizer(validation_pairs: Samples) -> CountingTokenizer:
    fitted = fit_tokenizer(validation_pairs.image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=0)
    counting = CountingTokenizer(fitted.config)
    counting.load_state_dict(fitted.state_dict())
    return counting


@pytest.fixture
def pairs(validation_pairs: Samples) -> Samples:
    keys = [hashlib.sha256(image.tobytes()).digest() for image in validation_pairs.image_NHWC]
    return Samples(validation_pairs.image_NHWC, validation_pairs.captions, keys)


def test_frozen_encoders_are_asked_once_a_content(tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    first = encode_samples(pairs.rows(np.arange(150)), tokenizer, encoder, cache=tmp_path)
    n_captions = encoder.n_encoded
    second = encode_samples(pairs, tokenizer, encoder, cache=tmp_path)
    assert tokenizer.n_encoded == len(pairs)
    n_probes = 4
    assert n_captions <= encoder.n_encoded <= n_probes + len(set(pairs.captions))
    plain = encode_samples(pairs, tokenizer, CountingEncoder())
    index_B = torch.tensor([3, 149, 199, 0])
    for found in (second.rows(index_B), plain.rows(index_B)):
        assert torch.equal(found.tokens.code_BS, plain.rows(index_B).tokens.code_BS)
        assert torch.equal(found.text.token_BTD, plain.rows(index_B).text.token_BTD)
        assert torch.equal(found.text.mask_BT, plain.rows(index_B).text.mask_BT)
    assert torch.equal(first.code_NS, second.code_NS[:150])


def test_another_tokenizer_never_gets_these_codes(tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path) -> None:
    encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    other = fit_tokenizer(pairs.image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=1)
    found = encode_samples(pairs, other, WordVectors(), cache=tmp_path)
    assert torch.equal(found.code_NS.long(), other.encode(pairs.image_NHWC))


def test_inputs_that_do_not_fit_are_read_from_codes_at_each_step(
    tokenizer: CountingTokenizer, pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = encode_samples(pairs, tokenizer, WordVectors())
    monkeypatch.setattr(encoding, "_MOST_INPUT_BYTES", 0)
    lean = encode_samples(pairs, tokenizer, WordVectors())
    assert lean.tokens is None
    index_B = torch.tensor([1, 50, 7])
    torch.testing.assert_close(lean.rows(index_B).tokens.input_BSD, kept.rows(index_B).tokens.input_BSD)


def test_captions_whose_features_do_not_fit_are_encoded_at_each_step(
    tokenizer: CountingTokenizer, pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = encode_samples(pairs, tokenizer, WordVectors())
    monkeypatch.setattr(encoding, "_MOST_TEXT_BYTES", 0)
    lean = encode_samples(pairs, tokenizer, WordVectors())
    index_B = torch.tensor([1, 50, 7])
    found, expected = lean.rows(index_B).text, kept.rows(index_B).text
    assert isinstance(lean.captions, encoding.StepCaptions)
    torch.testing.assert_close(found.pooled_BD, expected.pooled_BD)
    assert torch.equal(found.mask_BT.sum(1), expected.mask_BT.sum(1))


class Unreadable(Samples):
    """Samples whose third image cannot be decoded, in the order of some shards."""

    def read(self, index_M: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in reversed(np.array_split(index_M[index_M != 2], 3)):
            if len(part):
                yield part, self.image_NHWC[part]


def test_what_cannot_be_decoded_is_left_out_with_its_caption(tokenizer: CountingTokenizer, pairs: Samples) -> None:
    one, two = pairs.rows(np.arange(10)), pairs.rows(np.arange(10, 30))
    joined = JoinedSamples(one, Unreadable(two.image_NHWC, two.captions, two.image_keys))
    found = encode_samples(joined, tokenizer, WordVectors())
    kept_N = np.delete(np.arange(30), 12)
    assert found.kept_N.tolist() == kept_N.tolist()
    expected = encode_samples(pairs.rows(kept_N), tokenizer, WordVectors())
    every = torch.arange(29)
    assert torch.equal(found.rows(every).tokens.code_BS, expected.rows(every).tokens.code_BS)
    assert torch.equal(found.rows(every).text.pooled_BD, expected.rows(every).text.pooled_BD)


def test_images_come_in_the_order_that_was_asked_for_whatever_the_order_of_reading(pairs: Samples) -> None:
    index_M = np.array([1, 5, 20, 21, 29])
    images = ImagesOf(Unreadable(pairs.image_NHWC, pairs.captions))
    assert np.array_equal(images[index_M], pairs.image_NHWC[index_M])


def test_images_of_which_none_can_be_decoded_are_an_error(pairs: Samples) -> None:
    with pytest.raises(DataError, match="None of 1 images"):
        ImagesOf(Unreadable(pairs.image_NHWC, pairs.captions))[np.array([2])]


def test_samples_of_which_none_can_be_decoded_are_not_encoded(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path
) -> None:
    class Broken(Samples):
        def read(self, index_M: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            yield from ()

    broken = Broken(pairs.image_NHWC, pairs.captions, pairs.image_keys)
    with pytest.raises(DataError, match="None of 200 images can be decoded"):
        encode_samples(broken, tokenizer, CountingEncoder(), cache=tmp_path)


def test_known_images_are_not_even_read(tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path) -> None:
    encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    gone = Samples(np.zeros_like(pairs.image_NHWC), pairs.captions, pairs.image_keys)
    assert torch.equal(
        encode_samples(gone, tokenizer, WordVectors(), cache=tmp_path).code_NS.long(),
        tokenizer.encode(pairs.image_NHWC),
    )
