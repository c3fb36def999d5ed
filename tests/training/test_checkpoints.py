from pathlib import Path

import pytest
import torch

from alchemist_core.errors import ConfigError
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


def test_a_checkpoint_of_0_1_is_resumed_though_its_fields_have_other_names(tmp_path: Path) -> None:
    config = DownstreamConfig(gradient_accumulation_steps=2, mixed_precision="bf16", num_train_epochs=3)
    folder = checkpoints.partial_folder(tmp_path / "run") / "resume"
    folder.mkdir(parents=True)
    former = (
        '{"seed":0,"n_epochs":3,"n_steps":null,"batch_size":64,"n_accumulated":2,"precision":"bf16","learning_rate":0.005,'
        '"n_warmup_steps":20,"weight_decay":0.01,"average":0.0,"method":"scratch","base":null,"lora_rank":8,"width":64,"depth":2,'
        '"n_heads":2,"text_encoder":"words","checkpoint_every_steps":500,"flux":null,"flux_parts":null}'
    )
    torch.save({"config": former, "step": 7}, folder / "state.pt")
    state = checkpoints.load_state(tmp_path / "run", config)
    assert state is not None
    assert state["step"] == 7
    with pytest.raises(ConfigError):
        checkpoints.load_state(tmp_path / "run", config.model_copy(update={"batch_size": 32}))
