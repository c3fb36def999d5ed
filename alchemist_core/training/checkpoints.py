"""Checkpoints of a run. A kill at any moment leaves either the state before or the state after.

A run writes to `<out>.partial`, which is renamed to `<out>` at the end. So a folder that exists is complete.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from alchemist_core.config import Config, current_names
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write, sync_file
from alchemist_core.training.pinning import without_places


def partial_folder(out: Path) -> Path:
    """Return the folder that an unfinished run writes to."""
    return out.with_name(out.name + ".partial")


def save_state(out: Path, config: Config, state: dict[str, Any]) -> None:
    """Replace the checkpoint of an unfinished run of a config."""
    folder = partial_folder(out) / "resume"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "state.pt", is_sole_writer=True) as partial, partial.open("wb") as file:
        torch.save({"config": json.dumps(config.hashed_json()), **state}, file)


def load_state(out: Path, config: Config) -> dict[str, Any] | None:
    """Read the checkpoint of an unfinished run, if there is one.

    Raises:
        ConfigError: The checkpoint belongs to another config.
    """
    path = partial_folder(out) / "resume" / "state.pt"
    if not path.exists():
        return None
    # Load to the CPU: by default each of several processes would load it onto the GPU that wrote it.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if _compared(config, json.loads(state["config"])) != _compared(config, config.hashed_json()):
        raise ConfigError(f"{partial_folder(out)} holds an unfinished run of another config. Remove the folder.")
    return state


def _compared(config: Config, stored: dict[str, Any]) -> dict[str, Any]:
    """Return stored JSON without the places of weights: they may be moved between two tries."""
    return without_places(type(config), current_names(type(config), stored))


def finish(out: Path) -> None:
    """Delete the checkpoint and rename the folder; the run is complete then."""
    partial = partial_folder(out)
    shutil.rmtree(partial / "resume", ignore_errors=True)
    for path in partial.iterdir():
        sync_file(path)
    partial.rename(out)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
