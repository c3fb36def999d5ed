"""The corpus of the tests that disturb a stack."""

from pathlib import Path

import pytest

from alchemist_core.local.scenes import draw_scenes


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    draw_scenes(tmp_path / "scenes", n_train=1200, n_validation=2000, n_test=40, shard_size=60, side=32)
    return tmp_path / "scenes"
