"""Writing a run to disk so that a kill at any moment leaves either the state before or the state after.

While a run lasts, everything lies in `<out>.partial`; the folder takes its own name in one rename at the end. So a
folder that exists is complete.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.files import atomic_write, sync_file


def partial_folder(out: Path) -> Path:
    """Give the folder in which an unfinished run keeps its things."""
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
        ConfigError: It is of another config.
    """
    path = partial_folder(out) / "resume" / "state.pt"
    if not path.exists():
        return None
    # Not to the GPU it was written from: each of several processes would fill the first one's.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if json.loads(state["config"]) != config.hashed_json():
        raise ConfigError(f"{partial_folder(out)} holds a run of another config; remove it")
    return state


def finish(out: Path) -> None:
    """Drop the checkpoint and give the folder its name; from here on the run is complete."""
    partial = partial_folder(out)
    shutil.rmtree(partial / "resume", ignore_errors=True)
    for path in partial.iterdir():
        sync_file(path)
    partial.rename(out)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON with a fixed order of keys."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
