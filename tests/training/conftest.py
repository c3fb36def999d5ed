from pathlib import Path

import numpy as np
import pytest

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.tokenizer import fit_tokenizer
from alchemist_core.training.samples import Samples

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 80, 220), "white": (240, 240, 240)}
PLACES = {"top": (0, 4), "left": (4, 0), "bottom": (8, 4), "right": (4, 8)}


def draw_pairs(n_samples: int, seed: int) -> Samples:
    """Draw one box per image; the caption names its colour and position."""
    generator = np.random.default_rng(seed)
    image_NHWC = np.full((n_samples, 16, 16, 3), 32, np.uint8)
    captions = []
    for image in image_NHWC:
        colour, place = generator.choice(list(COLOURS)), generator.choice(list(PLACES))
        top, left = PLACES[place]
        image[top : top + 8, left : left + 8] = COLOURS[colour]
        captions.append(f"a {colour} box at the {place}")
    noise = generator.integers(-12, 13, image_NHWC.shape)
    return Samples(np.clip(image_NHWC.astype(int) + noise, 0, 255).astype(np.uint8), captions)


@pytest.fixture(scope="session")
def train_pairs() -> Samples:
    """Half boxes, half noise under the same captions."""
    pairs = draw_pairs(400, seed=0)
    noise = np.random.default_rng(1).integers(0, 256, (200, 16, 16, 3), np.uint8)
    return Samples(np.concatenate([pairs.image_NHWC[:200], noise]), pairs.captions)


@pytest.fixture(scope="session")
def validation_pairs() -> Samples:
    return draw_pairs(200, seed=2)


@pytest.fixture(scope="session")
def heldout_pairs() -> Samples:
    return draw_pairs(60, seed=3)


@pytest.fixture(scope="session")
def tokenizer_from(tmp_path_factory: pytest.TempPathFactory, validation_pairs: Samples) -> Path:
    """Give the folder of a tokenizer, as a rater's training leaves it."""
    folder = tmp_path_factory.mktemp("rater")
    config = TokenizerConfig(n_codes=64, n_rounds=4)
    fit_tokenizer(validation_pairs.image_NHWC, config, seed=0).save(folder / "tokenizer.safetensors")
    return folder
