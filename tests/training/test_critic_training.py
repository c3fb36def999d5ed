"""A critic knows wrong captions after training, scores a sample by itself, and equal trainings give equal bytes."""

import random

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.local.scenes import draw_informative
from alchemist_core.models.critic import Critic, OfflineEncoders, caption_hashes, pack_critic
from alchemist_core.models.critic_config import CriticRecord, CriticTrainingConfig, refuse_weak_critic
from alchemist_core.training.critic_training import Encoded, hold_out, score_heldout, train_critic

SIDE, N_TRAIN, N_HELDOUT, N_TEST = 32, 240, 30, 80
CONFIG = CriticTrainingConfig(max_train_steps=75, batch_size=64, n_references=64, hidden=128, dim=64)


@pytest.fixture(scope="module")
def scenes() -> Encoded:
    """Scenes whose captions are all different."""
    rng, found = random.Random(0), {}
    while len(found) < N_TRAIN + N_HELDOUT + N_TEST:
        scene = draw_informative(rng, SIDE)
        found.setdefault(scene.caption, np.asarray(scene.image))
    encoders, captions = OfflineEncoders(SIDE), list(found)
    return Encoded(encoders.encode_images(np.stack(list(found.values()))), encoders.encode_texts(captions), captions)


def part(scenes: Encoded, start: int, n: int) -> Encoded:
    return scenes.take(np.arange(start, start + n))


def train(scenes: Encoded, **changed: float) -> tuple[Critic, int]:
    config = CONFIG.model_copy(update=changed)
    return train_critic(part(scenes, 0, N_TRAIN), part(scenes, N_TRAIN, N_HELDOUT), config, lambda *_: None)


@pytest.fixture(scope="module")
def critic(scenes: Encoded) -> Critic:
    return train(scenes)[0]


@pytest.fixture(scope="module")
def fresh(scenes: Encoded) -> Encoded:
    return part(scenes, N_TRAIN + N_HELDOUT, N_TEST)


def record_of(critic: Critic, scenes: Encoded, **changed: object) -> CriticRecord:
    right, wrong = score_heldout(critic, part(scenes, N_TRAIN, N_HELDOUT)).quantiles()
    return CriticRecord.model_validate(
        {
            "dataset": "v", "n_train": N_TRAIN, "n_heldout": N_HELDOUT, "n_steps": 50, "heldout_auc": 0.9,
            "right_quantiles": right, "wrong_quantiles": wrong, "resolution": SIDE, "training": CONFIG,
            "encoder_sha256s": ["0", "1"], "dims": [1280, 384],
        } | changed
    )  # fmt: skip


def test_it_distinguishes_wrong_captions_that_an_untrained_one_does_not(
    scenes: Encoded, critic: Critic, fresh: Encoded
) -> None:
    untrained, _ = train(scenes, learning_rate=1e-9, max_train_steps=1)
    assert score_heldout(critic, fresh).auc > 0.9
    assert score_heldout(untrained, fresh).auc < 0.7


@pytest.mark.slow
def test_two_trainings_give_the_same_bytes(scenes: Encoded, critic: Critic) -> None:
    first = pack_critic(critic, record_of(critic, scenes))
    again, other = train(scenes)[0], train(scenes, seed=1)[0]
    assert pack_critic(again, record_of(again, scenes)) == first
    assert pack_critic(other, record_of(critic, scenes)) != first


def test_the_dropout_of_the_config_takes_part_in_the_training(scenes: Encoded) -> None:
    half, none = (
        parameters_to_vector(train(scenes, max_train_steps=2, dropout=ratio)[0].head.parameters())
        for ratio in (0.5, 0.0)
    )
    assert not torch.equal(half, none)


def test_a_score_is_the_own_cosine_less_those_of_other_captions(critic: Critic, fresh: Encoded) -> None:
    """Against a slow loop; a reference that equals the own caption is not one of the others."""
    image_NE, text_NE = critic.project(fresh.image_ND, fresh.text_NC)
    known = Critic(critic.head, critic.sharpness, text_NE[:9], caption_hashes(fresh.captions[:9]))
    expected = []
    for image_E, own, text_E in zip(image_NE.double(), fresh.captions, text_NE.double(), strict=True):
        others = [text_NE[at].double() for at in range(9) if fresh.captions[at] != own]
        matches = [np.exp(critic.sharpness * float(image_E @ other)) for other in others]
        expected.append(critic.sharpness * float(image_E @ text_E) - np.log(np.mean(matches)))
    np.testing.assert_allclose(known.score(image_NE, text_NE, fresh.captions), expected, atol=1e-3)


def test_training_stops_early_and_keeps_the_weights_of_the_lowest_loss(scenes: Encoded) -> None:
    """With shuffled captions the held-out loss soon rises."""
    wrong = part(scenes, 0, N_TRAIN)
    shuffled = Encoded(wrong.image_ND, np.roll(wrong.text_NC, 7, 0), [*wrong.captions[-7:], *wrong.captions[:-7]])
    steps: list[int] = []
    config = CONFIG.model_copy(update={"validation_steps": 5, "early_stopping_patience": 2, "max_train_steps": 500})
    _, best = train_critic(shuffled, part(scenes, N_TRAIN, N_HELDOUT), config, lambda done, *_: steps.append(done))
    assert steps[-1] == best + 10 < 500


def test_what_is_held_out_shares_no_caption_and_no_image_with_the_rest() -> None:
    captions = [f"caption {number % 150}" for number in range(300)]
    images = [bytes([number % 100]) for number in range(300)]
    train_M, heldout_M = hold_out(captions, images)
    for given in (captions, images):
        assert not {given[at] for at in train_M} & {given[at] for at in heldout_M}
    assert 0 < len(heldout_M) < 60 < len(train_M)
    with pytest.raises(DataError, match="1 different captions to train on, but at least 20 are needed"):
        hold_out(["one"] * 30, images[:30])


def test_a_critic_that_learnt_nothing_is_refused(critic: Critic, scenes: Encoded) -> None:
    refuse_weak_critic(record_of(critic, scenes))
    with pytest.raises(ConfigError, match=r"held-out AUC of the critic of v is 0\.550 on 30 samples"):
        refuse_weak_critic(record_of(critic, scenes, heldout_auc=0.55))


def test_hard_negatives_are_near_other_captions(scenes: Encoded) -> None:
    from alchemist_core.training.critic_training import _Batches

    train_part = part(scenes, 0, N_TRAIN)
    text_NC = torch.nn.functional.normalize(torch.from_numpy(train_part.text_NC))

    def nearest(hard_negatives: float) -> float:
        index_B = _Batches(train_part, CONFIG.model_copy(update={"hard_negatives": hard_negatives})).at(3)
        assert len(set(index_B.tolist())) == len(index_B) <= CONFIG.batch_size
        cosine_BB = text_NC[index_B] @ text_NC[index_B].T
        return float(cosine_BB.fill_diagonal_(-1).max(1).values.mean())

    assert nearest(0.5) > nearest(0.0)
    assert nearest(0.9) == nearest(0.5), "as the option's help says"
    assert "larger value counts as 0.5" in str(CriticTrainingConfig.model_fields["hard_negatives"].description)
