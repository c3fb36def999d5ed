"""Everything that reads images for a rater decodes by the rater's version, and nothing that is cached mixes versions."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alchemist_core.errors import DataError
from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.text import WordVectors
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.shards.decode_versions import DecodeVersion
from alchemist_core.shards.decoding import InlineDecoders
from alchemist_core.shards.images import decode_image
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.sample_table import SampleTable, spool_samples
from alchemist_core.training import sample_reading
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.encoding import encode_samples
from alchemist_core.training.pinning import pin
from alchemist_core.training.sample_reading import StoredSamples, read_images
from alchemist_core.training.samples import JoinedSamples, Samples, WeightedSamples
from alchemist_core.training.scoring import PendingShard, ScoringPipeline
from tests.located_samples import located
from tests.shards.conftest import draw_image
from tests.training import test_scoring_pipeline
from tests.training.test_pinning import identity
from tests.training.test_scoring_pipeline import PixelScorer, make_shard, outcome_of, score_of

SIDE = 160
PHOTO = draw_image(0, kind="JPEG", size=(600, 580))
VERSIONS: tuple[DecodeVersion, ...] = (1, 2)


class LargeScorer(PixelScorer):
    """Scores images above the size up to which both versions have the same pixels."""

    image_side = SIDE

    def __init__(self, version: DecodeVersion) -> None:
        super().__init__(1)
        self.decode_version = version

    def make_buffer(self) -> np.ndarray:
        return np.zeros((self.batch, SIDE, SIDE, 3), np.uint8)


def test_the_two_versions_have_other_pixels_here() -> None:
    assert (decode_image(PHOTO, SIDE, 1) != decode_image(PHOTO, SIDE, 2)).any()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_scorer_reads_the_pixels_of_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: DecodeVersion
) -> None:
    monkeypatch.setattr(test_scoring_pipeline, "PICTURES", [PHOTO])
    committed: list[PendingShard] = []
    shards = iter([make_shard(tmp_path, 0, [0])])
    scorers = [LargeScorer(version), LargeScorer(version)]
    with ScoringPipeline(scorers, InlineDecoders(SIDE), committed.append, rater_names=["a", "b"]) as pipeline:
        pipeline.run(lambda: next(shards, None))
    assert outcome_of(committed[0]).score_N.tolist() == [score_of(decode_image(PHOTO, SIDE, version), "")]


def test_scorers_of_two_decodes_are_never_in_one_pass() -> None:
    with pytest.raises(AssertionError, match="different sizes"):
        ScoringPipeline([LargeScorer(1), LargeScorer(2)], None, print, rater_names=["a", "b"])


def test_scorers_that_are_no_raters_keep_the_first_version() -> None:
    assert ScorerRunner.decode_version == 1


@pytest.fixture
def rows(tmp_path: Path) -> SampleTable:
    (tmp_path / "a.tar").write_bytes(PHOTO)
    place = {
        "root_uri": str(tmp_path),
        "uri": "a.tar",
        "file_exts": ["jpg"],
        "file_offsets": [0],
        "file_sizes": [len(PHOTO)],
    }
    return spool_samples([[located(0, image_hash=hashlib.sha256(PHOTO).digest(), **place)]])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_costly", [False, True])
def test_stored_samples_are_read_by_a_version_in_threads_and_apart(
    rows: SampleTable, monkeypatch: pytest.MonkeyPatch, version: DecodeVersion, is_costly: bool
) -> None:
    monkeypatch.setattr(sample_reading, "is_costly", lambda _: is_costly)
    found = read_images(rows, SIDE, lambda *_: None, version).images
    assert (found == decode_image(PHOTO, SIDE, version)[None]).all()


def test_stored_training_options_say_how_images_are_read(rows: SampleTable) -> None:
    stored = [RaterTrainingConfig(resolution=SIDE), pin(RaterTrainingConfig(resolution=SIDE))]
    read = [StoredSamples.as_read_by(training.as_json(), rows, print) for training in stored]
    assert [(samples.side, samples.decode_version) for samples in read] == [(SIDE, 1), (SIDE, 2)]


def test_cached_codes_of_one_version_serve_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = Samples(
        rng.integers(0, 256, (8, 16, 16, 3), np.uint8), list("abcdefgh"), hash_rows([bytes([n]) * 32 for n in range(8)])
    )
    # The same files, decoded in another way.
    new = replace(old, image_NHWC=255 - old.image_NHWC, decode_version=2)
    tokenizer, words = fit_tokenizer(old.image_NHWC, TokenizerConfig(n_codes=8, n_rounds=1), seed=0), WordVectors()
    for samples in (old, new, old, WeightedSamples(new, None), new.rows(np.arange(8)), JoinedSamples(new, new)):
        found = encode_samples(samples, tokenizer, words, cache=tmp_path)
        image_NHWC = (new if samples.decode_version == 2 else old).image_NHWC
        index_M = torch.arange(8)
        assert torch.equal(found.codes.rows(index_M).long(), tokenizer.encode(image_NHWC))
    assert len(list((tmp_path / "images").iterdir())) == 2
    with pytest.raises(DataError, match="decode versions 1 and 2 cannot be joined"):
        JoinedSamples(old, new)


def test_a_new_rater_pins_its_version_and_a_stored_one_keeps_its_own_and_its_hash() -> None:
    stored = RaterTrainingConfig(resolution=256)
    assert "decode_version" not in stored.as_json()
    assert RaterTrainingConfig.from_stored(stored.hashed_json()).decode_version == 1
    new = pin(stored)
    assert (new.decode_version, pin(new)) == (2, new)
    assert identity(new) != identity(stored)
    assert RaterTrainingConfig.from_stored(new.hashed_json()) == new
    small = RaterTrainingConfig(resolution=128)
    assert pin(small) == small, "both versions have the same pixels there, so the identity stays"
