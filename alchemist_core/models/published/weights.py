"""Published weights: files read without running code in them, and loaded by a layout that maps their keys to ours.

A key that is missing, unexpected or of another shape is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError, DataError


def read_weights(source: str | Path, *wrapped_in: str) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        source: Path of a `.safetensors` or torch file, or `hf:ORG/NAME/FILE` on the Hugging Face hub.
        wrapped_in: Keys that lead to it in a training checkpoint; a flat file needs none.

    Raises:
        ConfigError: There is no such file.
        DataError: It is not a state dict, or holds more than tensors and plain values.
    """
    path = _locate(str(source))
    content: Any = load_file(path) if path.suffix == ".safetensors" else _read_weights(path)
    for key in wrapped_in:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        where = " → ".join(wrapped_in) or "top"
        raise DataError(f"{source} has no state dict at its top or under {where}. Give a file of weights.")
    return dict(content)


def _locate(source: str) -> Path:
    if source.startswith("hf:"):
        return _fetch(source)
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{source} does not exist. Give the path of a file of weights, or hf:ORG/NAME/FILE.")
    return path


def _fetch(source: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  local files need no hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    organisation, _, rest = source.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not file:
        raise ConfigError(f"{source} does not name a file. Write hf:ORG/NAME/FILE.")
    try:
        return Path(hf_hub_download(f"{organisation}/{name}", file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(f"{source} cannot be downloaded: {error}. Download the file and give its path.") from error


def _read_weights(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        message = f"{path} holds more than tensors: {error}. Save its state dict with torch.save or safetensors."
        raise DataError(message) from error


Shape = tuple[int, ...]
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of a published state dict."""

    names: dict[str, str]
    """Published key → our name, for every tensor that we load."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Published shape, where it differs from ours; the values and their order are equal."""
    spare: dict[str, Shape] = field(default_factory=dict)
    """Unused keys: ignored on loading, and exported as zeros, because strict loaders require them."""

    def joined(self, other: "Layout") -> "Layout":
        """Join two parts of a layout."""
        return Layout(self.names | other.names, self.shapes | other.shapes, self.spare | other.spare)

    def within(self, prefix: str) -> "Layout":
        """Prefix our names with the name of a module."""
        return Layout({theirs: prefix + ours for theirs, ours in self.names.items()}, self.shapes, self.spare)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], layout: Layout, *, source: str) -> None:
    """Load a published state dict into a module.

    Args:
        module: The module to load into.
        weights: The published state dict, unwrapped.
        layout: The published layout.
        source: Its origin, for the error.

    Raises:
        DataError: Keys are missing, unexpected or of another shape; the error names them.
    """
    ours = module.state_dict()
    wanted = {theirs: layout.shapes.get(theirs, tuple(ours[name].shape)) for theirs, name in layout.names.items()}
    known = {key: tensor for key, tensor in weights.items() if key not in layout.spare}
    refuse_misfits(known, wanted, source=source)
    module.load_state_dict({name: weights[theirs].reshape(ours[name].shape) for theirs, name in layout.names.items()})


def refuse_misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Shape], *, source: str) -> None:
    """Refuse weights that do not have exactly the wanted keys and shapes.

    Raises:
        DataError: Keys are missing, unexpected or of another shape; the error names them.
    """
    faults = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - wanted.keys()),
        "wrongly shaped": [
            f"{key} is {tuple(weights[key].shape)}, not {shape}"
            for key, shape in wanted.items()
            if key in weights and tuple(weights[key].shape) != shape
        ],
    }
    if any(faults.values()):
        details = "; ".join(f"{len(keys)} {fault}: {_name(keys)}" for fault, keys in faults.items() if keys)
        raise DataError(
            f"{source} does not hold weights of this size: {details}. Choose the size that it was trained with."
        )


def export_weights(module: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Return a module's weights under their published names."""
    ours = module.state_dict()
    device = next(iter(ours.values())).device
    spare = {theirs: torch.zeros(shape, device=device) for theirs, shape in layout.spare.items()}
    named = {
        theirs: ours[name].reshape(layout.shapes.get(theirs, tuple(ours[name].shape)))
        for theirs, name in layout.names.items()
    }
    return named | spare


def rename_all(names: Mapping[str, str]) -> Callable[[str, str], dict[str, str]]:
    """Return a function that prefixes published and own names.

    >>> rename_all({"fc1": "feed_in"})("ffn.", "")
    {'ffn.fc1': 'feed_in'}
    """
    return lambda theirs, ours: {theirs + key: ours + name for key, name in names.items()}


def _name(keys: list[str]) -> str:
    more = len(keys) - _MOST_NAMED
    return ", ".join(keys[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
