import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import DataError
from alchemist_core.models.config import SCALES, StarConfig, TokenizerConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import TextFeatures, WordVectors, load_text_encoder
from alchemist_core.models.tokenizer import Tokenizer, fit_tokenizer
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.sample_table import spool_samples
from alchemist_core.training import encoding, samples
from alchemist_core.training.encoding import EmptyCaptions, EncodedSamples, encode_samples
from alchemist_core.training.feature_cache import FeatureCache
from alchemist_core.training.sample_reading import StoredSamples
from alchemist_core.training.samples import ImagesOf, JoinedSamples, Samples
from tests.located_samples import located
from tests.models.test_text_models import save_clip
from tests.peak_memory import peak_mib
from tests.two_processes import start_two


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
    keys = hash_rows([hashlib.sha256(image.tobytes()).digest() for image in validation_pairs.image_NHWC])
    return Samples(validation_pairs.image_NHWC, validation_pairs.captions, keys)


def codes(found: EncodedSamples) -> torch.Tensor:
    return found.codes.rows(torch.arange(len(found))).long()


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
    assert torch.equal(first.codes.rows(torch.arange(150)), second.codes.rows(torch.arange(150)))


def test_progress_is_told_after_each_forward_and_counts_only_what_is_encoded_now(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path
) -> None:
    n_each, seen = tokenizer.encode_batch, list[tuple[int, int]]()
    encode_samples(pairs.rows(np.arange(50)), tokenizer, WordVectors(), cache=tmp_path)
    encode_samples(
        pairs, tokenizer, WordVectors(), cache=tmp_path, on_progress=lambda done, total, _: seen.append((done, total))
    )
    assert seen == [(min(done, 150), 150) for done in range(n_each, 150 + n_each, n_each)]


def test_another_tokenizer_never_gets_these_codes(tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path) -> None:
    encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    other = fit_tokenizer(pairs.image_NHWC, TokenizerConfig(n_codes=32, n_rounds=2), seed=1)
    found = encode_samples(pairs, other, WordVectors(), cache=tmp_path)
    assert torch.equal(codes(found), other.encode(pairs.image_NHWC))


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
    monkeypatch.setattr(encoding, "MOST_TEXT_BYTES", 0)
    lean = encode_samples(pairs, tokenizer, WordVectors())
    index_B = torch.tensor([1, 50, 7])
    found, expected = lean.rows(index_B).text, kept.rows(index_B).text
    assert isinstance(lean.captions, encoding.StepCaptions)
    torch.testing.assert_close(found.pooled_BD, expected.pooled_BD)
    assert torch.equal(found.mask_BT.sum(1), expected.mask_BT.sum(1))


@pytest.mark.parametrize("name", ["clip", "minilm"])
def test_a_step_can_train_on_captions_that_it_encodes_itself(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "clip":
        save_clip(tmp_path, tmp_path)
        name = f"clip:{tmp_path}"
    encoder, sizes = load_text_encoder(name), tokenizer.config
    monkeypatch.setattr(encoding, "MOST_TEXT_BYTES", 0)
    data = encode_samples(pairs.rows(np.arange(4)), tokenizer, encoder)
    assert isinstance(data.captions, encoding.StepCaptions)
    star = Star(StarConfig(n_codes=sizes.n_codes, token_dim=sizes.token_dim, text_dim=encoder.dim))
    star(*data.rows(torch.tensor([3, 0]))).mean().backward()
    for layer in (star.trunk.text_in, star.trunk.blocks[0].cross_attention.key_value):
        assert layer.weight.grad.abs().sum() > 0


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
    assert found.kept.tolist() == kept_N.tolist()
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
    found = encode_samples(gone, tokenizer, WordVectors(), cache=tmp_path)
    assert torch.equal(codes(found), tokenizer.encode(pairs.image_NHWC))


def test_equal_captions_are_encoded_once_without_a_cache_too(
    tokenizer: CountingTokenizer, pairs: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 3)
    encoder, n_probes = CountingEncoder(), 1
    found = encode_samples(pairs, tokenizer, encoder)
    assert encoder.n_encoded == len(set(pairs.captions)) + n_probes
    every = WordVectors().encode(pairs.captions)
    assert torch.equal(found.captions.rows(torch.arange(200)).pooled_BD, every.pooled_BD)


@pytest.mark.parametrize(("most", "is_table"), [(16, True), (15, False)])
def test_captions_are_kept_if_the_distinct_ones_fit(
    tokenizer: CountingTokenizer, pairs: Samples, monkeypatch: pytest.MonkeyPatch, most: int, is_table: bool
) -> None:
    """There are 16: four colours at four places."""
    assert len(set(pairs.captions)) == 16
    monkeypatch.setattr(encoding, "_HASHED", 64)
    n_words_B = WordVectors().encode(pairs.captions).mask_BT.sum(1)
    assert 4 < n_words_B.min() <= n_words_B.max() <= 8, "each is stored as 8 tokens"
    monkeypatch.setattr(encoding, "MOST_TEXT_BYTES", most * 8 * WordVectors.dim * 4)
    assert isinstance(encode_samples(pairs, tokenizer, WordVectors()).captions, encoding.StoredCaptions) == is_table


def test_a_share_of_the_captions_of_a_batch_is_empty_and_the_others_are_as_they_were() -> None:
    encoder = WordVectors()
    text = encoder.encode(["a red box on a blue box"] * 400)
    empty = EmptyCaptions(encoder.encode([""]), 0.25)
    torch.manual_seed(3)
    drawn = empty.draw(text)
    is_empty_B = (drawn.pooled_BD == empty.features.pooled_BD).all(1)
    assert 70 < int(is_empty_B.sum()) < 130
    assert torch.equal(drawn.token_BTD[~is_empty_B], text.token_BTD[~is_empty_B])
    assert torch.equal(drawn.mask_BT[~is_empty_B], text.mask_BT[~is_empty_B])
    assert (drawn.mask_BT[is_empty_B].sum(1) == empty.features.mask_BT.sum()).all()
    torch.manual_seed(3)
    assert torch.equal(empty.draw(text).mask_BT, drawn.mask_BT)


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_long_caption_does_not_pad_the_others(tmp_path: Path, has_cache: bool) -> None:
    captions = [*(f"a cat {number}" for number in range(20)), "", " ".join("abcdefghijklmnopqrstuvwxyz")]
    found = encoding.encode_captions(captions, WordVectors(), tmp_path if has_cache else None, None)
    assert isinstance(found, encoding.StoredCaptions)
    stored = [segment.arrays["token"] for segment in found.found.segments]
    assert sorted(len(token_KTD) * token_KTD.shape[1] for token_KTD in stored) == [1, 16, 20 * 4]
    every = WordVectors().encode(captions)
    places = torch.tensor([21, 0, 20, 0, 19])
    read = found.rows(places)
    assert torch.equal(read.token_BTD, every.token_BTD[places])
    assert torch.equal(read.mask_BT, every.mask_BT[places])
    assert torch.equal(read.pooled_BD, every.pooled_BD[places])


@pytest.mark.parametrize("is_small", [True, False])
def test_codes_and_batches_are_those_of_encoding_everything_in_memory(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """Bit for bit what 0.1 computed: all codes, all inputs and all captions at once, in memory, and rows of them per step."""
    monkeypatch.setattr(samples, "CHUNK", 17)
    monkeypatch.setattr(encoding, "CHUNK", 17)
    if not is_small:
        monkeypatch.setattr(encoding, "_MOST_INPUT_BYTES", 0)
    code_NS, distinct = tokenizer.encode(pairs.image_NHWC), list(dict.fromkeys(pairs.captions))
    every, row_N = WordVectors().encode(distinct), torch.tensor([distinct.index(one) for one in pairs.captions])
    longest = int(every.mask_BT.sum(1).max())
    assert longest < every.mask_BT.shape[1], "otherwise cropping is not tested"
    found = encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    for index_B in torch.randperm(200).split(64):
        tokens = tokenizer.tokens(code_NS).rows(index_B) if is_small else tokenizer.tokens(code_NS[index_B])
        batch, row_B = found.rows(index_B), row_N[index_B]
        assert torch.equal(batch.tokens.code_BS, tokens.code_BS)
        assert torch.equal(batch.tokens.input_BSD, tokens.input_BSD)
        assert torch.equal(batch.text.token_BTD, every.token_BTD[row_B, :longest])
        assert torch.equal(batch.text.mask_BT, every.mask_BT[row_B, :longest])
        assert torch.equal(batch.text.pooled_BD, every.pooled_BD[row_B])
        assert batch.text.token_BTD.is_contiguous()


def test_an_image_of_several_samples_is_encoded_once(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path
) -> None:
    twice = pairs.rows(np.concatenate([np.arange(50), np.arange(50), np.arange(30)]))
    found = encode_samples(twice, tokenizer, WordVectors(), cache=tmp_path)
    assert tokenizer.n_encoded == 50
    assert torch.equal(codes(found)[50:100], codes(found)[:50])


def test_a_second_copy_of_an_image_replaces_one_that_cannot_be_decoded(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path
) -> None:
    assert pairs.image_keys is not None
    keys = np.concatenate([pairs.image_keys[:10], pairs.image_keys[2:3]])
    one = pairs.rows(np.array([*range(10), 2]))
    found = encode_samples(Unreadable(one.image_NHWC, one.captions, keys), tokenizer, WordVectors(), cache=tmp_path)
    assert len(found) == 11
    assert torch.equal(codes(found)[2], tokenizer.encode(pairs.image_NHWC[2:3])[0])


def test_a_damaged_segment_is_encoded_again_and_nothing_else(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CHUNK", 50)
    expected = codes(encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path))
    path = sorted((tmp_path / "images").rglob("*.npz"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    assert torch.equal(codes(again), expected)
    assert tokenizer.n_encoded == 200 + 50


def test_what_a_killed_run_had_encoded_stays_encoded(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CHUNK", 50)

    class Killed(Samples):
        def read(self, index_M: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            yield from list(super().read(index_M))[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_samples(
            Killed(pairs.image_NHWC, pairs.captions, pairs.image_keys), tokenizer, WordVectors(), cache=tmp_path
        )
    assert tokenizer.n_encoded == 150
    encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path)
    assert tokenizer.n_encoded == 200


# Two processes of one run. The second one is killed when it has stored four chunks of its share.
SCRIPT = """
import os, signal, sys
from pathlib import Path

import numpy as np
import torch

from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.training import samples
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.launching import make_accelerator
from alchemist_core.training.samples import Samples

torch.set_num_threads(1)
samples.CHUNK = 10
folder, accelerator = Path(sys.argv[1]), make_accelerator()


class Logged(Samples):
    def read(self, index_M):
        for number, (chunk, images) in enumerate(super().read(index_M)):
            if number == 4 and accelerator.process_index == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            with (folder / "log").open("a") as log:
                print(*chunk, file=log)
            yield chunk, images


given = np.load(folder / "pairs.npz")
pairs = Logged(given["images"], given["captions"].tolist(), given["keys"])
tokenizer = Tokenizer.load(folder / "tokenizer.safetensors")
encode_samples(pairs, tokenizer, WordVectors(), cache=folder / "cache", accelerator=accelerator)
"""


@pytest.mark.slow
def test_processes_encode_a_share_each_and_after_a_kill_only_what_is_missing(
    tokenizer: CountingTokenizer, pairs: Samples, tmp_path: Path
) -> None:
    assert pairs.image_keys is not None
    tokenizer.save(tmp_path / "tokenizer.safetensors")
    np.savez(tmp_path / "pairs.npz", images=pairs.image_NHWC, captions=pairs.captions, keys=pairs.image_keys)
    processes = start_two(SCRIPT, tmp_path)
    assert processes[1].wait(280) == -signal.SIGKILL
    assert processes[0].wait(280) != 0, "it waits for the other one in vain"
    encoded = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert len(encoded) == len(set(encoded))
    assert 40 + 80 < len(encoded) < 40 + 120, "the second process was killed after four chunks, the first did its half"
    (segments,) = (tmp_path / "cache" / "images").iterdir()
    assert np.flatnonzero(FeatureCache(segments).find(pairs.image_keys).is_known_N).tolist() == sorted(encoded)
    again = encode_samples(pairs, tokenizer, WordVectors(), cache=tmp_path / "cache")
    assert tokenizer.n_encoded == 200 - len(encoded)
    assert torch.equal(codes(again), tokenizer.encode(pairs.image_NHWC))


def made_up(n_samples: int) -> StoredSamples:
    """Samples whose codes are in the cache, with rows that are read from the disk."""
    parts = ([located(number) for number in range(at, at + 500)] for at in range(0, n_samples, 500))
    return StoredSamples(spool_samples(parts), 16, lambda *_: None)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes of 16,000 images take 22 MB, their rows 20 MB as objects and their captions' features 147 MB."""
    tokenizer = Tokenizer(TokenizerConfig(resolution=64, scales=SCALES[256], n_codes=4096, n_rounds=1))
    monkeypatch.setattr(encoding, "_MOST_INPUT_BYTES", 0)
    monkeypatch.setattr(encoding, "CHUNK", 256)
    store = FeatureCache(tmp_path / "images" / encoding.tokenizer_fingerprint(tokenizer))
    for start in range(0, 16_000, 1000):
        keys = hash_rows([located(number).image_hash for number in range(start, start + 1000)])
        store.add(keys, {"code": np.full((1000, 680), start // 1000, np.int16)})
    grown = []
    for n_samples in (1000, 16_000):
        before = peak_mib(reset=True)
        data = encode_samples(made_up(n_samples), tokenizer, WordVectors(), cache=tmp_path)
        for index_B in torch.randperm(n_samples)[:4000].split(100):
            # The number of a thousand is the code of its images.
            assert (data.codes.rows(index_B)[:, 5] == index_B // 1000).all()
            assert data.captions.rows(index_B).mask_BT.any()
        grown.append(peak_mib() - before)
    assert grown[1] - grown[0] < 12
