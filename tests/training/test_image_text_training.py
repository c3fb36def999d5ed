"""The head of the offline image-text similarity: reproducible, close to its own captions, and refused if it is not."""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.nn.utils import parameters_to_vector

from alchemist_core.errors import ConfigError
from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_sets import ImageSet
from alchemist_core.models.image_text import Encoders, Head, ImageText, load_head, pack_head
from alchemist_core.models.image_text_config import LEAST_AUC, HeadRecord, HeadTrainingConfig, refuse_weak
from alchemist_core.protocols.protocol import ImageProtocol
from alchemist_core.training.image_text_training import contrast, heldout_auc, train_head
from tests.metrics.given_metric import metric_of, read_image_protocol

SIDE, N_TRAIN, N_HELDOUT = 32, 240, 60
TITLE = "image_text_similarity_efficientnet_lite0_minilm_head"
TRAINING = HeadTrainingConfig(max_train_steps=60, batch_size=64)


class Encoded(NamedTuple):
    """Synthetic scenes after the frozen encoders."""

    images: np.ndarray
    captions: list[str]
    of_images: np.ndarray
    of_captions: np.ndarray

    def rows(self, part: slice) -> tuple[np.ndarray, np.ndarray, list[str]]:
        return self.of_images[part], self.of_captions[part], self.captions[part]


TRAIN, HELDOUT = slice(0, N_TRAIN), slice(N_TRAIN, N_TRAIN + N_HELDOUT)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders()


@pytest.fixture(scope="module")
def scenes(encoders: Encoders) -> Encoded:
    """Scenes whose captions are all different: none that is held out was seen."""
    rng, found = random.Random(0), {}
    while len(found) < N_TRAIN + N_HELDOUT:
        scene = draw_informative(rng, SIDE)
        found.setdefault(scene.caption, np.asarray(scene.image))
    images, captions = np.stack(list(found.values())), list(found)
    return Encoded(images, captions, encoders.encode_images(images), encoders.encode_texts(captions))


def train(scenes: Encoded, captions: list[str] | None = None, **changed: float) -> Head:
    image_ND, text_NC, own = scenes.rows(TRAIN)
    config = TRAINING.model_copy(update=changed)
    if captions is not None:
        text_NC = text_NC[[own.index(caption) for caption in captions]]
    return train_head(image_ND, text_NC, captions or own, config, lambda *_: None)


@pytest.fixture(scope="module")
def head(scenes: Encoded) -> Head:
    return train(scenes)


def record_of(encoders: Encoders, **changed: object) -> HeadRecord:
    image, text = encoders.sha256s
    return HeadRecord.model_validate(
        {
            "dataset": "scenes", "heldout": "scenes", "n_train": N_TRAIN, "n_heldout": N_HELDOUT, "heldout_auc": 0.95,
            "resolution": SIDE, "training": TRAINING, "image_encoder_sha256": image, "text_encoder_sha256": text,
        } | changed
    )  # fmt: skip


@pytest.fixture
def file(head: Head, encoders: Encoders, tmp_path: Path) -> Path:
    path = tmp_path / "head.safetensors"
    path.write_bytes(pack_head(head, record_of(encoders)))
    return path


@pytest.mark.slow
def test_two_trainings_give_the_same_bytes(scenes: Encoded, head: Head, encoders: Encoders) -> None:
    first = pack_head(head, record_of(encoders))
    assert pack_head(train(scenes), record_of(encoders)) == first
    assert pack_head(train(scenes, seed=1), record_of(encoders)) != first


def test_the_dropout_of_the_config_takes_part_in_the_training(scenes: Encoded) -> None:
    half, none = (
        parameters_to_vector(train(scenes, max_train_steps=2, dropout=ratio).parameters()) for ratio in (0.5, 0.0)
    )
    assert not torch.equal(half, none)


@pytest.mark.slow
def test_captions_that_were_never_seen_are_distinguished(scenes: Encoded, head: Head) -> None:
    assert heldout_auc(head, *scenes.rows(HELDOUT)) > 0.9


@pytest.mark.slow
def test_a_head_of_shuffled_captions_distinguishes_nothing_and_is_refused(scenes: Encoded, encoders: Encoders) -> None:
    shuffled = random.Random(1).sample(scenes.captions[TRAIN], N_TRAIN)
    auc = heldout_auc(train(scenes, shuffled), *scenes.rows(HELDOUT))
    assert auc < LEAST_AUC
    with pytest.raises(
        ConfigError, match=rf"^heldout_auc of mine is 0\.\d+ on 60 samples, and must be above {LEAST_AUC}"
    ):
        refuse_weak(record_of(encoders, heldout_auc=auc), "mine")


def test_equal_captions_are_no_wrong_answers(scenes: Encoded) -> None:
    """The loss against one slow and obvious loop."""
    rng = np.random.default_rng(0)
    logit_BB, caption_B = rng.normal(size=(5, 5)), np.array([0, 1, 0, 2, 1])
    total = 0.0
    for table in (logit_BB, logit_BB.T):
        for row in range(5):
            right = [column for column in range(5) if caption_B[column] == caption_B[row]]
            normal = np.log(np.exp(table[row]).sum())
            total += np.mean([normal - table[row, column] for column in right]) / 10
    assert contrast(torch.from_numpy(logit_BB), torch.from_numpy(caption_B)).item() == pytest.approx(total)


def protocol(**changed: object) -> ImageProtocol:
    fields = read_image_protocol("image_text_offline").as_json() | {"resolution": SIDE, "n_images": N_HELDOUT} | changed
    return ImageProtocol.model_validate(fields)


@pytest.mark.slow
def test_the_cosine_falls_when_captions_are_shuffled(scenes: Encoded, file: Path) -> None:
    metric, images = metric_of(protocol(), file), scenes.images[HELDOUT]
    own, others = scenes.captions[HELDOUT], random.Random(0).sample(scenes.captions[HELDOUT], N_HELDOUT)
    right, wrong = (metric.measure_images([ImageSet(images, texts, [0] * N_HELDOUT)]) for texts in (own, others))
    assert right.keys() == {TITLE}
    assert right[TITLE] > wrong[TITLE] + 0.2
    again = metric_of(protocol(), file).measure_images([ImageSet(images, own, [0] * N_HELDOUT)])
    assert again == right


@pytest.mark.slow
def test_a_head_is_read_as_it_was_written(file: Path, head: Head, encoders: Encoders, scenes: Encoded) -> None:
    read, record = load_head(file)
    assert record == record_of(encoders)
    given = torch.from_numpy(scenes.of_images), torch.from_numpy(scenes.of_captions)
    for one, other in zip(read(*given), head(*given), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_images_of_another_side_are_refused_by_the_field(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^resolution is 64, but the head in .* was trained on images of 32 px"):
        metric_of(protocol(resolution=64), file).load()


@pytest.mark.slow
def test_a_head_of_other_encoders_is_refused(head: Head, encoders: Encoders, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(pack_head(head, record_of(encoders, image_encoder_sha256="0" * 64)))
    with pytest.raises(ConfigError, match=r"was trained on encoders \('0000.*are installed"):
        ImageText(path)


@pytest.mark.slow
def test_a_head_whose_record_shows_that_it_is_weak_is_refused_at_use(
    head: Head, encoders: Encoders, tmp_path: Path
) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(pack_head(head, record_of(encoders, heldout_auc=LEAST_AUC)))
    with pytest.raises(ConfigError, match=r"^heldout_auc of .*head\.safetensors is 0\.800"):
        ImageText(path)


@pytest.mark.parametrize("data", [
    b"", b"no safetensors", save({"weight": torch.zeros(1)}), save({"weight": torch.zeros(1)}, {"record": "{}"}),
])  # fmt: skip
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is not a head that alchemist image-text-head wrote"):
        load_head(path)


@pytest.mark.slow
def test_a_head_of_another_shape_than_its_record_s_is_refused(file: Path, encoders: Encoders, tmp_path: Path) -> None:
    weights = load(file.read_bytes())
    other = record_of(encoders, training=TRAINING.model_copy(update={"hidden": 8}))
    (tmp_path / "other.safetensors").write_bytes(save(weights, {"record": other.model_dump_json()}))
    with pytest.raises(ConfigError, match="size mismatch"):
        load_head(tmp_path / "other.safetensors")
