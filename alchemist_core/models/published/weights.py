"""Published weights: files read without running code in them, and loaded by a layout that maps their keys to ours.

A file that is cut off, or whose keys or shapes differ, is refused by the first key that differs and by what the file looks like.
"""

import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alchemist_core.errors import ConfigError
from alchemist_core.models.published.recognition import Shape, recognise
from alchemist_core.models.published.sources import locate_file

Inside = tuple[str, ...]
"""Keys that lead to a state dict in a training checkpoint."""


def read_weights(source: str | Path, *inside: Inside) -> dict[str, Tensor]:
    """Read a state dict; tensors stay on the disk until they are used, where the file's format allows it.

    Args:
        source: A `.safetensors` or torch file, a folder that holds one, or `hf:ORG/NAME/FILE@REVISION` on the Hugging Face hub.
        inside: Where a training checkpoint keeps it, the first that is there; a flat file needs none.

    Raises:
        ConfigError: There is no such file.
        ConfigError: The file is cut off, or is not a state dict, or holds more than tensors and plain values.
    """
    path = locate_file(str(source)).path
    content = read_content(path)
    for keys in ((), *inside):
        found = content
        for key in keys:
            found = found[key] if isinstance(found, Mapping) and key in found else found
        if _is_state_dict(found):
            return dict(found)
    where = " or ".join(" → ".join(keys) for keys in inside)
    seen = "; ".join(f"{' → '.join(keys)} holds {what}" for keys, what in _recognised_inside(content))
    raise ConfigError(
        f"{source} has no state dict at its top{f' or under {where}' if where else ''}. "
        + (f"{seen[:1].upper()}{seen[1:]}." if seen else "Give a file of weights.")
    )


def read_content(path: Path) -> Any:
    """Read a file of weights without running code in it.

    Raises:
        ConfigError: The file is cut off or damaged, or holds more than tensors and plain values.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ConfigError(f"{path} is a pointer of Git LFS, not the weights. Fetch them with git lfs pull.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path, is_zip=head.startswith(b"PK\x03\x04"))


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        lost = first_lost(path)
        reason = f"it ends inside of {lost}" if lost else str(error)
        raise ConfigError(f"{path} is cut off or damaged: {reason}. Download it again.") from error


def first_lost(path: Path) -> str | None:
    """Return the first key whose numbers lie beyond the end of a safetensors file, from its header."""
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if n_header > size:
            return None
        content = file.read(n_header)
    try:
        header = json.loads(content)
        ends = {key: int(about["data_offsets"][1]) for key, about in header.items() if key != "__metadata__"}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        # The header is damaged too.
        return None
    ordered = sorted(ends, key=lambda key: (ends[key], key))
    lost = next((key for key in ordered if 8 + n_header + ends[key] > size), None)
    return lost and f"{lost} ({size:,} of {8 + n_header + max(ends.values()):,} bytes are there)"


def _read_torch(path: Path, *, is_zip: bool) -> Any:
    if is_zip and not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is cut off: its table of contents, which comes last, is missing ({path.stat().st_size:,} bytes are there). "
            "Download it again."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        raise ConfigError(_explain_pickle(path, str(error))) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"{path} is cut off or damaged, or is not a file of torch: {reason}. Download it again."
        ) from error


def _explain_pickle(path: Path, reason: str) -> str:
    # torch's text has many lines, and advises to run the code.
    if found := re.search(r"GLOBAL (\S+)", reason):
        return (
            f"{path} holds more than tensors: reading it would run {found[1]}, which is not done. Save its state dict alone, "
            "with torch.save or as safetensors."
        )
    return f"{path} is not a file of weights. Give a .safetensors file, or one that torch.save wrote."


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _recognised_inside(content: Any, keys: Inside = ()) -> Iterator[tuple[Inside, str]]:
    """Yield where known models lie in a checkpoint, and which they are."""
    if not isinstance(content, Mapping):
        return
    if _is_state_dict(content) and (known := recognise(shapes_of(content))):
        yield keys, known
    for key, value in content.items():
        yield from _recognised_inside(value, (*keys, str(key)))


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Return the shape of each tensor."""
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


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
    """Load a published state dict into a module; on the meta device, only compare keys and shapes.

    Args:
        module: The module to load into.
        weights: The published state dict, unwrapped.
        layout: The published layout.
        source: Its origin, for the error.

    Raises:
        ConfigError: Keys are missing, unexpected or of another shape; the error names them.
    """
    ours = module.state_dict()
    wanted = {theirs: layout.shapes.get(theirs, tuple(ours[name].shape)) for theirs, name in layout.names.items()}
    refuse_misfits(weights, wanted, source=source, spare=layout.spare.keys())
    if not any(tensor.is_meta for tensor in ours.values()):
        module.load_state_dict(
            {name: weights[theirs].reshape(ours[name].shape) for theirs, name in layout.names.items()}
        )


def refuse_misfits(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Shape], *, source: str, spare: Collection[str] = ()
) -> None:
    """Refuse weights that do not have exactly the wanted keys and shapes.

    Args:
        weights: The published state dict.
        wanted: The shape of each key, in the published order.
        source: Its origin, for the error.
        spare: Keys that may be there and are not read.

    Raises:
        ConfigError: Keys are missing, unexpected or of another shape; the error names them, and what the weights look like.
    """
    known = {key: tensor for key, tensor in weights.items() if key not in spare}
    faults = {
        "missing": sorted(wanted.keys() - known.keys()),
        "unexpected": sorted(known.keys() - wanted.keys()),
        "wrongly shaped": [
            _misshaped(key, known[key], shape)
            for key, shape in wanted.items()
            if key in known and tuple(known[key].shape) != shape
        ],
    }
    if any(faults.values()):
        details = "; ".join(f"{len(keys)} {fault}: {_name(keys)}" for fault, keys in faults.items() if keys)
        seen = recognise(shapes_of(weights))
        raise ConfigError(
            f"{source} does not hold weights of this size. First difference: {_first_difference(known, wanted)}. In all, {details}. "
            + (f"The shapes are those of {seen}. " if seen else "No known model has these keys. ")
            + "Choose the size that it was trained with."
        )


def _first_difference(weights: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> str:
    for key, shape in wanted.items():
        if key not in weights:
            return f"{key} is missing"
        if tuple(weights[key].shape) != shape:
            return _misshaped(key, weights[key], shape)
    return f"{next(key for key in weights if key not in wanted)} is unexpected"


def _misshaped(key: str, tensor: Tensor, shape: Shape) -> str:
    return f"{key} is {tuple(tensor.shape)}, not {shape}"


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
