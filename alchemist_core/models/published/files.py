"""Reading weight files, local or on the hub, without running what is in them."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from alchemist_core.errors import ConfigError, DataError


def read_weights(source: str | Path, *wrapped_in: str) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        source: Path of a `.safetensors` or torch file, or `hf:ORG/NAME/FILE` on the Hugging Face hub.
        wrapped_in: Keys under which a training checkpoint holds it; a flat file needs none of them.

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
        raise DataError(f"{source} holds no state dict at its top or under {where}; give a file of weights")
    return dict(content)


def _locate(source: str) -> Path:
    if source.startswith("hf:"):
        return _fetch(source)
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"no file of weights at {source}; give a path, or hf:ORG/NAME/FILE")
    return path


def _fetch(source: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  local files need no hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    organisation, _, rest = source.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not file:
        raise ConfigError(f"{source} names no file; write hf:ORG/NAME/FILE")
    try:
        return Path(hf_hub_download(f"{organisation}/{name}", file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(f"{source} cannot be fetched: {error}; download the file and give its path") from error


def _read_weights(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        message = f"{path} cannot be read as tensors alone: {error}; save its state dict with torch.save or safetensors"
        raise DataError(message) from error
