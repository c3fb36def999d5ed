from pathlib import Path

import pytest
import torch

from alchemist_core.training import checkpoints
from alchemist_core.training.config import DownstreamConfig


def test_a_checkpoint_of_a_gpu_is_read_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do several processes read it into the memory of the GPU that wrote it."""
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        checkpoints.save_state(tmp_path / "run", DownstreamConfig(), {"weights": torch.arange(3.0)})
    state = checkpoints.load_state(tmp_path / "run", DownstreamConfig())
    assert state is not None
    assert state["weights"].tolist() == [0.0, 1.0, 2.0]
