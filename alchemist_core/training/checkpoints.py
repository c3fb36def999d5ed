"""Checkpoints of a run. A kill at any moment leaves either the state before or the state after.

A run writes to `<out>.partial`, which is renamed to `<out>` at the end. So a folder that exists is complete. The checkpoint is moved
out of the folder just before, and deleted after.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from alchemist_core.config import Config, current_names
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write, sync_file, sync_folder
from alchemist_core.training.pinning import without_places


def partial_folder(out: Path) -> Path:
    """Return the folder that an unfinished run writes to."""
    return out.with_name(out.name + ".partial")


def _checkpoint_folders(out: Path) -> tuple[Path, Path]:
    """Return the folder of a run's checkpoint, and the folder that it is moved to when the run ends."""
    return partial_folder(out) / "resume", out.with_name(out.name + ".resume.partial")


def save_state(out: Path, config: Config, state: dict[str, Any]) -> None:
    """Replace the checkpoint of an unfinished run of a config."""
    folder, _ = _checkpoint_folders(out)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "state.pt", is_sole_writer=True) as partial, partial.open("wb") as file:
        torch.save({"config": json.dumps(config.hashed_json()), **state}, file)


def load_state(out: Path, config: Config) -> dict[str, Any] | None:
    """Read the checkpoint of an unfinished run, if there is one.

    Raises:
        ConfigError: The checkpoint belongs to another config.
    """
    path = next(filter(Path.exists, (folder / "state.pt" for folder in _checkpoint_folders(out))), None)
    if path is None:
        return None
    # Load to the CPU: by default each of several processes would load it onto the GPU that wrote it.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if _compared(config, json.loads(state["config"])) != _compared(config, config.hashed_json()):
        raise ConfigError(f"{partial_folder(out)} holds an unfinished run of another config. Remove the folder.")
    return state


def _compared(config: Config, stored: dict[str, Any]) -> dict[str, Any]:
    """Return stored JSON without the places of weights: they may be moved between two tries."""
    return without_places(type(config), current_names(type(config), stored))


def read_finished(out: Path, name: str = "metrics.json") -> dict[str, Any] | None:
    """Return what a finished run wrote to a file; None if the run is not finished."""
    if not (out / name).exists():
        return None
    # A kill after the rename leaves the checkpoint.
    shutil.rmtree(_checkpoint_folders(out)[1], ignore_errors=True)
    return read_json(out / name)


def finish(out: Path) -> None:
    """Rename the folder and delete the checkpoint; the run is complete then, also on the disk."""
    partial, (checkpoint, ended) = partial_folder(out), _checkpoint_folders(out)
    for path in partial.iterdir():
        if path.is_file():
            sync_file(path)
    sync_folder(partial)
    if checkpoint.exists():
        shutil.rmtree(ended, ignore_errors=True)
        checkpoint.rename(ended)
    partial.rename(out)
    # Without it, a power cut could undo the rename after the store has committed the row that names the folder.
    sync_folder(out.parent)
    shutil.rmtree(ended, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
