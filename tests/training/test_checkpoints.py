import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class KilledError(Exception):
    """Stands in for a signal or a power cut."""


def begin_run(out: Path) -> None:
    """Write what a run has written when it calls `finish`: its last checkpoint, then its files."""
    checkpoints.save_state(out, DownstreamConfig(), {"step": 7})
    for name in ("model.safetensors", "metrics.json"):
        checkpoints.write_json(checkpoints.partial_folder(out) / name, {"of": name})


def note_operations(patch: pytest.MonkeyPatch, note: Callable[[str, Path], None]) -> None:
    """Call `note` with the name and the path of each operation on the disk before it happens, and with `after` when it has."""

    def noting(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(path: Path, *args: Any, **options: Any) -> Any:
            note(name, path)
            found = operation(path, *args, **options)
            note("after", path)
            return found

        return run

    patch.setattr(checkpoints, "sync_file", noting("sync", checkpoints.sync_file))
    patch.setattr(checkpoints, "sync_folder", noting("sync", checkpoints.sync_folder))
    patch.setattr(shutil, "rmtree", noting("delete", shutil.rmtree))
    patch.setattr(Path, "rename", noting("rename", Path.rename))


def test_a_kill_at_any_moment_of_the_end_leaves_the_checkpoint_or_the_complete_folder(tmp_path: Path) -> None:
    states = []
    for n_before in range(100):
        out, done = tmp_path / str(n_before) / "run", list[str]()

        def kill_after(name: str, _path: Path, done: list[str] = done, n_before: int = n_before) -> None:
            if len(done) == n_before:
                raise KilledError
            done.append(name)

        begin_run(out)
        with pytest.MonkeyPatch.context() as patch:
            note_operations(patch, kill_after)
            try:
                checkpoints.finish(out)
            except KilledError:
                is_killed = True
            else:
                is_killed = False
        if (metrics := checkpoints.read_finished(out)) is None:
            state = checkpoints.load_state(out, DownstreamConfig())
            assert state is not None, f"killed after {done}"
            assert state["step"] == 7
            # The next try writes its files and ends.
            begin_run(out)
            checkpoints.finish(out)
            assert checkpoints.read_finished(out) == {"of": "metrics.json"}
        else:
            assert metrics == {"of": "metrics.json"}
        assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "model.safetensors"]
        assert [path.name for path in out.parent.iterdir()] == ["run"]
        states.append(metrics is None)
        if not is_killed:
            break
    assert states == sorted(states, reverse=True)
    assert (states[0], states[-1], is_killed) == (True, False, False)


def test_a_run_is_on_the_disk_before_its_folder_is_renamed_and_the_rename_is_flushed_after_it(tmp_path: Path) -> None:
    """Checks the order of disk operations, because a power cut cannot be tested here."""
    asked: list[tuple[str, str]] = []
    begin_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        note_operations(patch, lambda name, path: asked.append((name, path.name)))
        checkpoints.finish(tmp_path / "run")
    order = [one for one in asked if one[0] != "after"]
    assert set(order[:3]) == {("sync", "metrics.json"), ("sync", "model.safetensors"), ("sync", "run.partial")}
    assert order[2] == ("sync", "run.partial")
    at = order.index(("rename", "run.partial"))
    assert order[at + 1] == ("sync", tmp_path.name)
    assert all(name != "delete" or path != "run.partial" for name, path in order)
