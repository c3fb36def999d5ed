"""A graph model of TensorFlow.js, read from its two files and run in torch: the operations of convolutional networks, no others.

Every image-like tensor is kept as torch keeps it, channels before rows. What the network is for is not known here.

Letters: B images · C channels · H W pixels.
"""

import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from alchemist_core.errors import ConfigError

# What is stored, and what it becomes.
_STORED = {"float16": ("<f2", torch.float32), "float32": ("<f4", torch.float32), "int32": ("<i4", torch.int64)}

Step = Callable[[Sequence[Any]], Tensor]


class Node(NamedTuple):
    """One operation: what it gives, what it reads, and what it does."""

    name: str
    inputs: Sequence[str]
    step: Step


class TfjsGraph:
    """A network in torch whose topology and weights TensorFlow.js wrote.

    Args:
        topology: The file `NAME.json`; the weights that it names lie beside it.
        outputs: Nodes that `run` returns; what they do not need is not read.
        device: Where it runs.

    Raises:
        ConfigError: The files are no such model, lack an output, or hold an operation that is not known here.
    """

    def __init__(self, topology: Path, outputs: Sequence[str], device: str = "cpu") -> None:
        try:
            model = json.loads(topology.read_text(encoding="utf-8"))
            nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
            self._weights = _read_weights(topology, model["weightsManifest"], device)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{topology} is no graph model of TensorFlow.js: {error!r}") from error
        if missing := [name for name in outputs if name not in nodes]:
            raise ConfigError(f"{topology} has no {', '.join(missing)}; give the model that has")
        self._outputs = outputs
        needed = _needed(nodes, outputs)
        self._input = next((node["name"] for node in needed if node["op"] == "Placeholder"), "")
        self._nodes = [
            Node(node["name"], node["input"], self._step(node)) for node in needed if node["op"] not in _GIVEN
        ]

    @torch.inference_mode()
    def run(self, pixels_BCHW: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return the outputs, channels before rows."""
        values: dict[str, Tensor] = {**self._weights, self._input: pixels_BCHW}
        for node in self._nodes:
            values[node.name] = node.step([values[name] for name in node.inputs])
        return [values[name] for name in self._outputs]

    def _step(self, node: dict[str, Any]) -> Step:
        operation, name = node["op"], node["name"]
        known = {*_STEPS, *_CONVOLUTIONS}
        if operation not in known:
            raise ConfigError(f"{name} is a {operation}, which is not known here; known are {', '.join(sorted(known))}")
        if not _is_as_known(node, self._weights):
            raise ConfigError(f"{name} is a {operation} of a kind that is not known here: {node.get('attr')}")
        return _convolution(node, self._weights) if operation in _CONVOLUTIONS else _STEPS[operation]


def _read_weights(topology: Path, manifest: Sequence[Mapping[str, Any]], device: str) -> dict[str, Tensor]:
    weights = {}
    for group in manifest:
        data = b"".join((topology.parent / Path(name).name).read_bytes() for name in group["paths"])
        start = 0
        for weight in group["weights"]:
            stored, kept = _STORED[weight.get("quantization", weight)["dtype"]]
            array = np.frombuffer(data, stored, prod(weight["shape"]), start).reshape(weight["shape"])
            start += array.nbytes
            weights[weight["name"]] = torch.tensor(array.astype(stored[1:]), dtype=kept, device=device)
        if start != len(data):
            raise ValueError(f"{len(data)} bytes of weights, {start} are named")
    return weights


def _needed(nodes: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
    """Order the nodes that the outputs need so that each comes after what it reads."""
    ordered: dict[str, Any] = {}
    waiting = list(outputs)
    while waiting:
        name = waiting[-1]
        missing = [each for each in nodes[name].get("input", ()) if each not in ordered]
        if not missing or name in ordered:
            ordered.setdefault(name, nodes[name])
            waiting.pop()
        waiting += [] if name in ordered else missing
    return list(ordered.values())


def _is_as_known(node: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Tell whether an operation is of the one kind that its step computes."""
    operation, attributes = node["op"], node.get("attr", {})
    last = weights.get(node["input"][-1])
    if operation in _CONVOLUTIONS:
        is_plain = set(attributes["dilations"]["list"]["i"]) == {"1"} and _fused(node) <= {"BiasAdd", "Relu"}
        return is_plain and b64decode(attributes["data_format"]["s"]) == b"NHWC"
    if operation == "ResizeBilinear":
        return not any(attributes.get(name, {}).get("b") for name in ("align_corners", "half_pixel_centers"))
    if operation in {"Mean", "ConcatV2"}:
        return last is not None and last.tolist() == ([1, 2] if operation == "Mean" else 3)
    # A vector would be added along the columns, where TensorFlow means channels.
    return all(weights[name].ndim == 0 for name in node["input"] if name in weights)


def _fused(node: Mapping[str, Any]) -> set[str]:
    return {b64decode(each).decode() for each in node["attr"].get("fused_ops", {}).get("list", {}).get("s", ())}


def _convolution(node: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Step:
    """Lay kernels as torch wants them, once; padding, strides and what is fused are those of the node."""
    attributes = node["attr"]
    fused = _fused(node)
    strides = tuple(int(each) for each in attributes["strides"]["list"]["i"][1:3])
    is_same = b64decode(attributes["padding"]["s"]).decode() == "SAME"
    kernel_HWIO = weights[node["input"][1]]
    size, n_inputs = tuple(kernel_HWIO.shape[:2]), kernel_HWIO.shape[2]
    is_by_channel = "Depthwise" in node["op"]
    kernel = kernel_HWIO.permute(2, 3, 0, 1).reshape(-1, 1, *size) if is_by_channel else kernel_HWIO.permute(3, 2, 0, 1)

    def step(values: Sequence[Tensor]) -> Tensor:
        pixels = _pad(values[0], size, strides) if is_same else values[0]
        bias = values[2] if len(values) > 2 else None
        found = functional.conv2d(pixels, kernel, bias, strides, groups=n_inputs if is_by_channel else 1)
        return functional.relu(found) if "Relu" in fused else found

    return step


def _pad(pixels_BCHW: Tensor, size: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Pad as TensorFlow's SAME does: where it cannot be even, more at the end."""
    pads: list[int] = []
    for side, window, stride in zip(pixels_BCHW.shape[:1:-1], size[::-1], strides[::-1], strict=True):
        total = max((-(-side // stride) - 1) * stride + window - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(pixels_BCHW, pads)


def _double(values: Sequence[Any]) -> Tensor:
    """Double both sides by TensorFlow's older bilinear rule: output 2i is input i, output 2i + 1 lies midway to the next."""
    pixels_BCHW, size = values[0], values[1].tolist()
    height, width = pixels_BCHW.shape[2:]
    if size != [2 * height, 2 * width]:
        raise ConfigError(f"a resizing from {height} × {width} to {size} is not known here: only to the double is")
    padded = functional.pad(pixels_BCHW, (0, 1, 0, 1), mode="replicate")
    grown = functional.interpolate(padded, (2 * height + 1, 2 * width + 1), mode="bilinear", align_corners=True)
    return grown[..., : 2 * height, : 2 * width]


_GIVEN = ("Const", "Placeholder")
_CONVOLUTIONS = ("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
_STEPS: dict[str, Step] = {
    "Add": lambda values: values[0] + values[1],
    "Mul": lambda values: values[0] * values[1],
    "Relu": lambda values: functional.relu(values[0]),
    "Relu6": lambda values: functional.relu6(values[0]),
    "Sigmoid": lambda values: torch.sigmoid(values[0]),
    "Identity": lambda values: values[0],
    "Mean": lambda values: values[0].mean((2, 3), keepdim=True),
    "ConcatV2": lambda values: torch.cat(list(values[:-1]), 1),
    "ResizeBilinear": _double,
}
